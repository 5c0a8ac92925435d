// An actor: one stream of work in a cache, and the executor that runs its steps and resolves.
//
// Thread-safety: one thread at a time per actor.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/cache.h"
#include "client/channel.h"
#include "client/enqueued.h"
#include "client/plan.h"
#include "client/sluice.h"
#include "ipc/error.h"

namespace sluice::client::internal {

class Sequence;

// One list of a resolve; see sluice_page_list.
struct PageList {
  Sequence* sequence = nullptr;
  std::uint32_t page = 0;
  std::uint32_t count = 0;
  const std::uint32_t* blocks = nullptr;
  std::int32_t* slots = nullptr;
  std::uint8_t* outcomes = nullptr;
};

using Counts = sluice_resolve_counts;

// A resolve that was started: requests under way, or (executor direct) done already.
struct Operation {
  struct Part {
    Channel::Ticket ticket;
    std::size_t first = 0;  // lists of this request
    std::size_t end = 0;
    bool waiting = false;
  };
  std::vector<PageList> lists;
  std::vector<Part> parts;
  std::shared_ptr<Link> link;  // on which the parts are under way; null: to be started again
  ipc::Deadline deadline{};    // of waiting for a daemon that is away
  Counts counts{};
  std::uint64_t forecast_used = 0;     // hits that a forecast had brought in
  std::uint64_t forecast_late = 0;     // misses that one had announced
  std::uint64_t forecast_issued = 0;   // pages that forecasts brought in since the last resolve
  std::uint64_t forecast_dropped = 0;  // and that they did not
};

class Actor {
 public:
  // Opens an actor of the cache's executor. Errors: limit_reached.
  static ipc::Result<std::unique_ptr<Actor>> open(Cache& cache);
  virtual ~Actor();

  ipc::Status close();

  ipc::Status begin_step();
  ipc::Status end_step();
  ipc::Status resolve(std::span<const PageList> lists, Counts& counts);
  // The same, and again for the pages that are absent, until they have come or it is too late.
  // Errors: those of resolve, not_supported (GPU).
  ipc::Status resolve_wait(std::span<const PageList> lists, ipc::Deadline until, Counts& counts);
  ipc::Result<std::unique_ptr<Operation>> start(std::span<const PageList> lists);
  // On timed_out the operation stays as it is: call again.
  ipc::Status finish(Operation& operation, ipc::Deadline deadline);
  ipc::Status forecast(std::span<const PageList> lists, std::uint64_t deadline_us,
                       std::uint32_t confidence);

  // Pins slots for all pages of a private block; used by Sequence. Errors: no_slot, wrong_state.
  ipc::Result<std::vector<std::int32_t>> pin(const Sequence& sequence, std::uint32_t block);
  // The block of these pins was sealed; its pages become ordinary ones. The block's id is in use
  // until that has passed.
  virtual ipc::Result<Pending> unpin(std::uint32_t id, const std::vector<std::int32_t>& slots) = 0;

  // Waits until the device has begun the actor's step, so that no step that is enqueued later can
  // have what somebody withdraws from now on: graces go by the log that a step has applied when it
  // begins. Errors: wrong_state (its stream is being captured), io_error.
  virtual ipc::Status await_begin() { return {}; }

  // Of a cache on a GPU, where actors alone can touch slots: copies the bytes of a block's pinned
  // slots to the frame of the same block of `to`, which is private and pinned
  // (Cache::wait_pinned_frame); the frame is in use until that has passed. Errors: not_supported
  // (host backend), wrong_state (its stream is being captured).
  virtual ipc::Result<Pending> copy_to_frame(const Sequence& from, std::uint32_t block,
                                             const Sequence& to);
  // The other way, of its own frame; returns when the bytes are there. Errors: also those of
  // Cache::wait_pinned_frame.
  virtual ipc::Status copy_to_slots(const Sequence& of, std::uint32_t block);

  // See sluice_actor_set_stream and sluice_plan_create. Errors: not_supported (host backend), ...
  ipc::Status set_stream(const StreamRef& stream);
  ipc::Result<std::unique_ptr<Plan>> make_plan(const PlanOptions& options);

  Cache& cache() const { return cache_; }
  std::uint32_t index() const { return index_; }  // among those of the cache
  bool in_step() const { return in_step_; }

 protected:
  Actor(Cache& cache, std::uint32_t index) : cache_(cache), index_(index) { ++cache.users(); }

 private:
  // Whether its steps are requests to the daemon. Else they go on without one.
  virtual bool asks_daemon() const { return false; }
  virtual ipc::Status do_begin_step() = 0;
  virtual ipc::Status do_end_step() = 0;
  virtual ipc::Status do_start(Operation& operation) = 0;
  virtual ipc::Status do_finish(Operation& operation, ipc::Deadline deadline) = 0;
  virtual ipc::Status do_forecast(std::span<const PageList> lists, std::uint64_t deadline_us,
                                  std::uint32_t confidence) = 0;
  // Nobody will finish it.
  virtual void do_abandon(Operation& /*operation*/) {}
  virtual ipc::Result<std::vector<std::int32_t>> do_pin(const Sequence& sequence,
                                                        std::uint32_t block) = 0;
  virtual ipc::Status do_set_stream(const StreamRef& stream);
  virtual ipc::Result<std::unique_ptr<Plan>> do_make_plan(const PlanOptions& options);
  // The actor is in no step, and about to go.
  virtual ipc::Status do_close() { return {}; }

  ipc::Status check_lists(std::span<const PageList> lists);
  ipc::Status check_in_step() const;
  void note_whether_answered(const ipc::Status& status);
  void account(const Operation& operation);

  Cache& cache_;
  std::uint32_t index_;
  bool in_step_ = false;
  bool uncertain_ =
      false;           // a step's begin or end was not answered: the daemon may think we are in one
  Operation scratch_;  // of resolve, so that a step allocates nothing
};

// The executors of the host backend; that of a GPU is made by DeviceCache.
std::unique_ptr<Actor> make_remote_actor(Cache& cache, std::uint32_t index);
std::unique_ptr<Actor> make_direct_actor(Cache& cache, std::uint32_t index);

}  // namespace sluice::client::internal
