// Descriptors that outlive the daemon: held by sluice-keeper, or by systemd's fd store.
//
// A descriptor keeps what it names (a memfd, memory of a GPU, a pidfd) for as long as some process
// holds it. So what a killed daemon had put here is there, unchanged, for the next one.
//
// Names: 1 to kMaxNameBytes characters of [A-Za-z0-9._-]; each is in use once.
//
// Errors of all calls: daemon_away (the holder is gone, with all that it held, or this store gave
// it up after an earlier error; every later call says so at once, and the daemon goes on without),
// timed_out (it did not answer within kAnswerPatience; it is given up), limit_reached, io_error,
// peer_violation. Thread-safety: any thread; calls wait for one another, and put and remove take
// the time of a round trip (some 20 us) each.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/keeper/protocol.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::daemon {

struct KeptDescriptor {
  std::string name;
  ipc::Fd fd;  // closed on exec
};

class DescriptorStore {
 public:
  static constexpr std::size_t kMaxNameBytes = keeper::kMaxNameBytes;

  virtual ~DescriptorStore() = default;
  // Everything that is kept, of which a copy stays kept. Once, before put and remove. Errors also:
  // limit_reached (no room for so many descriptors in this process), wrong_state (not the first
  // call).
  virtual ipc::Result<std::vector<KeptDescriptor>> take() = 0;
  // Keeps a copy of `fd`, which the caller may close, under a name that is not in use. When it
  // returns ok, the descriptor survives a SIGKILL of this process. Errors also: invalid_argument
  // (name or descriptor), wrong_state (the name is in use), limit_reached (the store is full).
  virtual ipc::Status put(std::string_view name, int fd) = 0;
  // Fine if there is none. What nobody else holds is freed when it returns, or soon after. Of a
  // keeper that does not answer any more it is asked nevertheless, and not waited for.
  virtual ipc::Status remove(std::string_view name) = 0;
  // Removes everything: nothing is to be found again. The last call.
  virtual ipc::Status clear() = 0;
  // Whether the holder is there, as far as can be seen without asking it. Errors: daemon_away.
  virtual ipc::Status look() = 0;
  // For people: "sluice-keeper, pid 123", "systemd".
  virtual std::string describe() const = 0;
};

using DescriptorStorePtr = std::unique_ptr<DescriptorStore>;

// What every store asks of put: a valid name, and a number that may be one of a descriptor. Errors:
// invalid_argument.
ipc::Status check_put(std::string_view name, int fd);

struct KeeperOptions {
  // How long a keeper that is started here holds what a dead daemon left, before it frees all and
  // ends; 0: for good.
  std::chrono::seconds idle{600};
  // For a keeper to start, and for the daemon before this one to be gone from it.
  std::chrono::milliseconds patience{30'000};
  // For each answer. A keeper takes microseconds; one that takes so long was stopped, and nothing
  // more is asked of it.
  std::chrono::milliseconds answer_patience{5'000};
};

// The keeper that listens at `socket_path` (absolute, such as "<daemon.socket>.keeper"), which
// starts from `program` (sluice-keeper) if there is none; with an empty `program` none is started,
// and daemon_away says that there is none. Errors: invalid_argument (path),
// not_supported (the program cannot be started), version_mismatch (a keeper of another version
// holds descriptors for another version of the daemon), permission_denied, timed_out (it serves
// another process, or does not start), or as the started program said.
ipc::Result<DescriptorStorePtr> open_keeper(const std::string& socket_path,
                                            const std::string& program,
                                            const KeeperOptions& options = {});

// The fd store of the unit that this process is the main process of. At most once, and before other
// processes are started: what systemd handed over is open in this process from its start on, also
// over an exec, and is owned by the store from here on. Errors: not_supported (systemd grants none:
// neither $FDSTORE, nor $LISTEN_FDS for our pid; or there is no $NOTIFY_SOCKET), invalid_argument
// (these make no sense).
//
// Its names are handed over in one string of at most 128 KiB, which bounds their number too: some
// 10,000 names of 12 characters, 1,900 of 64; put answers limit_reached beyond.
//
// systemd does not answer. What it would refuse is counted here, by the limit in $FDSTORE; if it
// refuses something nevertheless, that shows in its journal only.
ipc::Result<DescriptorStorePtr> open_systemd_store();

// systemd's if it grants one, else the keeper: under systemd a keeper would be killed with the rest
// of the unit's control group whenever the unit restarts.
ipc::Result<DescriptorStorePtr> open_descriptor_store(const std::string& socket_path,
                                                      const std::string& program,
                                                      const KeeperOptions& options = {});

}  // namespace sluice::daemon
