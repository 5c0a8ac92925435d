// What a lane keeps of a session, and the operations on it: lane_session.cpp takes requests and
// answers them, lane_session_sequences.cpp, _steps.cpp and _resolve.cpp execute them, and
// lane_session_device.cpp has them executed on a device.
//
// Thread-safety: the lane's thread only.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/device_executor.h"
#include "daemon/forecast_queue.h"
#include "daemon/lane_session.h"
#include "daemon/session.h"
#include "daemon/session_end.h"
#include "ipc/error.h"
#include "ipc/ids.h"
#include "ipc/request_memory.h"
#include "ipc/ring.h"
#include "ipc/untrusted.h"
#include "ipc/validated.h"
#include "ipc/wire_generated.h"
#include "kernels/resolve.h"
#include "kernels/table.h"

namespace sluice::daemon {

// What a request gives back, besides what it writes into the reply area.
struct LaneReply {
  std::uint64_t value0 = 0;
  std::uint64_t value1 = 0;
  std::uint32_t frame_extents = 0;
};

struct LaneSequence {
  std::uint32_t generation = 0;  // 0: free
  std::shared_ptr<CacheMemory> memory;
  ipc::CacheId cache;
  ipc::wire::Executor executor = ipc::wire::Executor::daemon;  // as SessionCache
  std::shared_ptr<ExecutorArena> on_device;                    // likewise
  std::vector<std::uint32_t> ids;
  std::vector<std::uint32_t> frames;  // as ids: of private blocks; kNoFrame of sealed ones
  std::unordered_map<std::uint32_t, std::vector<kernels::Slot>> pins;  // by block index
  std::unordered_set<std::uint32_t> maybe_pinned;  // on a device: a claim failed, or did not end
  std::vector<std::uint32_t>
      not_looked_at;  // on a device, after a restart: blocks that may have pins

  void be_of(const SessionCache& its_cache) {
    memory = its_cache.memory;
    cache = its_cache.id;
    executor = its_cache.executor;
    on_device = its_cache.on_device;
  }
  bool is_sealed(std::uint32_t index) const { return frames[index] == kernels::kNoFrame; }
  void add(const residency::BlockRef& block, bool sealed) {
    ids.push_back(block.id.value);
    frames.push_back(sealed ? kernels::kNoFrame : block.frame.value);
  }
  void put(std::uint32_t index, const residency::BlockRef& block, bool sealed) {
    ids[index] = block.id.value;
    frames[index] = sealed ? kernels::kNoFrame : block.frame.value;
  }
};

// A step of an actor that the daemon runs.
struct LaneActor {
  std::uint64_t opened = 0;  // which opening of the seat this is about
  bool in_step = false;
  kernels::Step step = 0;
  std::uint64_t forecast_used = 0;  // of its line's count, that the session was told, on a device
};

// A resolve that is not over: the pages that it misses are brought in slice by slice.
struct RunningResolve {
  ipc::wire::Submission request;
  std::span<std::byte> reply;
  SessionCache cache;
  kernels::Step step = 0;
  kernels::ResolveList list;
  kernels::Resolving progress;
  std::chrono::steady_clock::time_point start;
};

// What a device does for a session, which waits for it. Both functions own what they use, or use
// what belongs to the session: the lane keeps the session until `done`.
struct DeviceTask {
  ipc::wire::Submission request;
  std::span<std::byte> reply;
  std::shared_ptr<ExecutorArena> arena;
  std::function<ipc::Status(DeviceClient& worker)> work;  // on the executor's thread
  std::function<ipc::Result<LaneReply>()> finish;         // then on the lane's
  ipc::Status status;
  std::chrono::steady_clock::time_point begin;
  std::int64_t waited_before = 0;  // as Session::waited_for_device
  bool handed_over = false;        // to the executor, which will be done some time
  std::atomic<bool> done{false};
};

struct LaneSession::Impl {
  Impl(std::shared_ptr<Session> its_session, Coordinator& its_coordinator,
       std::function<void()> its_wake)
      : session(std::move(its_session)),
        coordinator(its_coordinator),
        wake(std::move(its_wake)),
        requests(session->memory.submission_ring()),
        completions(session->memory.completion_ring()),
        copier(session->memory.request_memory()),
        resolve_time(coordinator.resolve_histogram(session->tenant)),
        forecasts(session->id, coordinator) {}

  using Ran = std::expected<void, SessionEnd>;
  Ran run(const ipc::wire::Submission& request);
  // What execute(), or the end of what a device did, has left to do: or the answer.
  Ran go_on_with(const ipc::wire::Submission& request, std::span<std::byte> reply,
                 const ipc::Result<LaneReply>& done);
  // A slice of the resolve that is running.
  Ran go_on();
  Ran answer(const ipc::wire::Submission& request, std::span<std::byte> area,
             const ipc::Result<LaneReply>& done);
  ipc::Result<LaneReply> execute(const ipc::wire::Submission& request, std::span<std::byte> reply);

  ipc::Result<LaneReply> open(const ipc::wire::Submission& request, std::span<std::byte> reply,
                              bool more);
  void match_stored(ipc::CacheId cache, ipc::Handle sequence, const residency::KeyView& keys);
  ipc::Result<LaneReply> adopt(const ipc::wire::Submission& request, std::span<std::byte> reply);
  void find_pins(LaneSequence& target, std::uint32_t first);
  ipc::Result<LaneReply> extend(const ipc::wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<LaneReply> fork(const ipc::wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<LaneReply> truncate(const ipc::wire::Submission& request);
  ipc::Result<LaneReply> release(const ipc::wire::Submission& request);
  ipc::Result<LaneReply> seal(const ipc::wire::Submission& request, std::span<std::byte> reply);
  void drop_pins(LaneSequence& target, std::uint32_t index);
  ipc::Result<LaneReply> pin(const ipc::wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<LaneReply> begin_step(const ipc::wire::Submission& request);
  ipc::Result<LaneReply> end_step(const ipc::wire::Submission& request);
  ipc::Result<LaneReply> begin_resolve(const ipc::wire::Submission& request,
                                       std::span<std::byte> reply);
  LaneReply end_resolve(const SessionCache& cache, const kernels::ResolveCounts& found,
                        std::chrono::steady_clock::time_point start, std::span<std::byte> reply);
  ipc::wire::ResolveCounts take_results(const SessionCache& cache,
                                        const kernels::ResolveCounts& counts);
  ipc::Result<LaneReply> forecast(const ipc::wire::Submission& request);

  // Has what execute() was asked done on a device: it returns what this does, and the answer
  // follows when `finish` gives it. That may do the same, if there is more to do.
  template <class Work, class Finish>
  ipc::Result<LaneReply> on_device(const std::shared_ptr<ExecutorArena>& arena, Work&& work,
                                   Finish&& finish) {
    auto made = std::make_shared<DeviceTask>();
    made->arena = arena;
    made->work = std::forward<Work>(work);
    made->finish = std::forward<Finish>(finish);
    task = std::move(made);
    return LaneReply{};
  }
  void begin_task(const ipc::wire::Submission& request, std::span<std::byte> reply);
  Ran end_task();
  ipc::Result<LaneReply> begin_step_on_device(const SessionCache& cache, std::uint32_t actor);
  ipc::Result<LaneReply> leave_closed_actor(const std::shared_ptr<ExecutorArena>& arena,
                                            std::uint32_t actor);
  ipc::Result<LaneReply> end_step_on_device(const SessionCache& cache, std::uint32_t actor);
  ipc::Result<LaneReply> resolve_on_device(const SessionCache& cache, std::uint32_t actor,
                                           std::span<std::byte> reply);
  ipc::Result<LaneReply> forecast_on_device(const SessionCache& cache, kernels::Step min_age);
  ipc::Result<LaneReply> pin_on_device(LaneSequence& target, std::uint32_t index,
                                       std::uint32_t actor, std::span<std::byte> reply);
  ipc::Result<LaneReply> seal_pins_on_device(LaneSequence& target, std::uint32_t index,
                                             std::uint32_t actor, const LaneReply& sealed);
  void adopt_on_device(LaneSequence& target, std::uint32_t first);
  // Whether pins must be found before the request is executed; then what that returns.
  std::optional<ipc::Result<LaneReply>> find_pins_for(const ipc::wire::Submission& request,
                                                      std::span<std::byte> reply);
  ipc::Result<LaneReply> drop_pins_and_seal(LaneSequence& target,
                                            const ipc::wire::Submission& request,
                                            std::span<std::byte> reply);
  ipc::Result<LaneReply> copy_tail(const ipc::wire::Submission& request);

  ipc::Result<std::span<const std::byte>> copy(const ipc::wire::Submission& request) {
    return copier.copy(ipc::Untrusted(request.offset()), ipc::Untrusted(request.length()),
                       session->memory.request_memory().size());
  }
  ipc::Result<residency::KeyView> keys_of(ipc::ByteCursor& cursor, std::uint32_t key_bytes,
                                          std::uint32_t count);
  ipc::Result<LaneSequence*> sequence(std::uint64_t bits);
  LaneSequence& add_sequence(ipc::Handle handle);
  ipc::Result<SessionCache> cache_of(const ipc::wire::Submission& request,
                                     ipc::wire::Executor executor);
  ipc::Result<LaneActor*> actor_of(const SessionCache& cache, std::uint32_t actor, bool in_step);
  ipc::Result<std::uint64_t> gather(const SessionCache& cache,
                                    const ipc::wire::Submission& request);

  std::shared_ptr<Session> session;
  Coordinator& coordinator;
  const std::function<void()> wake;
  ipc::SubmissionConsumer requests;
  ipc::CompletionProducer completions;
  ipc::RequestCopier copier;
  Histogram& resolve_time;
  std::vector<LaneSequence> sequences;  // by handle index
  bool looks_for_pins = false;          // there may be one with not_looked_at
  // By arena, which may be gone, and actor; LaneActor::opened tells whose entry it is.
  std::map<std::pair<const CacheMemory*, std::uint32_t>, LaneActor> actors;
  std::vector<residency::BlockRef> blocks;  // scratch
  std::vector<residency::ForkedBlock> copies;
  ForecastQueue forecasts;
  // Of the request at hand: slots that are known because they are pinned, and the pages of the
  // rest.
  std::vector<kernels::Slot> slots;
  std::vector<std::uint8_t> outcomes;
  std::vector<kernels::Page> pages;
  std::vector<kernels::Slot> found_slots;
  std::vector<kernels::Outcome> found_outcomes;
  std::optional<RunningResolve> running;  // then nothing else of the session runs
  std::shared_ptr<DeviceTask> task;       // likewise
  ipc::Status task_status;                // of the one that is over, for its `finish`
  std::size_t named = 0;                  // pages, by the requests of this turn
};

// The error of a reply area that is too small; sizes in bytes.
std::unexpected<ipc::Error> small_reply(std::size_t need, std::size_t have);
// The error of a pin for which the arena has no slots.
std::unexpected<ipc::Error> no_pins(std::size_t pages);

}  // namespace sluice::daemon
