#include "daemon/kept_state.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "daemon/kept_names.h"
#include "daemon/logging.h"
#include "ipc/kill_point.h"
#include "ipc/memfd.h"

namespace sluice::daemon {

namespace {

using kept::Name;

constexpr const char* kTextName = "sluice-kept";
constexpr const char* kNodeName = "node";

ipc::Result<ipc::Fd> text_memfd(const std::string& text) {
  auto fd = ipc::create_memfd(kTextName, text.size(), ipc::Populate::yes);
  if (!fd) return fd;
  if (pwrite(fd->get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return ipc::fail_errno("writing down what is kept");
  }
  return fd;
}

// What a descriptor holds as text; empty if it holds none.
std::string text_of(int fd) {
  struct stat file{};
  if (fstat(fd, &file) != 0 || file.st_size <= 0 ||
      static_cast<std::size_t>(file.st_size) > kept::kMaxText) {
    return {};
  }
  std::string text(static_cast<std::size_t>(file.st_size), '\0');
  if (pread(fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) return {};
  return text;
}

// Descriptors by index, and whether they go from 0 on without a hole.
using Indexed = std::map<std::uint32_t, ipc::Fd>;

std::vector<ipc::Fd> take_run(Indexed& from) {
  std::vector<ipc::Fd> run;
  for (auto& [index, fd] : from) {
    if (index != run.size()) break;
    run.push_back(std::move(fd));
  }
  return run;
}

// All that was found of one cache, arena or session, however much of it there is.
struct ArenaPieces {
  std::optional<KeptArena> what;
  ipc::Fd state;
  Indexed table, hbm;
};
struct CachePieces {
  std::optional<KeptCache> what;
  ipc::Fd records;
  Indexed dram;
  std::map<std::uint32_t, ArenaPieces> arenas;
};
struct SessionPieces {
  std::optional<KeptSession> what;
  ipc::Fd pid;
  Indexed bells;
};

struct Pieces {
  std::optional<std::string> node;
  std::map<std::uint32_t, CachePieces> caches;
  std::map<std::uint64_t, SessionPieces> sessions;
  std::vector<ipc::Fd> workers;

  void add(const Name& name, ipc::Fd fd) {
    if (name.kind == 'n') {
      node = text_of(fd.get());
    } else if (name.kind == 'w') {
      workers.push_back(std::move(fd));
    } else if (name.kind == 's') {
      add_to(sessions[name.number], name, std::move(fd));
    } else if (name.number < ~std::uint32_t{0}) {
      add_to(caches[static_cast<std::uint32_t>(name.number)], name, std::move(fd));
    }
  }

 private:
  static void add_to(SessionPieces& session, const Name& name, ipc::Fd fd) {
    if (name.part.empty()) {
      session.what = kept::parse_session(text_of(fd.get()));
    } else if (name.part == "pid") {
      session.pid = std::move(fd);
    } else if (name.part == "bell" && name.index) {
      session.bells.emplace(*name.index, std::move(fd));
    }
  }
  static void add_to(CachePieces& cache, const Name& name, ipc::Fd fd) {
    if (name.device) {
      add_to(cache.arenas[*name.device], name, std::move(fd));
    } else if (name.part.empty()) {
      cache.what = kept::parse_cache(text_of(fd.get()));
    } else if (name.part == "records") {
      cache.records = std::move(fd);
    } else if (name.part == "dram" && name.index) {
      cache.dram.emplace(*name.index, std::move(fd));
    }
  }
  static void add_to(ArenaPieces& arena, const Name& name, ipc::Fd fd) {
    if (name.part.empty()) {
      arena.what = kept::parse_arena(text_of(fd.get()));
    } else if (name.part == "state") {
      arena.state = std::move(fd);
    } else if (name.part == "table" && name.index) {
      arena.table.emplace(*name.index, std::move(fd));
    } else if (name.part == "hbm" && name.index) {
      arena.hbm.emplace(*name.index, std::move(fd));
    }
  }
};

std::optional<KeptArena> whole_arena(std::uint32_t device, ArenaPieces& pieces) {
  if (!pieces.what || pieces.what->device.value != device || !pieces.state) return std::nullopt;
  KeptArena arena = std::move(*pieces.what);
  arena.memory.state = std::move(pieces.state);
  arena.memory.table_fds = take_run(pieces.table);
  arena.memory.slot_extents = take_run(pieces.hbm);
  if (arena.memory.table_fds.empty() || arena.memory.slot_extents.size() != arena.slot_extents) {
    return std::nullopt;
  }
  return arena;
}

std::optional<KeptCache> whole_cache(std::uint32_t id, CachePieces& pieces) {
  if (!pieces.what || !pieces.records) return std::nullopt;
  KeptCache cache = std::move(*pieces.what);
  cache.id = ipc::CacheId{id};
  cache.records = std::move(pieces.records);
  const std::size_t extents = pieces.dram.size();
  cache.frame_extents = take_run(pieces.dram);
  // One that is missing would be made anew, and who mapped it has the old one.
  if (cache.frame_extents.size() != extents) return std::nullopt;
  for (auto& [device, arena] : pieces.arenas) {
    if (!arena.what) continue;  // it was being made, or freed: nobody has it open
    auto whole = whole_arena(device, arena);
    // Who has it open reads the cache's frames, and nobody would know when.
    if (!whole) return std::nullopt;
    cache.arenas.push_back(std::move(*whole));
  }
  if (cache.arenas.empty()) return std::nullopt;
  return cache;
}

}  // namespace

KeptState::KeptState(std::unique_ptr<DescriptorStore> store, std::string geometry)
    : store_(std::move(store)), geometry_(std::move(geometry)) {}

ipc::Result<KeptState::Found> KeptState::take() {
  Found found;
  if (store_ == nullptr) return found;
  auto all = store_->take();
  if (!all) return std::unexpected(std::move(all.error()));
  Pieces pieces;
  for (KeptDescriptor& one : *all) {
    names_.insert(one.name);
    if (const auto name = kept::parse_name(one.name)) pieces.add(*name, std::move(one.fd));
  }
  const bool same = pieces.node && *pieces.node == geometry_;
  if (!same && !pieces.caches.empty()) {
    found.cold_because = pieces.node ? "it was of another version or geometry: " + *pieces.node +
                                           "; this one is " + geometry_
                                     : "it was not written down whole";
  }
  found.workers = std::move(pieces.workers);
  if (same) {
    for (auto& [id, cache] : pieces.caches) {
      if (auto whole = whole_cache(id, cache)) found.caches.push_back(std::move(*whole));
    }
    for (auto& [id, session] : pieces.sessions) {
      if (!session.what || !session.pid || session.bells.empty()) continue;
      KeptSession whole = std::move(*session.what);
      whole.id = ipc::SessionId{id};
      whole.pidfd = std::move(session.pid);
      whole.bells = std::move(session.bells);
      found.sessions.push_back(std::move(whole));
    }
  }
  SLUICE_KILL_POINT("adopt.taken");
  // What belongs to nothing goes.
  std::set<std::string> keep;
  // Without it nothing else would be of use: while there is anything else it is there.
  if (same) keep.insert(kNodeName);
  for (const KeptCache& cache : found.caches) keep.insert(kept::cache_name(cache.id));
  for (const KeptSession& session : found.sessions) keep.insert(kept::session_name(session.id));
  const std::set<std::string> names = names_;
  for (const std::string& name : names) {
    const bool is_worker = name.starts_with('w');
    if (!is_worker && !keep.contains(name.substr(0, name.find('.')))) remove(name);
  }
  if (!same) put_text(kNodeName, geometry_);
  SLUICE_KILL_POINT("adopt.sorted");
  return found;
}

std::string KeptState::trouble() {
  const std::lock_guard lock(mutex_);
  if (store_ != nullptr) tell(store_->look(), "what there is");
  return trouble_;
}

void KeptState::tell(const ipc::Status& status, std::string_view name) {
  if (status || !trouble_.empty()) return;
  trouble_ =
      std::string(name) + " is not kept by " + store_->describe() + ": " + status.error().text;
  log_error("what should outlive the daemon cannot be kept; the next start will be cold",
            {{"reason", trouble_}});
  // A part would not do: what is missing of it would be made anew, and processes of before have the
  // old one.
  if (names_.erase(kNodeName) > 0) (void)store_->remove(kNodeName);
}

void KeptState::put(const std::string& name, int fd) {
  if (store_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  if (!trouble_.empty()) return;
  if (!names_.insert(name).second) (void)store_->remove(name);
  SLUICE_KILL_POINT("kept.putting");
  tell(store_->put(name, fd), name);
  SLUICE_KILL_POINT("kept.put");
}

void KeptState::put_text(const std::string& name, const std::string& text) {
  if (store_ == nullptr) return;
  auto fd = text_memfd(text);
  if (fd) {
    put(name, fd->get());
  } else {
    const std::lock_guard lock(mutex_);
    tell(std::unexpected(fd.error()), name);
  }
}

void KeptState::remove(const std::string& name) {
  if (store_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  if (names_.erase(name) == 0) return;
  SLUICE_KILL_POINT("kept.removing");
  tell(store_->remove(name), name);
  SLUICE_KILL_POINT("kept.removed");
}

void KeptState::remove_below(const std::string& prefix) {
  if (store_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  for (auto at = names_.lower_bound(prefix); at != names_.end() && at->starts_with(prefix);) {
    SLUICE_KILL_POINT("kept.removing");
    tell(store_->remove(*at), *at);
    SLUICE_KILL_POINT("kept.removed");
    at = names_.erase(at);
  }
}

void KeptState::keep_cache(ipc::CacheId id, const KeptCache& what) {
  put_text(kept::cache_name(id), kept::describe(what));
}

void KeptState::keep_records(ipc::CacheId id, int fd) {
  put(kept::cache_name(id) + ".records", fd);
}

void KeptState::keep_frame_extent(ipc::CacheId id, std::uint32_t extent, int fd) {
  put(kept::cache_name(id) + ".dram." + std::to_string(extent), fd);
}

void KeptState::keep_arena(ipc::CacheId id, ipc::DeviceId device, const CacheMemory& memory) {
  if (store_ == nullptr) return;
  const std::string name = kept::arena_name(id, device);
  put(name + ".state", memory.state_fd());
  int index = 0;
  for (const int fd : memory.table_fds()) put(name + ".table." + std::to_string(index++), fd);
  index = 0;
  for (const ipc::Fd& fd : memory.slot_extents()) {
    put(name + ".hbm." + std::to_string(index++), fd.get());
  }
  put_text(name, kept::describe(device, memory));
}

void KeptState::disown_cache(ipc::CacheId id) { remove(kept::cache_name(id)); }

void KeptState::forget_cache(ipc::CacheId id) {
  disown_cache(id);
  remove_below(kept::cache_name(id) + ".");
}

void KeptState::disown_arena(ipc::CacheId id, ipc::DeviceId device) {
  remove(kept::arena_name(id, device));
}

void KeptState::forget_arena(ipc::CacheId id, ipc::DeviceId device) {
  disown_arena(id, device);
  remove_below(kept::arena_name(id, device) + ".");
}

void KeptState::keep_worker(ipc::DeviceId device, std::uint32_t number, pid_t pid) {
  if (store_ == nullptr) return;
  const std::uint64_t which = std::uint64_t{number} * kMaxDevices + device.value;
  const ipc::Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) {
    const std::lock_guard lock(mutex_);
    tell(ipc::fail_errno("pidfd_open of a device worker"), "w" + std::to_string(which));
    return;
  }
  const std::string name = "w" + std::to_string(which) + ".";
  std::uint32_t latest = 0;
  {
    const std::lock_guard lock(mutex_);
    latest = ++workers_[which];
  }
  put(name + std::to_string(latest), pidfd.get());
  remove(name + std::to_string(latest - 1));
}

void KeptState::forget_workers() { remove_below("w"); }

void KeptState::keep_session(const KeptSession& what, int pidfd, int bell) {
  const std::string name = kept::session_name(what.id);
  put(name + ".pid", pidfd);
  keep_bell(what.id, 0, bell);
  put_text(name, kept::describe(what));
}

void KeptState::keep_bell(ipc::SessionId id, std::uint32_t number, int fd) {
  put(kept::session_name(id) + ".bell." + std::to_string(number), fd);
}

void KeptState::forget_bell(ipc::SessionId id, std::uint32_t number) {
  remove(kept::session_name(id) + ".bell." + std::to_string(number));
}

void KeptState::forget_session(ipc::SessionId id) {
  const std::string name = kept::session_name(id);
  remove(name);
  remove_below(name + ".");
}

}  // namespace sluice::daemon
