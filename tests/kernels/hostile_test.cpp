// Whatever a process of the tenant writes into the shared table, the others do not crash, do not
// read or write outside of their memory, and do not loop. Under asan and ubsan.

#include <gtest/gtest.h>

#include <random>

#include "kernels/counters.h"
#include "kernels/drop.h"
#include "kernels/forecast.h"
#include "kernels/grace.h"
#include "kernels/pins.h"
#include "tests/kernels/pool.h"

namespace sluice::kernels::test {
namespace {

// Heap copies of arena and frames, so that asan sees a byte outside of them.
struct GuardedStore {
  explicit GuardedStore(Pool& pool)
      : arena(pool.shape.slots * pool.shape.page_bytes),
        frames(pool.shape.frames * pool.store.frame_stride) {
    pool.store.arena = arena.data();
    pool.store.frames = frames.data();
  }
  std::vector<std::byte> arena;
  std::vector<std::byte> frames;
};

void use_everything(Pool& pool, std::mt19937_64& random) {
  std::vector<Page> pages(random() % 40);
  for (Page& page : pages) page = static_cast<Page>(random() % (pool.table.pages + 2));
  const Step step = enter_step(pool.table, 0);
  const Resolved got = resolve_pages(pool, 0, step, pages);
  for (const Slot slot : got.slots) {
    ASSERT_TRUE(slot == kNoSlot || static_cast<std::uint32_t>(slot) < pool.shape.slots);
  }
  forecast(pool.table, pool.store, 0, step,
           {.pages = pages.data(),
            .count = static_cast<std::uint32_t>(pages.size()),
            .budget_bytes = 1000});
  const auto page = static_cast<Page>(random() % pool.table.pages);
  const Slot slot = claim_pinned(pool.table, pool.store.slots, page, step);
  find_pinned(pool.table, page);
  raise_pin(pool.table, slot, page, step);
  seal_pin(pool.table, slot, page, step);
  drop_pin(pool.table, slot, page);
  leave_step(pool.table, 0);
  const std::uint64_t blocks = random();
  drop_blocks(pool.table, {&blocks, 16});
  drop_pins(pool.table, {&blocks, 16});
  append_log(pool.table, pool.log, static_cast<Block>(random() % 16),
             static_cast<Frame>(random() % 20));
  Grace grace;
  grace.start(pool.table, pool.log.end);
  grace.poll(pool.table);
  WantedBlock wanted[4];
  collect_wanted(pool.table, wanted, 4);
  read_counters(pool.table);
}

TEST(Hostile, ATableOfRandomBytesHarmsNobody) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    Pool pool({});
    const GuardedStore store(pool);
    auto* words = static_cast<std::uint64_t*>(pool.table_memory.data());
    for (std::size_t i = 0; i < pool.table_memory.size() / 8; ++i) words[i] = random();
    for (int i = 0; i < 5; ++i) use_everything(pool, random);
  }
}

TEST(Hostile, RandomStoresBetweenCallsHarmNobody) {
  std::mt19937_64 random(8);
  Pool pool({});
  const GuardedStore store(pool);
  auto* words = static_cast<std::uint64_t*>(pool.table_memory.data());
  for (int round = 0; round < 20000; ++round) {
    for (std::uint64_t stores = random() % 30; stores != 0; --stores) {
      // Half of them into the header, where every word matters.
      const std::size_t range =
          random() % 2 == 0 ? sizeof(TableHeader) / 8 : pool.table_memory.size() / 8;
      words[random() % range] = random() % 3 == 0 ? random() : random() % 64;
    }
    use_everything(pool, random);
  }
}

}  // namespace
}  // namespace sluice::kernels::test
