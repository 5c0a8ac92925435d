#include "daemon/kept_open.h"

#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <utility>

#include "daemon/descriptor_store.h"
#include "daemon/logging.h"
#include "daemon/programs.h"
#include "ipc/protocol.h"

namespace sluice::daemon {

namespace {

// Sizes and places that memory of before must agree with to be of use.
std::string geometry_of(const Config& config, const Devices& devices) {
  std::string text = "kept " + std::to_string(kKeptVersion) + ", protocol " +
                     std::to_string(ipc::kProtocolMajor) + ", extents " +
                     std::to_string(config.hbm.extent_bytes) + " and " +
                     std::to_string(config.dram.extent_bytes) + ", devices";
  for (const auto& device : devices) {
    text +=
        device->gpu() == nullptr ? " host" : " " + device_worker::to_string(device->gpu()->uuid);
  }
  return text;
}

}  // namespace

// Whoever still works on a device for a daemon of before: two scans of one table would not do.
ipc::Status end_workers(const std::vector<ipc::Fd>& workers) {
  constexpr std::chrono::seconds kPatience{30};
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (const ipc::Fd& worker : workers) {
    (void)syscall(SYS_pidfd_send_signal, worker.get(), SIGKILL, nullptr, 0);
    while (true) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd look{worker.get(), POLLIN, 0};
      const int ready = poll(&look, 1, static_cast<int>(std::max<std::int64_t>(left.count(), 0)));
      if (ready > 0) break;
      if (ready < 0 && errno == EINTR) continue;
      return ipc::fail(ipc::Errc::io_error,
                       "a device worker of the daemon before this one does not die: the GPU or its "
                       "driver hangs");
    }
  }
  return {};
}

ipc::Status make_socket_folder(const Config& config) {
  const std::filesystem::path folder = std::filesystem::path(config.daemon.socket).parent_path();
  if (folder.empty()) return {};
  const mode_t mode = geteuid() == 0 ? 0755 : 0700;
  if (mkdir(folder.c_str(), mode) == 0) {
    // Whatever the umask takes.
    if (chmod(folder.c_str(), mode) != 0) return ipc::fail_errno("chmod of " + folder.string());
    return {};
  }
  if (errno != EEXIST) return ipc::fail_errno("making the socket's folder " + folder.string());
  return {};
}

namespace {

std::string keeper_socket(const Config& config) { return config.daemon.socket + ".keeper"; }

// What a daemon with a warm restart left takes memory for nothing if this one has a cold start.
void free_what_is_kept(const Config& config) {
  // One that does not answer is another daemon's.
  constexpr std::chrono::milliseconds kPatience{2'000};
  KeeperOptions options;
  options.patience = kPatience;
  auto store = open_descriptor_store(keeper_socket(config), std::string(), options);
  if (!store && store.error().code == ipc::Errc::daemon_away) return;
  const ipc::Status freed = store ? (*store)->clear() : std::unexpected(store.error());
  if (freed) {
    log_info("what a daemon of before may have left is freed, as restart.warm is off",
             {{"by", (*store)->describe()}});
  } else {
    log_warn("what a daemon of before left is not freed", {{"reason", freed.error().text}});
  }
}

}  // namespace

ipc::Result<DescriptorStorePtr> open_store(const Config& config) {
  if (!config.restart.warm) {
    free_what_is_kept(config);
    return DescriptorStorePtr();
  }
  if (auto ok = make_socket_folder(config); !ok) return std::unexpected(std::move(ok.error()));
  const std::string program =
      config.restart.keeper.empty() ? program_beside("sluice-keeper") : config.restart.keeper;
  KeeperOptions options;
  options.idle = std::chrono::duration_cast<std::chrono::seconds>(config.restart.keeper_idle);
  auto store = open_descriptor_store(keeper_socket(config), program, options);
  if (!store) return std::unexpected(std::move(store.error()));
  log_info("what outlives the daemon is held", {{"by", (*store)->describe()}});
  return store;
}

std::unique_ptr<KeptState> keep_in(DescriptorStorePtr store, const Config& config,
                                   const Devices& devices) {
  return std::make_unique<KeptState>(std::move(store), geometry_of(config, devices));
}

}  // namespace sluice::daemon
