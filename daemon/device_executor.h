// Executor daemon on a GPU: who resolves for sessions that do not do it in streams of their own.
//
// Each tenant has a device worker of its own on each GPU that it uses so, in the tenant's own MPS
// server, and a thread here that asks it one thing after another: lanes hand over what is to be
// done and go on with their other sessions. A worker that dies is replaced, and what it was asked
// is asked again; all requests may be (device_worker/arena.h, and rule 2 of the hot table: a fill
// may be begun anew by anybody).
//
// Thread-safety: any thread, unless it says otherwise.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "daemon/device_client.h"
#include "ipc/error.h"
#include "ipc/mapping.h"
#include "kernels/resolve.h"
#include "kernels/steps.h"
#include "kernels/table.h"

namespace sluice::daemon {

class CacheMemory;

class DeviceExecutor {
 public:
  explicit DeviceExecutor(DeviceClient::Options options);
  ~DeviceExecutor();

  // In turn, on the executor's thread; it may ask the worker. Dropped after stop().
  using Job = std::move_only_function<void(DeviceClient& worker)>;
  void post(Job job);
  // Returns when no job runs and none will; the one that runs fails soon. Not from a job.
  void stop();

  // ---- as DeviceClient
  void on_start(std::function<void(pid_t)> listener) { worker_.on_start(std::move(listener)); }
  DeviceHealth health() const { return worker_.health(); }
  void look_after() { worker_.look_after(); }

 private:
  void run();

  DeviceClient worker_;
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::thread thread_;
};

// An arena in which an executor resolves. The worker has it mapped, and the cache's DRAM pinned,
// from the first request until this object goes.
class ExecutorArena {
 public:
  // Errors: invalid_layout (blocks of more pages than fit into a list), no_memory, limit_reached.
  static ipc::Result<std::shared_ptr<ExecutorArena>> make(std::shared_ptr<DeviceExecutor> executor,
                                                          std::shared_ptr<CacheMemory> memory);
  ~ExecutorArena();
  ExecutorArena(const ExecutorArena&) = delete;
  ExecutorArena& operator=(const ExecutorArena&) = delete;

  void post(DeviceExecutor::Job job) { executor_->post(std::move(job)); }

  // ---- from jobs. Numbers are the table's. Errors: those of DeviceClient::in_arena.

  ipc::Status enter_step(DeviceClient& worker, std::uint32_t actor);
  ipc::Status leave_step(DeviceClient& worker, std::uint32_t actor);
  // The same; if the worker cannot be told, an order is given, and nobody has the actor until it is
  // done.
  void leave_surely(DeviceClient& worker, std::uint32_t actor);
  // The actor is in a step. `slots` and `outcomes` are as long as `pages`.
  ipc::Status resolve(DeviceClient& worker, std::uint32_t actor,
                      std::span<const kernels::Page> pages, std::span<kernels::Slot> slots,
                      std::span<kernels::Outcome> outcomes);
  // The actor, one of its own, is idle.
  ipc::Status forecast(DeviceClient& worker, std::uint32_t actor,
                       std::span<const kernels::Page> pages, kernels::Step min_age,
                       std::span<kernels::Outcome> outcomes);
  // `slots` has an entry for each page of a block; kNoSlot in all of them: there was no room.
  // `maybe_claimed`: some may be pinned, by a claim that failed; they are given up first.
  ipc::Status claim_pins(DeviceClient& worker, std::uint32_t actor, kernels::Block block,
                         std::span<kernels::Slot> slots, bool maybe_claimed);
  // Those that are pinned already; kNoSlot where none is.
  ipc::Status find_pins(DeviceClient& worker, kernels::Block block, std::span<kernels::Slot> slots);
  ipc::Status seal_pins(DeviceClient& worker, std::uint32_t actor, kernels::Block block,
                        std::span<const kernels::Slot> slots);
  // Gives up what is pinned of a block.
  ipc::Status drop_pins(DeviceClient& worker, kernels::Block block);
  ipc::Status copy_block(DeviceClient& worker, std::span<const kernels::Slot> slots,
                         kernels::Frame frame, bool to_frame);

 private:
  ExecutorArena(std::shared_ptr<DeviceExecutor> executor, std::shared_ptr<CacheMemory> memory)
      : executor_(std::move(executor)), memory_(std::move(memory)) {}

  // Errors: io_error (a step of before is not known to be over).
  ipc::Status check_idle(std::uint32_t actor) const;
  // Asks for the table that `make(builder)` returns.
  template <class Make>
  ipc::Status ask(DeviceClient& worker, Make&& make);
  template <class Make>
  ipc::Status ask_about(DeviceClient& worker, std::span<const kernels::Page> pages,
                        std::span<kernels::Slot> slots, std::span<kernels::Outcome> outcomes,
                        Make&& make);

  const std::shared_ptr<DeviceExecutor> executor_;
  std::shared_ptr<CacheMemory> memory_;
  ArenaParts parts_;
  ipc::Mapping lists_memory_;
  device_worker::ListMemory lists_;  // of one request at a time
};

}  // namespace sluice::daemon
