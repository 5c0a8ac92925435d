// A private daemon for one run: its configuration, its life, and what it had to say when it failed.
//
// The daemon runs in a fresh folder with one listening socket per tenant, in a process group of its
// own, so that Ctrl-C reaches only us; the kernel ends it when we die. Thread-safety: one thread.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ipc/error.h"
#include "ipc/layout.h"

namespace sluice::tools {

struct DaemonSpec {
  struct Tenant {
    std::string name;
    std::uint64_t hbm_bytes = 0;  // guaranteed and limit
    std::uint64_t dram_bytes = 0;
  };
  std::string program;   // sluiced
  std::string log_file;  // empty: in the temporary folder
  bool keep_folder = false;
  bool cuda = false;                   // the backend
  std::string gpu;                     // with cuda: its UUID; empty: the daemon's default
  std::vector<std::string> more_gpus;  // further devices; a GPU named again serves as another one
  std::string mps_pipe_directory;      // of all tenants; empty: no executor daemon on GPUs
  std::string worker_idle;  // with cuda: as in the configuration; empty: the daemon's default
  std::uint64_t hbm_extent_bytes = 0;
  std::uint64_t dram_extent_bytes = 0;
  std::string nvme_directory;  // absolute; empty: no block store
  std::uint64_t nvme_bytes = 0;
  std::uint64_t nvme_segment_bytes = 0;
  bool warm = false;  // what it leaves is kept for the next one
  std::vector<Tenant> tenants;
};

class SpawnedDaemon {
 public:
  // Returns when every socket accepts connections. Errors: daemon_away, with the end of the
  // daemon's log.
  static ipc::Result<SpawnedDaemon> start(const DaemonSpec& spec);
  SpawnedDaemon(SpawnedDaemon&&) noexcept;
  SpawnedDaemon& operator=(SpawnedDaemon&&) = delete;
  ~SpawnedDaemon();  // stop()

  std::string admin_socket() const;
  std::string tenant_socket(const std::string& tenant) const;
  const std::string& folder() const;
  pid_t pid() const;

  // Why the daemon is gone, with the end of its log; nullopt while it runs.
  std::optional<std::string> death();

  // SIGKILL; returns when it is dead.
  void kill();
  // Starts it again, after kill(), with the same configuration; returns as start() does. `cold`:
  // what was kept of it is thrown away first.
  ipc::Status restart(bool cold);

  // SIGTERM, a bounded wait, SIGKILL. What it left is not kept. Removes the folder. Idempotent.
  void stop();

 private:
  struct State;
  ipc::Status launch();
  explicit SpawnedDaemon(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Where the MPS server of this process is: CUDA_MPS_PIPE_DIRECTORY, or where it is without that.
std::string mps_pipe_directory();

// The path of a program that is installed beside this one.
std::string beside_this_program(const char* name);

// A size of extents for a tenant that takes `tier_bytes` for items of `item_bytes`: small enough
// that the tier's size is met to about one per cent, large enough that extents are few.
// `alignment`: a power of two.
std::uint64_t spawn_extent_bytes(std::uint64_t tier_bytes, std::uint64_t item_bytes,
                                 std::uint64_t alignment = ipc::kFrameAlignment);

// Of HBM extents with the cuda backend: the granularity of the device's virtual memory.
inline constexpr std::uint64_t kDeviceExtentAlignment = std::uint64_t{2} << 20;

// Whether anybody accepts connections at a unix socket.
bool accepts_connections(const std::string& socket_path, int type = SOCK_STREAM);

}  // namespace sluice::tools
