// Steps of the actors that the daemon runs.
#include <string>
#include <utility>

#include "daemon/lane_session_impl.h"
#include "kernels/steps.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;
using ipc::Handle;

ipc::Result<SessionCache> LaneSession::Impl::cache_of(const wire::Submission& request,
                                                      wire::Executor executor) {
  auto cache = session->cache(Handle::from_bits(request.handle()));
  if (!cache) return cache;
  if (cache->executor != executor) {
    return fail(Errc::wrong_state,
                "this cache was opened for executor direct: its steps and "
                "resolves run in the client");
  }
  return cache;
}

ipc::Result<LaneActor*> LaneSession::Impl::actor_of(const SessionCache& cache, std::uint32_t actor,
                                                    bool in_step) {
  if (!cache.memory->owns_actor(session->id, actor)) {
    return fail(Errc::stale_handle,
                "actor " + std::to_string(actor) + " is not one of this session");
  }
  LaneActor& found = actors[{cache.memory.get(), actor}];
  if (const std::uint64_t opened = cache.memory->opened(actor); found.opened != opened) {
    // A seat of before a restart may be in a step, which its session goes on with; any other is
    // idle now.
    const kernels::ActorLine& line = *kernels::actor_line(cache.memory->table(), actor);
    const std::uint32_t active = kernels::load_acquire(&line.active);
    found = {opened, kernels::is_active(active), kernels::active_step(active),
             kernels::load_relaxed(&line.counters.forecast_used)};
  }
  if (found.in_step != in_step) {
    return fail(Errc::wrong_state, in_step ? "the actor is in no step; begin one first"
                                           : "the actor is in a step already; end it first");
  }
  return &found;
}

ipc::Result<LaneReply> LaneSession::Impl::begin_step(const wire::Submission& request) {
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto actor = actor_of(*cache, request.actor(), false);
  if (!actor) return std::unexpected(std::move(actor.error()));
  if (cache->on_device) return begin_step_on_device(*cache, request.actor());
  (*actor)->step = kernels::enter_step(cache->memory->table(), request.actor());
  (*actor)->in_step = true;
  return LaneReply{(*actor)->step, 0, cache->memory->frame_extents()};
}

ipc::Result<LaneReply> LaneSession::Impl::end_step(const wire::Submission& request) {
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto actor = actor_of(*cache, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  if (cache->on_device) return end_step_on_device(*cache, request.actor());
  kernels::leave_step(cache->memory->table(), request.actor());
  (*actor)->in_step = false;
  return LaneReply{};
}

}  // namespace sluice::daemon
