// A session: one process's connection, as the control thread and a lane both see it.
//
// Lives until the process is dead and every inherited copy of its socket is closed (DESIGN rule 8),
// or until it said Bye. What it held is given back then, and not before.
//
// Thread-safety: const members from any thread; the caches under their mutex; the rest belongs to
// the thread named beside it.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ipc/doorbell.h"
#include "ipc/error.h"
#include "ipc/ids.h"
#include "ipc/peer.h"
#include "ipc/session_memory.h"
#include "ipc/wire_generated.h"

namespace sluice::daemon {

class CacheMemory;
class ExecutorArena;

inline constexpr std::uint32_t kMaxCachesPerSession = 64;

// A cache as one session opened it, on a device. What lanes run on the CPU otherwise is run by
// `on_device` if that is not null.
struct SessionCache {
  ipc::CacheId id;
  std::shared_ptr<CacheMemory> memory;
  ipc::wire::Executor executor = ipc::wire::Executor::daemon;
  ipc::DeviceId device{};
  std::shared_ptr<ExecutorArena> on_device{};  // of executor daemon on a GPU
};

struct Session {
  ipc::SessionId id;
  ipc::TenantId tenant;
  std::string tenant_name;
  std::string client_name;
  pid_t pid = 0;
  uid_t uid = 0;

  ipc::SessionMemory memory;
  ipc::Doorbell bell;   // the daemon's end; its other end left with the welcome
  ipc::Fd client_bell;  // until the welcome is sent

  // Counted by the lane, read by operators.
  struct Counters {
    std::atomic<std::uint64_t> requests{0};
    std::atomic<std::uint64_t> failures{0};
  } counters;

  // When it last had to wait for a device for long, or in vain, in ns of the steady clock; kWaits:
  // it waits now. That is no fault of its. Written by the lane.
  static constexpr std::int64_t kWaits = std::numeric_limits<std::int64_t>::max();
  std::atomic<std::int64_t> waited_for_device{0};

  // ---- caches, by handle

  // Whether add_cache would find room. Errors: limit_reached.
  ipc::Status check_room() const;
  // Errors: limit_reached.
  ipc::Result<ipc::Handle> add_cache(SessionCache cache);
  // Errors: stale_handle.
  ipc::Result<SessionCache> cache(ipc::Handle handle) const;
  ipc::Result<SessionCache> remove_cache(ipc::Handle handle);
  std::vector<SessionCache> caches() const;
  // The session is over.
  void drop_caches();

 private:
  struct Slot {
    std::uint32_t generation = 1;
    bool used = false;
    SessionCache cache;
  };
  const Slot* find(ipc::Handle handle) const;
  ipc::Result<std::uint32_t> free_slot() const;

  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
};

}  // namespace sluice::daemon
