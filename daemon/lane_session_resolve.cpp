// Lists of pages: resolves, which run in slices, and forecasts, which wait.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "daemon/lane_session_impl.h"
#include "kernels/forecast.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;
using ipc::Untrusted;

namespace {

// Pages that one resolve may name: request memory bounds it too.
constexpr std::uint32_t kMaxPagesPerRequest = 1u << 24;
constexpr std::uint32_t kMaxListsPerRequest = 1u << 20;
// What a resolve brings in before the other sessions of the lane get their turn: a request may name
// as many pages as fit into request memory.
constexpr std::uint64_t kResolveSliceBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kMaxForecastDeadlineUs = 60'000'000;

}  // namespace

// Reads the lists of a request: `slots` gets an entry per page, with the slot if the page is pinned
// by this session, and `pages` the others. Returns how many there are in all. A page is named by
// its place in a sequence of this session and never by its id.
ipc::Result<std::uint64_t> LaneSession::Impl::gather(const SessionCache& cache,
                                                     const wire::Submission& request) {
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  auto lists = Untrusted(request.count()).in_range(0, kMaxListsPerRequest, "number of lists");
  if (!lists) return std::unexpected(std::move(lists.error()));
  ipc::ByteCursor cursor(*bytes);
  auto specs = cursor.take_array<wire::ListSpec>(*lists, "ListSpec");
  if (!specs) return std::unexpected(std::move(specs.error()));
  const std::uint32_t per_block = cache.memory->shape().table.pages_per_block;
  pages.clear();
  slots.clear();
  for (const wire::ListSpec& list : *specs) {
    auto indices = cursor.take_array<std::uint32_t>(list.count(), "block indices");
    if (!indices) return std::unexpected(std::move(indices.error()));
    if (slots.size() + indices->size() > kMaxPagesPerRequest) {
      return fail(Errc::list_too_long,
                  "more than " + std::to_string(kMaxPagesPerRequest) + " pages in one request");
    }
    auto found = sequence(list.sequence());
    if (!found) return std::unexpected(std::move(found.error()));
    const LaneSequence& target = **found;
    if (target.memory != cache.memory) {
      return fail(Errc::invalid_argument, "the sequence of a list is of another cache");
    }
    if (list.page_in_block() >= per_block) {
      return fail(Errc::invalid_argument, "page " + std::to_string(list.page_in_block()) +
                                              " of a block of " + std::to_string(per_block));
    }
    const kernels::Page first =
        kernels::page_number(cache.memory->table(), 0, list.page_in_block());
    for (const std::uint32_t index : *indices) {
      if (index >= target.ids.size()) {
        return fail(Errc::invalid_argument, "block " + std::to_string(index) +
                                                " of a sequence of " +
                                                std::to_string(target.ids.size()));
      }
      kernels::Slot pinned = kernels::kNoSlot;
      if (!target.pins.empty()) {
        const auto pins = target.pins.find(index);
        if (pins != target.pins.end()) pinned = pins->second[list.page_in_block()];
      }
      slots.push_back(pinned);
      if (pinned == kernels::kNoSlot) {
        pages.push_back(first + target.ids[index]);
      }
    }
  }
  named += slots.size();
  return slots.size();
}

ipc::Result<LaneReply> LaneSession::Impl::begin_resolve(const wire::Submission& request,
                                                        std::span<std::byte> reply) {
  const auto start = std::chrono::steady_clock::now();
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto actor = actor_of(*cache, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  auto count = gather(*cache, request);
  if (!count) return std::unexpected(std::move(count.error()));
  const std::size_t need = sizeof(wire::ResolveCounts) + *count * (sizeof(std::int32_t) + 1);
  if (reply.size() < need) return small_reply(need, reply.size());
  if (cache->on_device) return resolve_on_device(*cache, request.actor(), reply);

  found_slots.resize(pages.size());
  found_outcomes.resize(pages.size());
  RunningResolve& begun =
      running.emplace(RunningResolve{request, reply, *cache, (*actor)->step, {}, {}, start});
  begun.list.pages = pages.data();
  begun.list.count = static_cast<std::uint32_t>(pages.size());
  begun.list.slots = found_slots.data();
  begun.list.outcomes = found_outcomes.data();
  kernels::begin_resolve(cache->memory->table(), cache->memory->store(), begun.step, begun.list,
                         begun.progress);
  return LaneReply{};
}

std::expected<void, SessionEnd> LaneSession::Impl::go_on() {
  const CacheMemory& memory = *running->cache.memory;
  const std::uint64_t slice =
      std::max<std::uint64_t>(1, kResolveSliceBytes / memory.store().page_bytes);
  const bool over = kernels::resolve_part(
      memory.table(), memory.store(), running->request.actor(), running->step, running->list,
      running->progress,
      static_cast<std::uint32_t>(std::min<std::uint64_t>(slice, running->list.count)));
  if (!over) return {};
  const LaneReply reply =
      end_resolve(running->cache, running->progress.counts, running->start, running->reply);
  const RunningResolve done = *std::exchange(running, std::nullopt);
  return answer(done.request, done.reply, reply);
}

// What was found for `pages` is in found_slots and found_outcomes.
LaneReply LaneSession::Impl::end_resolve(const SessionCache& cache,
                                         const kernels::ResolveCounts& found,
                                         std::chrono::steady_clock::time_point start,
                                         std::span<std::byte> reply) {
  const wire::ResolveCounts counts = take_results(cache, found);
  std::byte* const to = reply.data();
  std::memcpy(to, &counts, sizeof(counts));
  if (!slots.empty()) {
    std::byte* const to_slots = to + sizeof(counts);
    std::memcpy(to_slots, slots.data(), slots.size() * sizeof(std::int32_t));
    std::memcpy(to_slots + slots.size() * sizeof(std::int32_t), outcomes.data(), outcomes.size());
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  resolve_time.observe(took.count());
  return LaneReply{0, cache.memory->forecast_wasted(), cache.memory->frame_extents()};
}

// Puts what was found for `pages` into the places of `slots` that are open, and into `outcomes`.
wire::ResolveCounts LaneSession::Impl::take_results(const SessionCache& cache,
                                                    const kernels::ResolveCounts& counts) {
  outcomes.assign(slots.size(), static_cast<std::uint8_t>(kernels::Outcome::hit));
  std::size_t next = 0;
  std::uint32_t late = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] != kernels::kNoSlot) continue;
    slots[i] = found_slots[next];
    outcomes[i] = static_cast<std::uint8_t>(kernels::told(found_outcomes[next]));
    if (found_outcomes[next] == kernels::Outcome::filled &&
        forecasts.overtaken(cache.id, pages[next])) {
      ++late;
    }
    ++next;
  }
  if (counts.absent != 0) coordinator.call_mover();
  if (late != 0) coordinator.forecast(cache.id, residency::ForecastEvent::late, late);
  const ForecastQueue::Counts forecast = forecasts.take_counts();
  const std::size_t pinned = slots.size() - pages.size();
  return wire::ResolveCounts(
      static_cast<std::uint32_t>(counts.hits + pinned), static_cast<std::uint32_t>(counts.fills),
      static_cast<std::uint32_t>(counts.no_slot),
      static_cast<std::uint32_t>(counts.absent + counts.lost + counts.pinned + counts.invalid),
      counts.filled_bytes, static_cast<std::uint32_t>(counts.forecast_used), late, forecast.issued,
      forecast.dropped);
}

ipc::Result<LaneReply> LaneSession::Impl::forecast(const wire::Submission& request) {
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto count = gather(*cache, request);
  if (!count) return std::unexpected(std::move(count.error()));
  if (cache->on_device) {
    return forecast_on_device(*cache, kernels::forecast_min_age(request.flags()));
  }
  const auto deadline = std::min<std::uint64_t>(request.value(), kMaxForecastDeadlineUs);
  forecasts.add(*cache, pages, kernels::forecast_min_age(request.flags()),
                std::chrono::steady_clock::now() + std::chrono::microseconds(deadline));
  return LaneReply{};
}

}  // namespace sluice::daemon
