// One thread against a model that is too simple to be wrong, for many random operations from a
// seed.

#include <gtest/gtest.h>

#include <iostream>
#include <list>
#include <map>
#include <random>
#include <set>
#include <unordered_map>

#include "kernels/drop.h"
#include "kernels/grace.h"
#include "kernels/pins.h"
#include "tests/kernels/pool.h"

namespace sluice::kernels::test {
namespace {

// What must be true of the slots, whatever the policy: each slot has one page, pages of this step
// stay, pins stay, contents are right.
class Reference {
 public:
  explicit Reference(std::uint64_t seed)
      : random_(seed),
        pool_({.slots = 40, .blocks = 32, .pages_per_block = 3, .frames = 32, .page_bytes = 32}) {
    for (Block block = 0; block < 32; ++block) place(block);
    pool_.table.header->clock = static_cast<std::uint32_t>(random_());
    pool_.table.header->swept = pool_.table.header->clock & kStepMask;
  }

  void operate() {
    switch (random_() % 64) {
      case 0:
        return retire();
      case 1:
        return pin();
      case 2:
        return unpin();
      case 3:
        return change_limit();
      default:
        return resolve_list();
    }
  }

 private:
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  Block block(Page page) const { return block_of(pool_.table, page); }
  std::uint32_t in_block(Page page) const { return page_in_block(pool_.table, page); }

  void place(Block block) {
    content_[block] = ++last_content_;
    pool_.write_frame(block, last_content_);
    append_log(pool_.table, pool_.log, block, block);
  }

  void resolve_list() {
    std::vector<Page> pages(1 + below(30));
    for (Page& page : pages) page = below(pool_.table.pages);
    const Step step = enter_step(pool_.table, 0);
    std::map<Page, Slot> got_slot;
    std::map<Slot, Page> holds;
    for (int round = 0; round < 2; ++round) {
      const Resolved got = resolve_pages(pool_, 0, step, pages);
      const ResolveCounts& c = got.counts;
      ASSERT_EQ(c.hits + c.fills + c.no_slot + c.absent + c.pinned + c.invalid, pages.size());
      for (std::size_t i = 0; i < pages.size(); ++i) {
        const Page page = pages[i];
        ASSERT_EQ(got.outcomes[i] == Outcome::pinned, pins_.contains(page));
        if (got.slots[i] == kNoSlot) continue;
        ASSERT_EQ(got_slot.emplace(page, got.slots[i]).first->second, got.slots[i]);
        ASSERT_EQ(holds.emplace(got.slots[i], page).first->second, page);
        ASSERT_TRUE(pool_.slot_holds(got.slots[i], content_[block(page)], in_block(page)));
      }
      if (pins_.empty() && limit_of(pool_.table) == 40) {
        ASSERT_EQ(c.no_slot, 0u) << "the pool is larger than the list";
      }
      if (round == 1) {
        ASSERT_EQ(c.fills, 0u);
      }
    }
    leave_step(pool_.table, 0);
  }

  void retire() {
    const Block block = below(32);
    append_log(pool_.table, pool_.log, block, kNoFrame);
    Grace grace;
    grace.start(pool_.table, pool_.log.end);
    ASSERT_TRUE(grace.poll(pool_.table));
    const std::uint64_t bits = std::uint64_t{1} << block;
    drop_blocks(pool_.table, {&bits, 32});
    for (Slot slot = 0; slot < 40; ++slot) {
      const Word word = pool_.table.words[slot];
      ASSERT_TRUE(is_free(word) || this->block(page_of(word)) != block);
    }
    for (std::uint32_t i = 0; i < 3; ++i) pins_.erase(pool_.page(block, i));
    place(block);
  }

  void pin() {
    const Page page = below(pool_.table.pages);
    if (pins_.contains(page) || pins_.size() > 8) return;
    const std::uint64_t bits = std::uint64_t{1} << block(page);
    for (const auto& [other, slot] : pins_) {
      if (block(other) == block(page)) return;
    }
    drop_blocks(pool_.table, {&bits, 32});
    const Step step = enter_step(pool_.table, 0);
    const Slot slot = claim_pinned(pool_.table, pool_.store.slots, page, step);
    leave_step(pool_.table, 0);
    ASSERT_NE(slot, kNoSlot);
    ASSERT_LT(static_cast<std::uint32_t>(slot), limit_of(pool_.table));
    const auto chunks = page_content(content_[block(page)], in_block(page), 32);
    copy_page(slot_bytes(pool_.store, slot), reinterpret_cast<const std::byte*>(chunks.data()), 32);
    pins_[page] = slot;
  }

  void unpin() {
    if (pins_.empty()) return;
    const auto [page, slot] = *pins_.begin();
    const Step step = enter_step(pool_.table, 0);
    ASSERT_EQ(find_pinned(pool_.table, page), slot);
    ASSERT_TRUE(raise_pin(pool_.table, slot, page, step));
    ASSERT_TRUE(below(2) == 0 ? seal_pin(pool_.table, slot, page, step)
                              : drop_pin(pool_.table, slot, page));
    leave_step(pool_.table, 0);
    pins_.erase(page);
  }

  void change_limit() { set_limit(pool_.table, below(2) == 0 ? 40 : 20 + below(20)); }

  std::mt19937_64 random_;
  Pool pool_;
  std::map<Block, std::uint64_t> content_;
  std::map<Page, Slot> pins_;
  std::uint64_t last_content_ = 0;
};

// Lists, not pages: thirty times as many pages.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kOperations = 2'000;
#else
constexpr int kOperations = 20'000;
#endif

TEST(Reference, RandomOperationsAgreeWithTheModel) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Reference reference(seed);
    for (int i = 0; i < kOperations; ++i) {
      reference.operate();
      ASSERT_FALSE(testing::Test::HasFatalFailure()) << "seed " << seed << ", operation " << i;
    }
  }
}

// Hits of an exact LRU list of `capacity` pages.
class ExactLru {
 public:
  explicit ExactLru(std::size_t capacity) : capacity_(capacity) {}
  bool touch(Page page) {
    const auto found = where_.find(page);
    const bool hit = found != where_.end();
    if (hit) order_.erase(found->second);
    order_.push_front(page);
    where_[page] = order_.begin();
    if (order_.size() > capacity_) {
      where_.erase(order_.back());
      order_.pop_back();
    }
    return hit;
  }

 private:
  std::size_t capacity_;
  std::list<Page> order_;
  std::unordered_map<Page, std::list<Page>::iterator> where_;
};

// Lists that drift, as those of sparse attention do: most pages of a step are those of the step
// before.
TEST(Reference, HitRateIsWithinOnePercentOfExactLru) {
  constexpr std::uint32_t kList = 512;
  constexpr std::uint32_t kSlots = kList * 3 / 2;
  std::mt19937_64 random(5);
  Pool pool({.slots = kSlots, .blocks = 1024, .pages_per_block = 4, .frames = 1024});
  pool.place_all_blocks();
  ExactLru lru(kSlots);
  std::vector<Page> pages(kList);
  const auto draw = [&] {  // skewed: low numbers more often
    const double u = static_cast<double>(random() >> 11) * 0x1p-53;
    return static_cast<Page>(u * u * u * pool.table.pages);
  };
  for (Page& page : pages) page = draw();
  std::uint64_t hits = 0;
  std::uint64_t exact = 0;
  std::uint64_t all = 0;
  for (int i = 0; i < 2000; ++i) {
    for (Page& page : pages) {
      if (random() % 5 == 0) page = draw();
    }
    hits += resolve_pages(pool, 0, enter_step(pool.table, 0), pages).counts.hits;
    leave_step(pool.table, 0);
    for (const Page page : pages) exact += lru.touch(page) ? 1 : 0;
    all += pages.size();
  }
  const double rate = static_cast<double>(hits) / static_cast<double>(all);
  const double best = static_cast<double>(exact) / static_cast<double>(all);
  std::cout << "hit rate " << rate << ", exact LRU " << best << "\n";
  EXPECT_GT(rate, best - 0.01);
}

}  // namespace
}  // namespace sluice::kernels::test
