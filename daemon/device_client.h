// The daemon's end of its device worker: starts it when there is something to do, asks it one thing
// after the other, lets it go when there was nothing for a while, and replaces it when it died.
//
// A request that a worker did not answer is made once more, to a new one; all of them may be. The
// new one starts when the old one is dead, so that nothing that the old one began runs beside it:
// the kernel ends a process after the driver has ended its work on the GPU.
//
// Thread-safety: any thread. Requests wait for each other, and may take as long as it takes to
// start a worker (a second) or to find out that it hangs (Options::patience, twice); look_after()
// and health() never wait.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "daemon/device.h"
#include "daemon/device_worker/protocol.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/frame.h"
#include "ipc/ids.h"
#include "kernels/table_sizes.h"

namespace sluice::daemon {

// A table whose parts are in two memories, as the worker gets to know it.
struct SplitTableParts {
  std::uint64_t number = 0;  // never reused in the life of a daemon
  kernels::TableSizes sizes;
  ipc::Fd node;
  ipc::Fd device;
};

// An arena that a worker resolves in for sessions of executor daemon, on the table of these parts.
struct ArenaParts {
  SplitTableParts table;
  device_worker::ArenaShape shape;
  ipc::Fd lists;  // of ListMemory::kBytes
  // Descriptors of up to `most` extents of a tier that exist, from `first` on; there may be more of
  // DRAM later. They stay open as long as this object.
  std::function<std::vector<int>(ipc::Tier tier, std::uint32_t first, std::size_t most)> extents;
};

class DeviceClient {
 public:
  struct Options {
    std::string program;
    std::string device;                      // as in backend.devices
    std::vector<std::string> environment{};  // NAME=value, beside the daemon's own
    std::chrono::milliseconds idle{10'000};
    std::chrono::milliseconds patience{60'000};  // for one answer
    std::chrono::milliseconds rest{10'000};      // after two that hung: requests fail at once
    std::chrono::milliseconds lost_rest{1'000};  // likewise, after the GPU was found to be lost
    std::chrono::milliseconds silence{5'000};    // of a worker, that health() tells
    bool known = false;                          // another worker has found the GPU already
  };

  explicit DeviceClient(Options options);
  // Ends the worker.
  ~DeviceClient();
  DeviceClient(const DeviceClient&) = delete;
  DeviceClient& operator=(const DeviceClient&) = delete;

  // Errors of all: what the worker says (no_memory, io_error); not_supported (there is no worker,
  // or no GPU for it); daemon_away, timed_out (it died, or hung, twice); io_error (it does not
  // die); device_lost (a new worker gets no context, though describe() has found the GPU before).
  // From here on by its UUID: later workers find the same GPU, whatever its number is then.
  ipc::Result<device_worker::DeviceFacts> describe();
  ipc::Result<ipc::Fd> allocate(std::uint64_t bytes);
  ipc::Status scrub(const ipc::Fd& memory, std::uint64_t bytes);
  ipc::Result<ipc::Fd> make_table(const kernels::TableSizes& sizes, const ipc::Fd& node);
  // At most kMaxWorkItems. When it returns without an error, all of it is done.
  ipc::Status work(const SplitTableParts& table, const device_worker::TableWork& work);
  ipc::Status read_words(const SplitTableParts& table, std::uint32_t first, std::uint32_t count,
                         const ipc::Fd& into);
  // The worker, if it knows the table, gives up what it keeps of it, and of its arena.
  void forget_table(std::uint64_t number);

  // Has the worker do what `make(number)` asks for, in an arena that it knows with all extents that
  // there are by then. Of another worker, too, if the first one broke, unless it is `no`. While
  // there is an arena, the worker stays. DRAM that it may not pin is absent to it (logged). Errors:
  // also limit_reached, if the request needs such memory.
  using MakeRequest = std::function<std::vector<std::byte>(std::uint64_t number)>;
  enum class Retry : bool { no, yes };
  ipc::Status in_arena(const ArenaParts& arena, const MakeRequest& make, Retry retry = Retry::yes);

  // `listener` is told of the worker that runs, and of each that is started from now on, before
  // anything is asked of it.
  void on_start(std::function<void(pid_t)> listener);

  DeviceHealth health() const;

  // The request under way fails soon, and no other one is made, and no worker started: the daemon
  // stops. Never waits.
  void quit();

  // To be called now and then: lets an idle worker go, and takes note of the end of those that
  // went.
  void look_after();

 private:
  // The answer of a worker; the bytes of `frame` hold `message`.
  struct Answer {
    ipc::Frame frame;
    const device_worker::wire::Message* message = nullptr;
  };

  // Why requests fail at once for a while.
  struct Refusal {
    ipc::Error error;
    std::chrono::milliseconds rest;
  };
  class Asking;

  // `ask` runs once, and once more with another worker if the first one broke.
  template <class Ask>
  auto with_worker(Ask&& ask, Retry retry = Retry::yes);
  ipc::Status start();
  // Ends what is left of the worker. Errors: io_error (it does not die).
  ipc::Status bury();
  ipc::Result<Answer> exchange(const std::vector<std::byte>& request, std::span<const int> fds,
                               device_worker::wire::Body expected);
  ipc::Status plain(const std::vector<std::byte>& request, std::span<const int> fds = {});
  ipc::Status open_table(const SplitTableParts& table);
  ipc::Status open_arena(const ArenaParts& arena);
  void hang_up();
  // For health(): the worker, and what it has pinned in the open arenas.
  void note_pinned(pid_t worker);
  ipc::Error broken(ipc::Error reason);
  const ipc::Error& note_hang(const ipc::Error& reason);
  ipc::Error note_refusal(ipc::Error reason);
  void note_answer();
  void note_failure(const std::string& how);

  Options options_;
  std::mutex mutex_;
  std::function<void(pid_t)> started_ = [](pid_t) {};
  ipc::Fd socket_;  // of the worker that runs, if one does
  pid_t pid_ = -1;
  ipc::FrameReader reader_{ipc::FdPolicy::accept};
  bool broken_ = false;             // the worker is of no more use
  std::optional<Refusal> refusal_;  // of the last request
  std::uint64_t requests_ = 0;
  std::chrono::steady_clock::time_point last_used_{};
  struct Extents {
    std::uint32_t hbm = 0;
    std::uint32_t dram = 0;
    std::uint64_t pinned_bytes = 0;
    ipc::Error pin_failure{ipc::Errc::ok, {}};  // of the next extent of DRAM
    std::chrono::steady_clock::time_point pin_failed_at{};
  };
  ipc::Status map_extents(const ArenaParts& arena, ipc::Tier tier, std::uint32_t& mapped);
  ipc::Status pin_extents(const ArenaParts& arena, Extents& mapped);
  bool quitting() const;
  static ipc::Error quit_error();

  std::set<std::uint64_t> open_tables_;           // that this worker knows
  std::map<std::uint64_t, Extents> open_arenas_;  // by table: what it has mapped
  std::vector<pid_t> leaving_;                    // let go, not seen to be dead yet

  mutable std::mutex health_mutex_;  // for what follows; taken inside the other one
  DeviceHealth health_;
  bool quitting_ = false;
  ipc::Fd quit_socket_;  // the same as socket_, for quit()
  std::optional<std::chrono::steady_clock::time_point> asking_since_;
};

}  // namespace sluice::daemon
