// A small hot table with its arena and frames, for tests: memory that children of a fork share, and
// bytes of pages that follow from the content of their block.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels/copy_page.h"
#include "kernels/frame_log.h"
#include "kernels/page_store.h"
#include "kernels/resolve.h"
#include "kernels/table.h"

namespace sluice::kernels::test {

// Zeroed memory, shared with children.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes) : bytes_(bytes) {
    at_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at_ == MAP_FAILED) throw std::runtime_error("no memory");
  }
  ~SharedMemory() { munmap(at_, bytes_); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  void* data() const { return at_; }
  std::byte* bytes() const { return static_cast<std::byte*>(at_); }
  std::size_t size() const { return bytes_; }

 private:
  void* at_ = nullptr;
  std::size_t bytes_;
};

// Eight bytes of a page: different for every content, page and place.
inline std::uint64_t page_chunk(std::uint64_t content, std::uint32_t page_in_block,
                                std::uint64_t chunk) {
  return (content * 0x9E3779B97F4A7C15u) ^ ((page_in_block + 1) * 0xC2B2AE3D27D4EB4Fu) ^
         (chunk * 0x165667B19E3779F9u);
}

inline std::vector<std::uint64_t> page_content(std::uint64_t content, std::uint32_t page_in_block,
                                               std::uint64_t page_bytes) {
  std::vector<std::uint64_t> chunks(page_bytes / 8);
  for (std::size_t i = 0; i < chunks.size(); ++i) chunks[i] = page_chunk(content, page_in_block, i);
  return chunks;
}

// Whether bytes [from, to) of the page at `at` are what they must be. Not instrumented under tsan,
// like copy_page and for the same reason: somebody may be writing the same bytes again.
#ifdef SLUICE_TSAN
__attribute__((no_sanitize("thread"), noinline))
#endif
inline bool
holds_content(const std::byte* at, std::uint64_t content, std::uint32_t page_in_block,
              std::uint64_t from, std::uint64_t to) {
  const auto* chunks = reinterpret_cast<const volatile std::uint64_t*>(at);
  for (std::uint64_t i = from / 8; i < to / 8; ++i) {
    const std::uint64_t chunk = (content * 0x9E3779B97F4A7C15u) ^
                                ((page_in_block + 1) * 0xC2B2AE3D27D4EB4Fu) ^
                                (i * 0x165667B19E3779F9u);
    if (chunks[i] != chunk) return false;
  }
  return true;
}

struct PoolShape {
  std::uint32_t slots = 16;
  std::uint32_t blocks = 16;
  std::uint32_t pages_per_block = 4;
  std::uint32_t actors = 4;
  std::uint32_t frames = 16;
  std::uint32_t log_capacity = kMinLogCapacity;
  std::uint32_t hint_capacity = kMinHintCapacity;
  std::uint64_t page_bytes = 64;
};

inline TableSizes sizes_of(const PoolShape& shape) {
  return {.slots = shape.slots,
          .blocks = shape.blocks,
          .pages_per_block = shape.pages_per_block,
          .actors = shape.actors,
          .log_capacity = shape.log_capacity,
          .hint_capacity = shape.hint_capacity};
}

class Pool {
 public:
  explicit Pool(const PoolShape& with)
      : shape(with),
        table_memory(table_bytes(sizes_of(with))),
        arena(with.slots * with.page_bytes),
        frames(with.frames * with.pages_per_block * with.page_bytes),
        current(with.blocks),
        frames_ready(with.frames) {
    table = format_table(table_memory.data(), sizes_of(with));
    log.current = current.data();
    store.arena = arena.bytes();
    store.frames = frames.bytes();
    store.page_bytes = with.page_bytes;
    store.frame_stride = with.page_bytes * with.pages_per_block;
    store.slots = with.slots;
    store.frames_ready = &frames_ready;
  }

  Page page(Block block, std::uint32_t page_in_block) const {
    return page_number(table, block, page_in_block);
  }

  std::byte* page_of_frame(Frame frame, std::uint32_t page_in_block) {
    return frames.bytes() + frame * store.frame_stride + page_in_block * store.page_bytes;
  }

  void write_frame(Frame frame, std::uint64_t content) {
    for (std::uint32_t i = 0; i < shape.pages_per_block; ++i) {
      const auto chunks = page_content(content, i, shape.page_bytes);
      copy_page(page_of_frame(frame, i), reinterpret_cast<const std::byte*>(chunks.data()),
                shape.page_bytes);
    }
  }

  // Block `b` is in frame `b` with content `b + 1`, for all of them.
  void place_all_blocks() {
    for (Block block = 0; block < shape.blocks; ++block) {
      write_frame(block, block + 1);
      append_log(table, log, block, block);
    }
  }

  // After place_all_blocks().
  bool slot_holds_placed(Slot slot, Page page) const {
    return slot_holds(slot, block_of(table, page) + 1, page_in_block(table, page));
  }

  bool slot_holds(Slot slot, std::uint64_t content, std::uint32_t page_in_block) const {
    return holds_content(slot_bytes(store, slot), content, page_in_block, 0, shape.page_bytes);
  }

  PoolShape shape;
  SharedMemory table_memory;
  SharedMemory arena;
  SharedMemory frames;
  std::vector<std::uint64_t> current;
  std::uint32_t frames_ready;
  HotTable table;
  PageStore store;
  FrameLogWriter log;
};

struct Resolved {
  std::vector<Slot> slots;
  std::vector<Outcome> outcomes;
  ResolveCounts counts;
};

inline Resolved resolve_pages(const Pool& pool, std::uint32_t actor, Step step,
                              const std::vector<Page>& pages, const BlockSet& own = {}) {
  Resolved result;
  result.slots.resize(pages.size());
  result.outcomes.resize(pages.size());
  result.counts = resolve(pool.table, pool.store, actor, step,
                          {.pages = pages.data(),
                           .count = static_cast<std::uint32_t>(pages.size()),
                           .slots = result.slots.data(),
                           .outcomes = result.outcomes.data(),
                           .own = own});
  return result;
}

}  // namespace sluice::kernels::test
