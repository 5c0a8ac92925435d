// The one owner of the residency manager: serialises its events, carries out its actions, and
// brings memory back when its grace period is over.
//
// One mutex around everything; an event handles at most residency::kMaxBlocksPerTurn blocks. A
// resolve never comes here. Memory is made and freed by memory workers, without the mutex; the
// manager is told when that is done, and grants nothing twice in between.
//
// Thread-safety: any thread.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "daemon/cache_memory.h"
#include "daemon/config.h"
#include "daemon/device.h"
#include "daemon/kept_state.h"
#include "daemon/memory_worker.h"
#include "daemon/metrics.h"
#include "daemon/nvme_tier.h"
#include "daemon/record_memory.h"
#include "daemon/residency/manager.h"
#include "daemon/session.h"
#include "daemon/session_end.h"
#include "ipc/error.h"
#include "ipc/ids.h"

namespace sluice::daemon {

struct OpenCacheRequest {
  std::string model;
  std::string salt;
  std::uint32_t shard_index = 0;
  std::uint32_t shard_count = 1;
  std::uint8_t kind = 0;
  ipc::Layout layout;
  ipc::wire::Executor executor = ipc::wire::Executor::daemon;
  std::uint64_t hbm_bytes = 0;
  std::int32_t device_type = 0;    // DLPack's numbers
  std::string device_uuid;         // of a GPU: its 16 bytes
  std::uint32_t device_index = 0;  // among the devices that this GPU serves as
};

residency::CacheSpec spec_of(const OpenCacheRequest& request, ipc::DeviceId device);

struct OpenedCache {
  ipc::Handle handle;
  bool created = false;
  std::shared_ptr<CacheMemory> memory;
};

// A session's wait for a cache.
struct CacheOpening {
  OpenCacheRequest request;
  std::string waits_for;  // said by open_cache: why there is none yet

  // Of the coordinator:
  std::optional<ipc::CacheId> making;  // the cache of which an arena is being made for it
  ipc::DeviceId device;                // on which
  residency::CacheShape shape;         // of that arena
  std::optional<ipc::Error> failure;   // of making it
  bool abandoned = false;              // nobody waits any more
};

// What a daemon of before left to this one.
struct TakenOver {
  std::uint32_t caches = 0;
  std::uint32_t refused_caches = 0;
  std::uint32_t sessions = 0;
  std::uint64_t sealed_blocks = 0;
  std::uint64_t private_blocks = 0;
  std::uint64_t given_up = 0;
  std::uint64_t damaged = 0;
};

class Coordinator {
 public:
  // A sequence, and how many of the caller's blocks it has now.
  struct Opened {
    ipc::Handle sequence;
    std::uint32_t matched = 0;
  };

  // `nvme` may be null. Errors: bad_config.
  // `kept`: what is to outlive the daemon goes there; null: nothing does.
  static ipc::Result<std::unique_ptr<Coordinator>> create(
      const Config& config, Devices devices, std::unique_ptr<NvmeTier> nvme = nullptr,
      std::unique_ptr<KeptState> kept = nullptr);
  ~Coordinator();

  // ---- what a daemon of before left (coordinator_adopt.cpp)

  // Takes over the caches, and the sessions whose tenants there are, before anybody else comes.
  // Returns these sessions; what cannot be taken over is dropped, and the log says why.
  std::vector<KeptSession> adopt(KeptState::Found found);
  // One of these sessions is back, and goes on under its number. Errors: not_found.
  ipc::Status resume_session(ipc::SessionId id, ipc::TenantId tenant);
  ipc::Result<Opened> adopt_sequence(ipc::SessionId session, const SessionCache& cache,
                                     ipc::Handle sequence, std::span<const std::uint32_t> ids,
                                     std::vector<residency::BlockRef>& blocks);
  ipc::Status session_resumed(ipc::SessionId id);
  // One of these sessions is over and never came back.
  void end_away_session(ipc::SessionId id, ipc::TenantId tenant,
                        std::chrono::steady_clock::time_point death);
  // What adopt() did.
  const TakenOver& taken_over() const { return taken_over_; }
  // Where what is to outlive the daemon goes.
  KeptState& kept() { return *kept_; }

  // ---- sessions (control thread)

  ipc::Result<ipc::SessionId> open_session(ipc::TenantId tenant);

  // The session is over and no lane touches it. `died`: without a Bye, at `death`.
  void end_session(const std::shared_ptr<Session>& session, bool died,
                   std::chrono::steady_clock::time_point death);

  void count_violation(ipc::TenantId tenant, Violation kind);

  // Nothing yet: the cache is being made, by this opening or another one, or memory for it is on
  // its way back. To be called again after each change that on_cache_change tells of, until there
  // is a cache or an error; or else abandoned, before the session ends.
  ipc::Result<std::optional<OpenedCache>> open_cache(Session& session,
                                                     const std::shared_ptr<CacheOpening>& opening);
  // A cache that was being made for this opening alone is freed.
  void abandon_open(Session& session, CacheOpening& opening);
  // `listener` is called whenever a cache was made or freed, from any thread and under the lock: it
  // only passes that on.
  void on_cache_change(std::function<void()> listener);
  // Which cache it was. Errors: wrong_state (sequences or actors are open), stale_handle.
  ipc::Result<ipc::CacheId> close_cache(Session& session, ipc::Handle handle);
  ipc::Result<std::uint32_t> open_actor(Session& session, ipc::Handle handle);
  ipc::Status close_actor(Session& session, ipc::Handle handle, std::uint32_t actor);

  // ---- sequences (lanes). Replies are copied into the caller's vectors.

  ipc::Result<Opened> open_sequence(ipc::SessionId session, ipc::CacheId cache,
                                    const residency::KeyView& keys,
                                    std::vector<residency::BlockRef>& blocks,
                                    ipc::DeviceId device = {});
  ipc::Result<Opened> append_known(ipc::SessionId session, ipc::Handle sequence,
                                   const residency::KeyView& keys,
                                   std::vector<residency::BlockRef>& blocks);
  // Goes on with `keys` that the block store has, and adds them to `blocks`. Reads its index, so it
  // may take a while; takes the lock only afterwards.
  ipc::Status append_stored(ipc::SessionId session, ipc::CacheId cache, ipc::Handle sequence,
                            const residency::KeyView& keys,
                            std::vector<residency::BlockRef>& blocks);
  // Returns the index of the first new block. Never waits for memory: busy while extents are made,
  // and no_memory once if that failed.
  ipc::Result<std::uint32_t> extend(ipc::SessionId session, ipc::CacheId cache,
                                    ipc::Handle sequence, std::uint32_t count,
                                    std::vector<residency::BlockRef>& blocks);
  ipc::Result<residency::Sealed> seal(ipc::SessionId session, ipc::Handle sequence,
                                      std::uint32_t index, std::span<const std::byte> key,
                                      std::uint64_t valid_bytes);
  // The whole fork, in turns that let others in between. `copies` are the private blocks to copy.
  // Waits as little as extend.
  ipc::Result<ipc::Handle> fork(ipc::SessionId session, ipc::CacheId cache, ipc::Handle parent,
                                std::vector<residency::ForkedBlock>& copies);
  ipc::Status truncate(ipc::SessionId session, ipc::Handle sequence, std::uint32_t blocks);
  ipc::Status release(ipc::SessionId session, ipc::Handle sequence);

  // Pins of these blocks, which are sealed and nobody's to write any more, become ordinary pages
  // once the device is told. Any thread.
  void seal_pins(CacheMemory& cache, const std::vector<ipc::BlockId>& ids);

  // An actor for a lane's own work for a session. It goes with the session.
  ipc::Result<std::uint32_t> open_lane_actor(ipc::SessionId session, CacheMemory& cache);

  // What the lanes learn about forecasts; what the tables count is read by tick().
  void forecast(ipc::CacheId cache, residency::ForecastEvent event, std::uint64_t pages);

  // ---- time

  // Looks after grace periods and unfinished work. Returns when it wants to be called again.
  std::chrono::milliseconds tick();

  // Actors that stayed in one step for longer than the configured deadline: their sessions.
  std::vector<std::pair<ipc::SessionId, SessionEnd>> overdue_steps(
      std::chrono::steady_clock::time_point now);

  // ---- operators

  std::uint32_t device_count() const { return static_cast<std::uint32_t>(devices_.size()); }
  // The GPU that a device's HBM is of; null: it is memory of the node.
  const device_worker::DeviceFacts* gpu(ipc::DeviceId device) const {
    return devices_[device.value]->gpu();
  }
  std::vector<std::uint32_t> dram_nodes(ipc::DeviceId device) const {
    return devices_[device.value]->dram_nodes();
  }
  // All devices are GPUs', or there is the node's alone.
  bool on_gpus() const { return gpu(ipc::DeviceId{0}) != nullptr; }
  DeviceHealth device_health(ipc::DeviceId device) const {
    return devices_[device.value]->health();
  }

  std::vector<ExecutorStatus> executors(ipc::DeviceId device) const {
    return devices_[device.value]->executors();
  }
  // Whether caches of the tenant may be opened for executor daemon.
  bool serves_daemon_executor(ipc::TenantId tenant) const {
    return !on_gpus() || !config_.tenants[tenant.value].mps_pipe_directory.empty();
  }
  const std::string& tenant_name(ipc::TenantId tenant) const {
    return config_.tenants[tenant.value].name;
  }

  // Null if there is none.
  NvmeTier* nvme() const { return nvme_.get(); }
  // Somebody in this process marked blocks as wanted.
  void call_mover();

  // Runs `look` with the manager, under the lock.
  template <class Look>
  auto with_manager(Look&& look) {
    const std::lock_guard lock(mutex_);
    return std::forward<Look>(look)(manager_);
  }
  ipc::Result<residency::EvictOrdered> evict(const residency::EvictRequest& request);
  ipc::Status set_quota(ipc::TenantId tenant, ipc::Tier tier, const residency::Quota& quota);
  // The arena of a cache on a device; null if there is none.
  std::shared_ptr<CacheMemory> cache_memory(ipc::CacheId cache, ipc::DeviceId device = {}) const;
  // All that the cache has.
  std::vector<std::shared_ptr<CacheMemory>> arenas(ipc::CacheId cache) const;

  // Counted since start, per tenant.
  struct TenantCounters {
    std::uint64_t session_deaths = 0;
    ViolationCounts violations{};
    double last_reclaim_seconds = 0;
    ResolveTotals resolved_before;  // in caches that are gone
  };
  std::vector<TenantCounters> tenant_counters() const;
  // Pages resolved since start, per tenant, in the caches that are there and those that were.
  std::vector<ResolveTotals> resolve_totals() const;
  Histogram& reclaim_histogram(ipc::TenantId tenant) { return *reclaim_[tenant.value]; }
  Histogram& resolve_histogram(ipc::TenantId tenant) { return *resolve_[tenant.value]; }

 private:
  using Step = MemoryWorker::Step;

  // An extent that the node could not make: for the next attempt that needs one.
  struct GrantFailure {
    ipc::Error reason;
    std::chrono::steady_clock::time_point at;
  };
  // The DRAM extents of a cache. Once `kept` is true, which it is when the first arena is made, the
  // last who lets go of them has them freed, and that is the end of the cache.
  struct SharedFrames {
    std::shared_ptr<FrameMemory> memory;
    std::shared_ptr<std::atomic<bool>> kept;
  };
  // A DRAM extent that is to be made, and for which device.
  struct Grant {
    std::uint32_t extent = 0;
    ipc::DeviceId device;
  };
  struct Arena {
    std::shared_ptr<CacheMemory> memory;    // null while it is being made or freed
    std::shared_ptr<CacheOpening> opening;  // while it is being made
    std::weak_ptr<ExecutorArena> executor;  // that its sessions of executor daemon share
    // What the ledger was told of the table's own counters.
    std::uint64_t forecast_issued = 0, forecast_used = 0, forecast_wasted = 0;
  };
  struct Cache {
    ipc::TenantId tenant;
    residency::CacheShape shape;
    std::optional<storage::NamespaceId> scope;  // in the block store, if there is one
    std::map<ipc::DeviceId, Arena> arenas;
    SharedFrames frames;         // without memory while the cache goes
    RecordMemory records;        // of its blocks, if they are kept
    std::deque<Grant> granting;  // what a job is at, in order
    std::optional<GrantFailure> grant_failure;
  };
  struct PendingRetire {
    ipc::CacheId cache;
    std::uint64_t batch = 0;
    bool withdrawal = false;                    // of frames, and not of blocks
    std::map<ipc::DeviceId, Retirement> waits;  // in the arenas that are not through
  };
  struct Reclaim {  // the death of a session, until its blocks are back
    ipc::TenantId tenant;
    std::chrono::steady_clock::time_point death;
  };

  // What the store answered to a WriteBlock or a ReadBlock.
  struct MoveAnswer {
    ipc::CacheId cache;
    std::shared_ptr<FrameMemory> frames;  // of that cache, which says whether it is still there
    ipc::BlockId block;
    bool write = false;
    ipc::Status status;
    struct Held {
      storage::NamespaceId scope;
      std::vector<std::byte> key;
    };
    std::optional<Held> held;  // the store was told to hold what is written
  };

  Coordinator(const Config& config, Devices devices, std::unique_ptr<NvmeTier> nvme,
              std::unique_ptr<KeptState> kept, residency::Manager manager);

  // ---- under the lock

  void execute(residency::Actions& actions);
  void execute(const residency::CreateArena& action);
  void execute(const residency::GrantDram& action);
  void execute(const residency::ReleaseExtent& action);
  void execute(const residency::SetFrame& action);
  void execute(residency::Retire& action);
  void execute(const residency::Withdraw& action);
  void execute(const residency::WriteBlock& action);
  void execute(const residency::ReadBlock& action);
  void execute(const residency::HurryRead& action);
  void execute(const residency::HoldStored& action);
  void execute(const residency::DropPins& action);
  void execute(const residency::ActorsIdle& action);
  void execute(const residency::DestroyArena& action);
  void execute(const residency::DestroyCache& action);
  // Tells the ledger what the tables counted since the last time.
  void account_forecasts();
  void account_forecasts(ipc::CacheId id, Arena& arena, const CacheMemory& memory);
  void look_after_devices();
  // Ends what waits and can end; whether something did.
  bool settle();
  void end_grace(const PendingRetire& done, residency::Actions& actions);
  // Runs `attempt`, which may ask for extents of `cache`, and again if memory came back meanwhile.
  template <class Attempt>
  auto with_memory(ipc::CacheId cache, Attempt&& attempt);
  // Calls `what` with the device and the memory of each arena that is made.
  template <class What>
  void for_each_arena(Cache& cache, What&& what) {
    for (auto& [device, arena] : cache.arenas) {
      if (arena.memory != nullptr) what(device, *arena.memory);
    }
  }
  void let_go(Cache& cache, Arena& arena);
  void end_session_locked(ipc::SessionId id);
  void adopt_cache(KeptCache kept, const std::set<std::uint64_t>& sessions);
  void listen_to_orders(ipc::CacheId id, ipc::DeviceId device, CacheMemory& memory);
  ipc::Status check_executor(const Session& session, const OpenCacheRequest& request) const;
  ipc::Result<std::shared_ptr<ExecutorArena>> executor_for(const Session& session,
                                                           const OpenCacheRequest& request,
                                                           ipc::DeviceId device, Arena& arena);
  ipc::Result<OpenedCache> give_cache(Session& session, const OpenCacheRequest& request,
                                      ipc::CacheId cache, ipc::DeviceId device, bool created);

  // ---- moves (coordinator_moves.cpp); with the lock: all but answer_move and run_mover

  static std::span<std::byte> frame_bytes(const FrameMemory& frames, ipc::FrameId frame,
                                          const residency::CacheShape& shape);
  void answer_move(MoveAnswer answer);
  void warn_of_store(const char* what, ipc::CacheId cache, const ipc::Error& why);
  void run_mover(const std::stop_token& stop);
  void tell(const MoveAnswer& answer, residency::Actions& actions);
  // Of keys that the store holds, those that no cache of that scope needs held.
  void let_go_of_unused(storage::NamespaceId scope,
                        std::span<const std::span<const std::byte>> keys,
                        residency::Actions& actions);
  bool collect_wanted(residency::Actions& actions);
  void tell_wanted(ipc::CacheId cache, std::span<const ipc::BlockId> blocks,
                   residency::Urgency urgency, residency::Actions& actions);

  // ---- jobs of the memory workers, which take the lock to tell (coordinator_memory.cpp)

  struct Making;
  struct Freeing;
  ipc::Status make_piece(Making& making);
  void keep_blocks(Cache& cache, Making& making);
  void keep(Making& making);
  Step make_arena(Making& making);
  Step hand_over(Making& making);
  Step free_arena(Freeing& freeing);
  Step free_frames(ipc::CacheId id, std::unique_ptr<FrameMemory>& frames);
  Step grant_next(ipc::CacheId id, FrameMemory& frames);
  Step release_extent(ipc::CacheId id, std::uint32_t extent,
                      const std::shared_ptr<FrameMemory>& frames);
  // The last one who lets go of it has it freed.
  std::shared_ptr<CacheMemory> share(ipc::CacheId id, ipc::DeviceId device,
                                     std::unique_ptr<CacheMemory> memory);
  SharedFrames share(ipc::CacheId id, std::unique_ptr<FrameMemory> frames);

  const Config& config_;
  const std::unique_ptr<KeptState> kept_;
  Devices devices_;       // which tell it of their workers
  TakenOver taken_over_;  // from the start on
  mutable std::mutex mutex_;
  residency::Manager manager_;
  std::function<void()> cache_changed_ = [] {};
  std::vector<Cache> caches_;  // by CacheId
  std::vector<PendingRetire> retiring_;
  std::vector<Reclaim> reclaims_;
  std::chrono::steady_clock::time_point looked_after_{};  // the devices
  std::vector<TenantCounters> counters_;
  std::vector<std::unique_ptr<Histogram>> reclaim_;
  std::vector<std::unique_ptr<Histogram>> resolve_;
  // One for each device, and one for DRAM: none waits for another. Memory may be held for longer
  // than there is a coordinator; its owners know the worker weakly.
  std::vector<std::shared_ptr<MemoryWorker>> workers_;
  std::shared_ptr<MemoryWorker> node_worker_ = std::make_shared<MemoryWorker>();

  std::mutex mover_mutex_;  // for these three; taken inside the other one
  std::condition_variable mover_call_;
  std::vector<MoveAnswer> answers_;
  bool mover_called_ = false;
  std::chrono::steady_clock::time_point quiet_until_{};  // under the lock: of log lines
  WantedBlocks marks_;                                   // scratch, under the lock
  std::unique_ptr<NvmeTier> nvme_;
  std::jthread mover_;
};

}  // namespace sluice::daemon
