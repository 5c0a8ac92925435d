#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "tools/bench/benchmark.h"
#include "tools/bench/node.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::uint32_t kPageBytes = 64 << 10;
constexpr std::uint32_t kPagesPerCall = 1024;
constexpr std::uint32_t kCalls = 4;  // that find nothing of each other in the arena
constexpr std::uint32_t kSlots = 2 * kPagesPerCall;
constexpr double kRoundBytes = double{kPageBytes} * kPagesPerCall;

// Memory of many pages, made as the host backend makes extents and mapped as the library maps them.
class Memory {
 public:
  static ipc::Result<Memory> make(std::uint32_t pages) {
    const std::uint64_t bytes = std::uint64_t{pages} * kPageBytes;
    auto fd = ipc::create_memfd("sluice-bench", bytes, ipc::Populate::yes, ipc::HugePages::attempt);
    if (!fd) return std::unexpected(std::move(fd.error()));
    auto range = ipc::ReservedRange::reserve(bytes, "addresses for pages");
    if (!range) return std::unexpected(std::move(range.error()));
    auto mapped = range->map_at(0, fd->get(), 0, bytes, ipc::Access::read_write, "pages");
    if (!mapped) return std::unexpected(std::move(mapped.error()));
    std::memset(range->data(), 1, bytes);
    return Memory(std::move(*range));
  }
  std::byte* page(std::uint32_t page) const {
    return range_.data() + std::size_t{page} * kPageBytes;
  }

 private:
  explicit Memory(ipc::ReservedRange range) : range_(std::move(range)) {}
  ipc::ReservedRange range_;
};

// `count` numbers in random order.
std::vector<std::uint32_t> shuffled(std::uint32_t count, Random& random) {
  std::vector<std::uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0U);
  std::ranges::shuffle(numbers, random);
  return numbers;
}

// The calls of a cycle read disjoint pages, and the arena holds half of a cycle: nothing is there
// any more when its turn comes again.
class Misses {
 public:
  Misses(client::Sequence& sequence, client::Actor& actor, std::vector<std::uint32_t> blocks)
      : sequence_(sequence), actor_(actor), blocks_(std::move(blocks)), slots_(kPagesPerCall) {}

  ipc::Result<double> round() {
    const client::PageList list{sequence_.get(), 0,
                                kPagesPerCall,   &blocks_[std::size_t{call_} * kPagesPerCall],
                                slots_.data(),   nullptr};
    call_ = (call_ + 1) % kCalls;
    const Stopwatch watch;
    if (auto ok = to_ipc(actor_.begin_step()); !ok) return std::unexpected(std::move(ok.error()));
    auto counts = to_ipc(actor_.resolve({&list, 1}));
    if (!counts) return std::unexpected(std::move(counts.error()));
    if (auto ok = to_ipc(actor_.end_step()); !ok) return std::unexpected(std::move(ok.error()));
    const double seconds = watch.seconds();
    if (counts->misses != kPagesPerCall) {
      return fail(Errc::wrong_state, "only " + std::to_string(counts->misses) + " of " +
                                         std::to_string(kPagesPerCall) + " pages were misses");
    }
    return kRoundBytes / seconds;
  }

 private:
  client::Sequence& sequence_;
  client::Actor& actor_;
  std::vector<std::uint32_t> blocks_;
  std::vector<std::int32_t> slots_;
  std::uint32_t call_ = 0;
};

ipc::Result<double> copy_round(const Memory& from, const Memory& to, Random& random) {
  const auto sources = shuffled(kCalls * kPagesPerCall, random);
  const auto targets = shuffled(kSlots, random);
  const Stopwatch watch;
  for (std::uint32_t i = 0; i < kPagesPerCall; ++i) {
    std::memcpy(to.page(targets[i]), from.page(sources[i]), kPageBytes);
  }
  return kRoundBytes / watch.seconds();
}

}  // namespace

ipc::Result<Figures> resolve_miss_64k(const Setting& setting) {
  CacheSpec spec{.name = "miss", .head_dim = 256, .block_tokens = 64};
  spec.blocks = kCalls * kPagesPerCall;
  spec.slots = kSlots;
  auto node = Node::open(setting, spec);
  if (!node) return std::unexpected(std::move(node.error()));
  if (spec.blocks < kCalls * kPagesPerCall) return fail(Errc::no_memory, node->note());
  auto cache = node->open_cache(spec, SLUICE_EXECUTOR_DIRECT);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto opened = to_ipc(cache->open_sequence({nullptr, sizeof(Key), 0, 0}));
  if (!opened) return std::unexpected(std::move(opened.error()));
  client::Sequence& sequence = opened->sequence;
  if (auto ok = append_sealed(sequence, 0, spec.blocks); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  auto actor = to_ipc(cache->open_actor());
  if (!actor) return std::unexpected(std::move(actor.error()));
  auto from = Memory::make(kCalls * kPagesPerCall);
  if (!from) return std::unexpected(std::move(from.error()));
  auto to = Memory::make(kSlots);
  if (!to) return std::unexpected(std::move(to.error()));

  Random random(kSeed);
  Misses misses(sequence, *actor, shuffled(spec.blocks, random));
  for (std::uint32_t i = 0; i < kCalls; ++i) {  // every page of both tiers was touched
    if (auto warm = misses.round(); !warm) return std::unexpected(std::move(warm.error()));
  }
  const std::array<RoundFunction, 2> sides = {
      [&] { return misses.round(); },
      [&] { return copy_round(*from, *to, random); },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0], (*series)[1], {}, setting.scale == 1 ? "" : "not scaled"};
}

}  // namespace sluice::tools
