// The direct executor: this process looks pages up and fills slots, on the table it shares with the
// daemon.
#include <algorithm>
#include <string>

#include "client/actor.h"
#include "client/sequence.h"
#include "kernels/forecast.h"
#include "kernels/pins.h"
#include "kernels/resolve.h"
#include "kernels/steps.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;

namespace {

class DirectActor final : public Actor {
 public:
  DirectActor(Cache& cache, std::uint32_t index) : Actor(cache, index) {}

  ipc::Result<Pending> unpin(std::uint32_t id, const std::vector<std::int32_t>& slots) override {
    kernels::seal_pins(table(), id, step_, slots.data());
    return nullptr;
  }

 private:
  const kernels::HotTable& table() const { return cache().table(); }

  ipc::Status do_begin_step() override {
    step_ = kernels::enter_step(table(), index());
    return {};
  }

  ipc::Status do_end_step() override {
    kernels::leave_step(table(), index());
    return {};
  }

  // The pages of the lists that are no pinned slots of ours, in order.
  void gather(std::span<const PageList> lists) {
    std::size_t most = 0;
    for (const PageList& list : lists) most += list.count;
    if (pages_.size() < most) pages_.resize(most);
    kernels::Page* to = pages_.data();
    for (const PageList& list : lists) {
      const Sequence& sequence = *list.sequence;
      const bool pins = sequence.has_pins();
      const std::uint32_t* const blocks = list.blocks;
      const std::uint32_t count = list.count;
      const kernels::Page first = kernels::page_number(table(), 0, list.page);
      for (std::uint32_t i = 0; i < count; ++i) {
        if (pins && sequence.pinned(blocks[i]) != nullptr) continue;
        *to++ = first + sequence.id(blocks[i]);
      }
    }
    gathered_ = static_cast<std::uint32_t>(to - pages_.data());
  }

  // A list that can take its results from the kernel directly: a single one without pins, the usual
  // call.
  static const PageList* lone_list(const Operation& operation) {
    if (operation.lists.size() != 1) return nullptr;
    const PageList& list = operation.lists[0];
    return list.slots == nullptr || list.sequence->has_pins() ? nullptr : &list;
  }

  ipc::Status do_start(Operation& operation) override {
    gather(operation.lists);
    const PageList* const lone = lone_list(operation);
    kernels::ResolveList list;
    list.pages = pages_.data();
    list.count = gathered_;
    if (lone != nullptr) {
      list.slots = lone->slots;
      list.outcomes = reinterpret_cast<kernels::Outcome*>(lone->outcomes);
    } else {
      slots_.resize(gathered_);
      outcomes_.resize(gathered_);
      list.slots = slots_.data();
      list.outcomes = outcomes_.data();
    }
    const kernels::ResolveCounts counts =
        kernels::resolve(table(), cache().store(), index(), step_, list);
    operation.counts.hits += counts.hits;
    operation.counts.misses += counts.fills;
    operation.counts.no_slot += counts.no_slot;
    operation.counts.absent += counts.absent + counts.lost + counts.pinned + counts.invalid;
    operation.counts.bytes_filled += counts.filled_bytes;
    operation.forecast_used += counts.forecast_used;
    if (lone == nullptr) {
      scatter(operation);
    } else if (lone->outcomes != nullptr && counts.pinned + counts.invalid != 0) {
      for (std::uint32_t i = 0; i < lone->count; ++i) {
        lone->outcomes[i] = static_cast<std::uint8_t>(
            kernels::told(static_cast<kernels::Outcome>(lone->outcomes[i])));
      }
    }
    cache().stats().forecast_wasted_bytes.store(
        kernels::load_relaxed(&table().header->forecast_wasted) * cache().geometry().page_bytes,
        std::memory_order_relaxed);
    return {};
  }

  void scatter(Operation& operation) {
    std::size_t at = 0;
    for (const PageList& list : operation.lists) {
      const bool pins = list.sequence->has_pins();
      for (std::uint32_t i = 0; i < list.count; ++i) {
        const auto* pinned = pins ? list.sequence->pinned(list.blocks[i]) : nullptr;
        std::int32_t slot = 0;
        auto outcome = static_cast<std::uint8_t>(SLUICE_HIT);
        if (pinned != nullptr) {
          slot = (*pinned)[list.page];
          ++operation.counts.hits;
        } else {
          slot = slots_[at];
          outcome = static_cast<std::uint8_t>(kernels::told(outcomes_[at]));
          ++at;
        }
        if (list.slots != nullptr) list.slots[i] = slot;
        if (list.outcomes != nullptr) list.outcomes[i] = outcome;
      }
    }
  }

  ipc::Status do_finish(Operation&, ipc::Deadline) override { return {}; }

  ipc::Status do_forecast(std::span<const PageList> lists, std::uint64_t /*deadline_us*/,
                          std::uint32_t confidence) override {
    gather(lists);
    kernels::ForecastList list;
    list.pages = pages_.data();
    list.count = gathered_;
    list.budget_bytes = kForecastBudgetBytes;
    list.min_age = kernels::forecast_min_age(confidence);
    const kernels::ForecastCounts counts =
        kernels::forecast(table(), cache().store(), index(), step_, list);
    CacheStats& stats = cache().stats();
    stats.forecast_issued.fetch_add(counts.issued, std::memory_order_relaxed);
    stats.forecast_dropped.fetch_add(counts.dropped, std::memory_order_relaxed);
    return {};
  }

  ipc::Result<std::vector<std::int32_t>> do_pin(const Sequence& sequence,
                                                std::uint32_t block) override {
    std::vector<std::int32_t> slots(cache().geometry().pages_per_block);
    if (!kernels::claim_pins(table(), cache().slots(), sequence.id(block), step_, slots.data())) {
      return fail(Errc::no_slot, "the arena has no " + std::to_string(slots.size()) +
                                     " slots that running steps do not use; end a step, or give "
                                     "the cache more HBM");
    }
    return slots;
  }

  kernels::Step step_ = 0;
  std::vector<kernels::Page> pages_;  // the first gathered_ are those of the call at hand
  std::uint32_t gathered_ = 0;
  std::vector<kernels::Slot> slots_;
  std::vector<kernels::Outcome> outcomes_;
};

}  // namespace

std::unique_ptr<Actor> make_direct_actor(Cache& cache, std::uint32_t index) {
  return std::make_unique<DirectActor>(cache, index);
}

}  // namespace sluice::client::internal
