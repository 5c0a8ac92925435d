// What of the daemon outlives it: memory, and who may still use it, as descriptors under names in a
// DescriptorStore (sluice-keeper, or systemd).
//
//   node                          versions and geometry: another one starts cold
//   c3                            what cache 3 is: written last, removed first
//   c3.records                    its blocks (residency/record.h)
//   c3.dram.0 ...                 its DRAM extents
//   c3.d0                         its arena on device 0: written last, removed first
//   c3.d0.state, c3.d0.table.0 ..., c3.d0.hbm.0 ...
//   w0.1                          who works on device 0 for the daemon; the latest has the highest
//                                 number
//   s17                           session 17: written last, removed first
//   s17.pid, s17.bell.0 ...       its process, and its doorbells: a new one each time it comes back
//
// Descriptions are JSON in memfds: small, bounded, and read as bytes of a stranger. Something that
// is incomplete is as if it had never been there. What cannot be kept is told in the log once, and
// costs no more than a cold start of what it belongs to.
//
// Thread-safety: any thread, after take().
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/cache_memory.h"
#include "daemon/descriptor_store.h"
#include "daemon/residency/types.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/ids.h"

namespace sluice::daemon {

// Of the formats of all that is kept: records, states, descriptions, tables.
inline constexpr std::uint32_t kKeptVersion = 1;

using ResumeToken = std::array<std::uint8_t, 16>;

struct KeptArena {
  ipc::DeviceId device;
  std::uint32_t slot_extents = 0;
  CacheMemory::Left memory;
};

struct KeptCache {
  ipc::CacheId id;
  std::string tenant;
  residency::CacheSpec spec;
  residency::CacheShape shape;  // without slot_extents
  ipc::Fd records;
  std::vector<ipc::Fd> frame_extents;  // from index 0 on
  std::vector<KeptArena> arenas;
};

struct KeptSession {
  ipc::SessionId id;
  std::string tenant;
  std::string client_name;
  pid_t pid = 0;
  uid_t uid = 0;
  ResumeToken token{};
  ipc::Fd pidfd;
  // The daemon's ends of all doorbells that it was given, by number: each hangs up when no process
  // has the other end any more, forked children included.
  std::map<std::uint32_t, ipc::Fd> bells;
};

class KeptState {
 public:
  // Without a store nothing is kept. `geometry`: what has to be equal for memory of before to be of
  // use.
  KeptState(std::unique_ptr<DescriptorStore> store, std::string geometry);

  bool active() const { return store_ != nullptr; }
  // Who holds it, for people; empty: nobody.
  std::string held_by() const { return store_ == nullptr ? std::string() : store_->describe(); }
  // Why not all is kept that should be; empty: all is. Looks after who holds it. Any thread.
  std::string trouble();

  struct Found {
    std::vector<KeptCache> caches;
    std::vector<KeptSession> sessions;
    std::vector<ipc::Fd> workers;  // pidfds; of a cold start, too
    std::string cold_because;      // there was something, and nothing of it is of use
  };
  // What a daemon of before left, once, before anything is kept. What is not in it any more is
  // removed from the store. Errors: those of DescriptorStore::take.
  ipc::Result<Found> take();

  // ---- while serving. Each does nothing without a store.

  void keep_cache(ipc::CacheId id, const KeptCache& what);  // descriptors of `what` are not used
  void keep_records(ipc::CacheId id, int fd);
  void keep_frame_extent(ipc::CacheId id, std::uint32_t extent, int fd);
  void keep_arena(ipc::CacheId id, ipc::DeviceId device, const CacheMemory& memory);
  // From now on it is as if it had never been there; the descriptors go with the second call.
  void disown_cache(ipc::CacheId id);
  void forget_cache(ipc::CacheId id);
  void disown_arena(ipc::CacheId id, ipc::DeviceId device);
  void forget_arena(ipc::CacheId id, ipc::DeviceId device);

  // A process that works on the device for the daemon; earlier ones of this number (see
  // Device::on_worker) do no more.
  void keep_worker(ipc::DeviceId device, std::uint32_t number, pid_t pid);
  // Those of before are dead: until then whoever comes next has to see to it. Before keep_worker.
  void forget_workers();

  // `bell`: its first doorbell.
  void keep_session(const KeptSession& what, int pidfd, int bell);
  void keep_bell(ipc::SessionId id, std::uint32_t number, int fd);
  void forget_bell(ipc::SessionId id, std::uint32_t number);
  void forget_session(ipc::SessionId id);

 private:
  void put(const std::string& name, int fd);
  void put_text(const std::string& name, const std::string& text);
  void remove(const std::string& name);
  void remove_below(const std::string& prefix);
  void tell(const ipc::Status& status, std::string_view name);  // with mutex_

  std::unique_ptr<DescriptorStore> store_;
  std::string geometry_;
  mutable std::mutex mutex_;
  std::set<std::string> names_;
  std::map<std::uint64_t, std::uint32_t> workers_;  // which of them is the latest
  std::string trouble_;                             // the first
};

}  // namespace sluice::daemon
