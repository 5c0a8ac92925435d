// Requests that a device executes for executor daemon on a GPU: the lane hands over what is to be
// done and answers when it is. Nothing else of the session runs meanwhile.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "daemon/lane_session_impl.h"
#include "ipc/protocol.h"
#include "kernels/steps.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;
using ipc::Handle;

namespace {

// What the device is asked for and finds: the task's own, whatever becomes of the session.
struct Lists {
  std::vector<kernels::Page> pages;
  std::vector<kernels::Slot> slots;
  std::vector<kernels::Outcome> outcomes;
};

// That a worker died, hung or lost its context says nothing of the daemon, nor of time.
ipc::Status told_to_engines(ipc::Status status) {
  if (status) return status;
  const Errc code = status.error().code;
  if (code != Errc::daemon_away && code != Errc::timed_out && code != Errc::peer_violation) {
    return status;
  }
  return fail(Errc::io_error, "the daemon's executor on the GPU failed: " + status.error().text);
}

// Values that are none, in memory that a worker writes, count as nothing.
kernels::ResolveCounts count(const std::vector<kernels::Outcome>& outcomes,
                             std::uint64_t page_bytes) {
  std::array<std::uint64_t, 256> of{};
  for (const kernels::Outcome outcome : outcomes) ++of[static_cast<std::uint8_t>(outcome)];
  const auto number = [&](kernels::Outcome outcome) {
    return of[static_cast<std::uint8_t>(outcome)];
  };
  kernels::ResolveCounts counts;
  counts.hits = number(kernels::Outcome::hit);
  counts.fills = number(kernels::Outcome::filled);
  counts.no_slot = number(kernels::Outcome::no_slot);
  counts.absent = number(kernels::Outcome::absent);
  counts.lost = number(kernels::Outcome::lost);
  counts.pinned = number(kernels::Outcome::pinned);
  counts.invalid = number(kernels::Outcome::invalid);
  counts.filled_bytes = counts.fills * page_bytes;
  return counts;
}

// Blocks whose pins are looked for in one go, behind which others wait.
constexpr std::size_t kMostLooks = 64;
// What a device takes for a session without being counted as time that the session took.
constexpr std::chrono::seconds kLongWait{1};

}  // namespace

void LaneSession::Impl::begin_task(const wire::Submission& request, std::span<std::byte> reply) {
  task->waited_before = session->waited_for_device.exchange(Session::kWaits);
  task->begin = std::chrono::steady_clock::now();
  task->request = request;
  task->reply = reply;
  task->arena->post([task = task, wake = wake](DeviceClient& worker) {
    try {
      task->status = told_to_engines(task->work(worker));
    } catch (const std::bad_alloc&) {
      task->status = fail(Errc::no_memory, "the daemon had no memory for a request to a device");
    }
    task->work = nullptr;
    task->done.store(true, std::memory_order_release);
    wake();
  });
  task->handed_over = true;
}

LaneSession::Impl::Ran LaneSession::Impl::end_task() {
  const std::shared_ptr<DeviceTask> over = std::exchange(task, nullptr);
  task_status = std::move(over->status);
  const auto now = std::chrono::steady_clock::now();
  const bool excuses = !task_status || now - over->begin >= kLongWait;
  session->waited_for_device =
      excuses ? now.time_since_epoch() / std::chrono::nanoseconds(1) : over->waited_before;
  return go_on_with(over->request, over->reply, over->finish());
}

ipc::Result<LaneReply> LaneSession::Impl::begin_step_on_device(const SessionCache& cache,
                                                               std::uint32_t actor) {
  const auto enter = [arena = cache.on_device, actor](DeviceClient& worker) {
    return arena->enter_step(worker, actor);
  };
  const auto finish = [this, memory = cache.memory, actor, arena = cache.on_device,
                       opened = cache.memory->opened(actor)]() -> ipc::Result<LaneReply> {
    if (!task_status) return std::unexpected(task_status.error());
    if (!memory->owns_actor(session->id, actor) || memory->opened(actor) != opened) {
      return leave_closed_actor(arena, actor);
    }
    LaneActor& entered = actors[{memory.get(), actor}];
    const std::uint32_t active =
        kernels::load_acquire(&kernels::actor_line(memory->table(), actor)->active);
    entered.step = kernels::active_step(active);
    entered.in_step = true;
    return LaneReply{entered.step, 0, memory->frame_extents()};
  };
  return on_device(cache.on_device, enter, finish);
}

// Nobody else would end the step of an actor that was closed while it began.
ipc::Result<LaneReply> LaneSession::Impl::leave_closed_actor(
    const std::shared_ptr<ExecutorArena>& arena, std::uint32_t actor) {
  const auto leave = [arena, actor](DeviceClient& worker) -> ipc::Status {
    arena->leave_surely(worker, actor);
    return {};
  };
  const auto finish = [actor]() -> ipc::Result<LaneReply> {
    return fail(Errc::stale_handle,
                "actor " + std::to_string(actor) + " was closed while its step began");
  };
  return on_device(arena, leave, finish);
}

// If the device could not be told, the actor is still in its step, and the session may end it
// again.
ipc::Result<LaneReply> LaneSession::Impl::end_step_on_device(const SessionCache& cache,
                                                             std::uint32_t actor) {
  const auto leave = [arena = cache.on_device, actor](DeviceClient& worker) {
    return arena->leave_step(worker, actor);
  };
  const auto finish = [this, memory = cache.memory, actor]() -> ipc::Result<LaneReply> {
    if (!task_status) return std::unexpected(task_status.error());
    actors[{memory.get(), actor}].in_step = false;
    return LaneReply{};
  };
  return on_device(cache.on_device, leave, finish);
}

// Of `pages`, as gather() left them.
ipc::Result<LaneReply> LaneSession::Impl::resolve_on_device(const SessionCache& cache,
                                                            std::uint32_t actor,
                                                            std::span<std::byte> reply) {
  const auto lists = std::make_shared<Lists>();
  lists->pages = pages;
  lists->slots.resize(pages.size());
  lists->outcomes.resize(pages.size());
  const auto look_up = [lists, arena = cache.on_device, actor](DeviceClient& worker) {
    return arena->resolve(worker, actor, lists->pages, lists->slots, lists->outcomes);
  };
  const auto finish = [this, lists, cache, reply, actor,
                       start = std::chrono::steady_clock::now()]() -> ipc::Result<LaneReply> {
    if (!task_status) return std::unexpected(task_status.error());
    found_slots = std::move(lists->slots);
    found_outcomes = std::move(lists->outcomes);
    auto counts = count(found_outcomes, cache.memory->store().page_bytes);
    // As of its last step: then the device says so.
    const std::uint64_t used = kernels::load_relaxed(
        &kernels::actor_line(cache.memory->table(), actor)->counters.forecast_used);
    std::uint64_t& told = actors[{cache.memory.get(), actor}].forecast_used;
    if (used > told) counts.forecast_used = used - told;
    told = used;
    return end_resolve(cache, counts, start, reply);
  };
  return on_device(cache.on_device, look_up, finish);
}

ipc::Result<LaneReply> LaneSession::Impl::forecast_on_device(const SessionCache& cache,
                                                             kernels::Step min_age) {
  const auto actor = forecasts.actor_of(cache);
  if (!actor || pages.empty()) {
    forecasts.count_dropped(cache.id, pages.size());
    return LaneReply{};
  }
  const auto lists = std::make_shared<Lists>();
  lists->pages = pages;
  // What the device does not get to is dropped.
  lists->outcomes.assign(pages.size(), kernels::Outcome::no_slot);
  const auto bring_in = [lists, arena = cache.on_device, actor = *actor,
                         min_age](DeviceClient& worker) {
    return arena->forecast(worker, actor, lists->pages, min_age, lists->outcomes);
  };
  const auto finish = [this, lists, id = cache.id]() -> ipc::Result<LaneReply> {
    const auto counts = count(lists->outcomes, 0);
    forecasts.count_issued(counts.fills);
    forecasts.count_dropped(id, counts.no_slot + counts.lost + counts.invalid);
    if (counts.absent != 0) coordinator.call_mover();
    return LaneReply{};  // a hint; what failed is told to who cannot do without it
  };
  return on_device(cache.on_device, bring_in, finish);
}

ipc::Result<LaneReply> LaneSession::Impl::pin_on_device(LaneSequence& target, std::uint32_t index,
                                                        std::uint32_t actor,
                                                        std::span<std::byte> reply) {
  const kernels::HotTable& table = target.memory->table();
  const kernels::Block block = target.ids[index];
  if (target.is_sealed(index)) {
    return fail(Errc::wrong_state, "block " + std::to_string(index) + " is sealed");
  }
  const bool maybe_claimed = target.maybe_pinned.contains(index);
  const auto lists = std::make_shared<Lists>();
  lists->slots.assign(table.sizes.pages_per_block, kernels::kNoSlot);
  const auto claim = [lists, arena = target.on_device, actor, block,
                      maybe_claimed](DeviceClient& worker) {
    return arena->claim_pins(worker, actor, block, lists->slots, maybe_claimed);
  };
  const auto finish = [this, lists, reply, index, &target]() -> ipc::Result<LaneReply> {
    if (!task_status) {
      target.maybe_pinned.insert(index);
      return std::unexpected(task_status.error());
    }
    target.maybe_pinned.erase(index);
    if (lists->slots.front() == kernels::kNoSlot) return no_pins(lists->slots.size());
    std::memcpy(reply.data(), lists->slots.data(), lists->slots.size() * sizeof(kernels::Slot));
    target.pins[index] = std::move(lists->slots);
    return LaneReply{};
  };
  return on_device(target.on_device, claim, finish);
}

// The block is known by its key already. If its pins stay, nobody finds its pages in HBM: then they
// are sealed by an order, which waits for the device.
ipc::Result<LaneReply> LaneSession::Impl::seal_pins_on_device(LaneSequence& target,
                                                              std::uint32_t index,
                                                              std::uint32_t actor,
                                                              const LaneReply& sealed) {
  const auto lists = std::make_shared<Lists>();
  const auto pins = target.pins.find(index);
  lists->slots = std::move(pins->second);
  target.pins.erase(pins);
  const kernels::Block block = target.ids[index];
  const auto seal = [lists, arena = target.on_device, actor, block](DeviceClient& worker) {
    return arena->seal_pins(worker, actor, block, lists->slots);
  };
  const auto finish = [this, sealed, block, memory = target.memory]() -> ipc::Result<LaneReply> {
    if (!task_status) coordinator.seal_pins(*memory, {ipc::BlockId{block}});
    return sealed;
  };
  return on_device(target.on_device, seal, finish);
}

// After a restart. Blocks that a daemon of before published, and did not come to their pins; pins
// of private ones are looked for when a request needs them: the executor may not be there for long.
void LaneSession::Impl::adopt_on_device(LaneSequence& target, std::uint32_t first) {
  const kernels::HotTable& table = target.memory->table();
  std::vector<ipc::BlockId> published;
  for (std::uint32_t i = first; i < target.ids.size(); ++i) {
    if (target.is_sealed(i) || kernels::frame_of(table, target.ids[i]) != kernels::kNoFrame) {
      target.frames[i] = kernels::kNoFrame;
      published.push_back(ipc::BlockId{target.ids[i]});
    } else {
      target.not_looked_at.push_back(i);
      looks_for_pins = true;
    }
  }
  if (!published.empty()) coordinator.seal_pins(*target.memory, published);
}

// Only of what the request concerns: another arena may be out of reach.
std::optional<ipc::Result<LaneReply>> LaneSession::Impl::find_pins_for(
    const wire::Submission& request, std::span<std::byte> reply) {
  if (!looks_for_pins) return std::nullopt;
  const LaneSequence* the_one = nullptr;
  std::shared_ptr<CacheMemory> memory;  // or all of this arena
  switch (static_cast<wire::Op>(request.op())) {
    case wire::Op::seal:
    case wire::Op::tail_slots:
    case wire::Op::tail_copy:
      if (const auto found = sequence(request.handle())) the_one = *found;
      break;
    case wire::Op::resolve:
      if (const auto cache = session->cache(Handle::from_bits(request.handle()))) {
        memory = cache->memory;
      }
      break;
    default:
      return std::nullopt;
  }
  struct Found {
    std::uint32_t sequence;
    std::uint32_t index;
    kernels::Block block;
    std::vector<kernels::Slot> slots;
    bool looked = false;
  };
  const auto some = std::make_shared<std::vector<Found>>();
  std::shared_ptr<ExecutorArena> arena;
  bool more = false;
  for (std::uint32_t s = 0; s < sequences.size(); ++s) {
    const LaneSequence& target = sequences[s];
    more = more || !target.not_looked_at.empty();
    const bool concerns = the_one != nullptr ? &target == the_one : target.memory == memory;
    if (target.not_looked_at.empty() || !concerns) continue;
    arena = target.on_device;
    const std::uint32_t per_block = target.memory->table().sizes.pages_per_block;
    for (const std::uint32_t index : target.not_looked_at) {
      if (some->size() == kMostLooks) break;
      some->push_back(
          {s, index, target.ids[index], std::vector<kernels::Slot>(per_block, kernels::kNoSlot)});
    }
  }
  looks_for_pins = more;
  if (some->empty()) return std::nullopt;
  const auto find = [some, arena](DeviceClient& worker) -> ipc::Status {
    for (Found& one : *some) {
      if (auto ok = arena->find_pins(worker, one.block, one.slots); !ok) return ok;
      one.looked = true;
    }
    return {};
  };
  const auto finish = [this, some, request, reply]() -> ipc::Result<LaneReply> {
    for (Found& one : *some) {
      if (!one.looked) continue;
      LaneSequence& target = sequences[one.sequence];
      std::erase(target.not_looked_at, one.index);
      // Where hints find none there may be some still, of a claim that ended in between.
      if (std::ranges::find(one.slots, kernels::kNoSlot) == one.slots.end()) {
        target.pins[one.index] = std::move(one.slots);
      } else {
        target.maybe_pinned.insert(one.index);
      }
    }
    if (!task_status) return std::unexpected(task_status.error());
    return execute(request, reply);
  };
  return on_device(arena, find, finish);
}

// Pins that the client does not know, of a call that failed there: what is in them is not what it
// seals.
ipc::Result<LaneReply> LaneSession::Impl::drop_pins_and_seal(LaneSequence& target,
                                                             const wire::Submission& request,
                                                             std::span<std::byte> reply) {
  const kernels::Block block = target.ids[request.count()];
  // Whatever becomes of it, they are not to be relied upon.
  target.pins.erase(request.count());
  target.maybe_pinned.insert(request.count());
  const auto drop = [arena = target.on_device, block](DeviceClient& worker) {
    return arena->drop_pins(worker, block);
  };
  const auto finish = [this, request, reply, &target]() -> ipc::Result<LaneReply> {
    if (!task_status) return std::unexpected(task_status.error());
    target.maybe_pinned.erase(request.count());
    return execute(request, reply);
  };
  return on_device(target.on_device, drop, finish);
}

ipc::Result<LaneReply> LaneSession::Impl::copy_tail(const wire::Submission& request) {
  auto pinned = sequence(request.handle());
  if (!pinned) return std::unexpected(std::move(pinned.error()));
  auto framed = sequence(request.value());
  if (!framed) return std::unexpected(std::move(framed.error()));
  const LaneSequence& from = **pinned;
  const LaneSequence& to = **framed;
  const std::uint32_t index = request.count();
  if (!from.on_device || from.memory != to.memory) {
    return fail(Errc::not_supported,
                "blocks are copied so between sequences of one cache of executor daemon on a GPU");
  }
  auto actor = actor_of({from.cache, from.memory, wire::Executor::daemon}, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  const auto pins = from.pins.find(index);
  if (pins == from.pins.end() || index >= to.ids.size()) {
    return fail(Errc::wrong_state,
                "block " + std::to_string(index) + " has no pinned slots, or no counterpart");
  }
  if (to.is_sealed(index)) {
    return fail(Errc::wrong_state,
                "block " + std::to_string(index) + " is sealed, so its bytes can no longer change");
  }
  const bool to_frame = (request.flags() & ipc::kTailToFrame) != 0;
  const auto copy_it = [slots = pins->second, frame = to.frames[index], to_frame,
                        arena = from.on_device](DeviceClient& worker) {
    return arena->copy_block(worker, slots, frame, to_frame);
  };
  const auto finish = [this]() -> ipc::Result<LaneReply> {
    if (!task_status) return std::unexpected(task_status.error());
    return LaneReply{};
  };
  return on_device(from.on_device, copy_it, finish);
}

}  // namespace sluice::daemon
