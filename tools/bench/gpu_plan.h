// What `sluice-bench gpu` resolves: shapes of pages, lists that miss a known part in each step, and
// the targets.
//
// A list's pages come into use in a random order; a step uses a window of that order, and the next
// step's window begins a little later, so that exactly the pages that came in are misses, once the
// order is so long that a page is gone before its turn comes again. Pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::tools {

enum class ListItems : std::uint8_t { rows, blocks };

// One page of a shape is what a list of `items` names; page_shapes() have one layer.
struct PageShape {
  const char* name = nullptr;
  std::uint32_t head_dim = 0;
  std::uint32_t dtype_bytes = 1;
  std::uint32_t kv_heads = 1;
  std::uint32_t planes = 1;
  std::uint32_t block_tokens = 64;
  ListItems kind = ListItems::blocks;
  std::uint32_t items = 0;  // of a list
  std::uint32_t lists_per_sequence = 1;
  std::uint32_t layers = 1;

  std::uint64_t block_bytes() const {
    return std::uint64_t{head_dim} * dtype_bytes * kv_heads * planes * block_tokens * layers;
  }
  std::uint32_t pages_per_block() const {
    return layers * (kind == ListItems::rows ? block_tokens : lists_per_sequence);
  }
  std::uint64_t page_bytes() const { return block_bytes() / pages_per_block(); }
  std::uint64_t frame_stride() const { return (block_bytes() + 4095) / 4096 * 4096; }
  // Pages of a list in a block.
  std::uint32_t list_pages_per_block() const { return kind == ListItems::rows ? block_tokens : 1; }
};

// 656 B rows; 16 KiB + 16 KiB of a KV head; 64 KiB of a layer.
std::span<const PageShape> page_shapes();

// Slots of an arena for so many steps' pages: whole extents of a device's memory.
std::uint64_t arena_slots(const PageShape& shape, std::uint32_t sequences, double steps);

struct StepPlan {
  std::uint32_t items = 0;     // of a list
  std::uint32_t distinct = 0;  // of these
  std::uint32_t fresh = 0;     // of these, that the step before did not use
  std::uint32_t steps = 1;     // until the lists are the first ones again
  std::uint32_t universe = 0;  // pages that a list uses in all of them
};

// `pool`: slots per list.
StepPlan plan_steps(std::uint32_t items, double misses, double duplicates, double pool);

struct StepList {
  std::vector<std::uint32_t> items;  // pages, ascending
  std::vector<std::uint32_t> fresh;  // those that came in, ascending
};

class Windows {
 public:
  Windows(const StepPlan& plan, std::uint64_t seed);
  // `count` items, at least plan.fresh; of a duplicated plan all.
  StepList list(std::uint32_t step, std::uint32_t list, std::uint32_t count) const;

 private:
  StepPlan plan_;
  std::uint64_t seed_;
  std::vector<std::uint32_t> order_;
};

// What copying may take, over a gather whose sources and places are known.
inline constexpr double kCopyFactor = 1.05;

// The bounds of a launch, in microseconds.
struct ResolveTarget {
  std::uint32_t sequences = 1;
  std::uint32_t copying_ctas = 0;  // 0: as the library chooses
  bool flushed = false;
};
// `copy_only`: of the best number of CTAs, or with as many as may copy. 0: no misses.
double resolve_limit(const ResolveTarget& target, double copy_only);

}  // namespace sluice::tools
