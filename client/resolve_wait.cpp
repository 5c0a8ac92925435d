// Resolves that wait for blocks on NVMe: the absent pages are asked for again, at growing
// intervals, until they have come.
#include <algorithm>
#include <chrono>
#include <thread>

#include "client/actor.h"
#include "client/sequence.h"

namespace sluice::client::internal {

namespace {

// A read of NVMe takes some 100 us.
constexpr std::chrono::microseconds kFirstPause{50};
constexpr std::chrono::microseconds kLongestPause{2000};

// Pages of several lists that are absent, as lists of their own.
class AbsentPages {
 public:
  explicit AbsentPages(std::span<const PageList> from) {
    for (std::uint32_t list = 0; list < from.size(); ++list) {
      const std::size_t first = places_.size();
      for (std::uint32_t i = 0; i < from[list].count; ++i) {
        if (from[list].outcomes[i] == SLUICE_ABSENT) places_.push_back({list, i});
      }
      if (places_.size() > first) ends_.push_back(places_.size());
    }
    blocks_.resize(places_.size());
    slots_.resize(places_.size());
    outcomes_.resize(places_.size());
    std::size_t at = 0;
    for (const std::size_t end : ends_) {
      const PageList& original = from[places_[at].list];
      lists_.push_back({original.sequence, original.page, static_cast<std::uint32_t>(end - at),
                        &blocks_[at], &slots_[at], &outcomes_[at]});
      for (; at < end; ++at) blocks_[at] = original.blocks[places_[at].index];
    }
  }

  bool empty() const { return places_.empty(); }
  std::span<const PageList> lists() const { return lists_; }
  std::vector<std::uint32_t> ids() const {
    std::vector<std::uint32_t> ids;
    ids.reserve(blocks_.size());
    for (const PageList& list : lists_) {
      for (std::uint32_t i = 0; i < list.count; ++i)
        ids.push_back(list.sequence->id(list.blocks[i]));
    }
    return ids;
  }

  // Puts what was found into the lists that these pages are of.
  void tell(std::span<const PageList> to) const {
    for (std::size_t i = 0; i < places_.size(); ++i) {
      to[places_[i].list].slots[places_[i].index] = slots_[i];
      to[places_[i].list].outcomes[places_[i].index] = outcomes_[i];
    }
  }

 private:
  struct Place {
    std::uint32_t list;
    std::uint32_t index;
  };
  std::vector<Place> places_;
  std::vector<std::size_t> ends_;  // of the lists, in places_
  std::vector<std::uint32_t> blocks_;
  std::vector<std::int32_t> slots_;
  std::vector<std::uint8_t> outcomes_;
  std::vector<PageList> lists_;
};

// Lists that all have places for slots and outcomes, where the caller gave none.
class WholeLists {
 public:
  explicit WholeLists(std::span<const PageList> lists) : lists_(lists.begin(), lists.end()) {
    std::size_t pages = 0;
    for (const PageList& list : lists_) pages += list.count;
    slots_.resize(pages);
    outcomes_.resize(pages);
    std::size_t at = 0;
    for (PageList& list : lists_) {
      if (list.slots == nullptr) list.slots = slots_.data() + at;
      if (list.outcomes == nullptr) list.outcomes = outcomes_.data() + at;
      at += list.count;
    }
  }
  std::span<const PageList> lists() const { return lists_; }

 private:
  std::vector<PageList> lists_;
  std::vector<std::int32_t> slots_;
  std::vector<std::uint8_t> outcomes_;
};

}  // namespace

ipc::Status Actor::resolve_wait(std::span<const PageList> lists, ipc::Deadline until,
                                Counts& counts) {
  const WholeLists whole(lists);
  if (auto ok = resolve(whole.lists(), counts); !ok) return ok;
  auto pause = kFirstPause;
  while (counts.absent != 0 && ipc::Clock::now() < until) {
    const AbsentPages absent(whole.lists());
    if (absent.empty()) break;  // lost, or pinned by others
    std::this_thread::sleep_until(std::min(ipc::Clock::now() + pause, until));
    pause = std::min(pause * 3 / 2, kLongestPause);
    if (!asks_daemon()) {
      if (auto ok = cache_.map_extents_of(absent.ids()); !ok) return ok;
    }
    Counts again{};
    if (auto ok = resolve(absent.lists(), again); !ok) return ok;
    absent.tell(whole.lists());
    const std::uint64_t come = again.hits + again.misses + again.no_slot;
    counts.hits += again.hits;
    counts.misses += again.misses;
    counts.no_slot += again.no_slot;
    counts.bytes_filled += again.bytes_filled;
    counts.absent -= std::min(counts.absent, come);
    // They were counted when they were absent first.
    cache_.stats().absent.fetch_sub(come + again.absent, std::memory_order_relaxed);
  }
  return {};
}

}  // namespace sluice::client::internal
