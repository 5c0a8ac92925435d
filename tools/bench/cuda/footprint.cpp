// What the daemon and a client take of the HBM, and how soon the daemon serves.
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "tools/bench/cuda/benches.h"
#include "tools/bench/cuda/child.h"
#include "tools/bench/cuda/kernels.h"
#include "tools/bench/cuda/probe.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::uint64_t kDramBytes = std::uint64_t{32} << 30;
constexpr std::uint64_t kPinned = std::uint64_t{8} << 30;  // frames of the client
constexpr std::uint64_t kQuickPinned = std::uint64_t{1} << 30;
constexpr std::uint32_t kSequences = 8;
constexpr double kArenaSteps = 2;
constexpr const char* kWorkerIdle = "1s";
constexpr std::chrono::seconds kWorkerGone{30};
constexpr std::chrono::milliseconds kLook{50};
constexpr double kMib = 1 << 20;
constexpr double kMostStartSeconds = 3;
// Of what is measured by the MiB on a device that the driver uses, too.
constexpr double kIdleNoiseMib = 1;
// Beyond what a client counts: code of its kernels, and the driver's own tables for mappings.
constexpr double kClientSlackMib = 32;

// Whether a process has a child.
bool has_child(pid_t pid) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    std::ifstream file(entry.path() / "stat");
    std::string line;
    if (!file || !std::getline(file, line)) continue;
    const std::size_t name_end = line.rfind(')');
    if (name_end == std::string::npos) continue;
    char state = 0;
    pid_t parent = 0;
    std::istringstream rest(line.substr(name_end + 1));
    if (rest >> state >> parent && parent == pid && state != 'Z') return true;
  }
  return false;
}

ipc::Status wait_for_worker_to_leave(const SpawnedDaemon& daemon) {
  const auto deadline = std::chrono::steady_clock::now() + kWorkerGone;
  while (has_child(daemon.pid())) {
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail(Errc::timed_out, "the daemon's device worker has not left " +
                                       std::to_string(kWorkerGone.count()) +
                                       " s after the last work, with worker_idle = " + kWorkerIdle);
    }
    std::this_thread::sleep_for(kLook);
  }
  return {};
}

ipc::Result<double> used_mib() {
  auto found = probe();
  if (!found) return std::unexpected(std::move(found.error()));
  return double(found->used_bytes) / kMib;
}

// What `sluicectl sessions` says that the pinned memory of its one session costs.
ipc::Result<double> told_pin_mib(const SpawnedDaemon& daemon) {
  const std::string socket = daemon.admin_socket();
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  where.socket_path = socket.c_str();
  char* raw = nullptr;
  sluice_error error{};
  if (const sluice_status status = sluice_admin(&where, "sessions", nullptr, &raw, &error);
      status != SLUICE_OK) {
    return std::unexpected(to_ipc(status, error));
  }
  const std::unique_ptr<char, decltype(&sluice_admin_free)> reply(raw, &sluice_admin_free);
  const auto document = nlohmann::json::parse(reply.get(), nullptr, false);
  if (document.is_discarded() || document["sessions"].size() != 1) {
    return fail(Errc::internal, "sluicectl sessions does not show the one client");
  }
  return document["sessions"][0].value("pin_hbm_bytes", 0.0) / kMib;
}

// A context with the kernels of this program in it.
ipc::Result<double> bare_context_mib(double without) {
  auto child = Child::start([](const Child::Say& say) -> ipc::Status {
    if (auto ok = check(cudaSetDevice(0), "cudaSetDevice"); !ok) return ok;
    if (auto ok = check(cudaFree(nullptr), "making a context"); !ok) return ok;
    if (auto ok = check(load_kernels(), "loading kernels"); !ok) return ok;
    say("ready");
    return {};
  });
  if (!child) return std::unexpected(std::move(child.error()));
  auto used = used_mib();
  if (!used) return used;
  return *used - without;
}

}  // namespace

ipc::Status bench_footprint(GpuRun& run) {
  const std::uint64_t pinned = run.options.quick ? kQuickPinned : kPinned;
  const PageShape& shape = page_shapes().back();
  GpuNodeSpec spec =
      run.spec_for(shape, kSequences, arena_slots(shape, kSequences, kArenaSteps),
                   static_cast<std::uint32_t>(pinned / kSequences / shape.frame_stride()));
  spec.dram_bytes = kDramBytes;
  spec.worker_idle = kWorkerIdle;
  spec.fill = false;

  auto before = used_mib();
  if (!before) return std::unexpected(std::move(before.error()));
  const Stopwatch starting;
  const DaemonSpec daemon_spec = daemon_for(spec);
  auto daemon = SpawnedDaemon::start(daemon_spec);
  if (!daemon) return std::unexpected(std::move(daemon.error()));
  const double start_s = starting.seconds();
  if (auto ok = wait_for_worker_to_leave(*daemon); !ok) return ok;
  auto idle = used_mib();
  if (!idle) return std::unexpected(std::move(idle.error()));
  auto bare = bare_context_mib(*idle);
  if (!bare) return std::unexpected(std::move(bare.error()));

  const std::string socket = daemon->tenant_socket(daemon_spec.tenants[0].name);
  auto client = Child::start([&](const Child::Say& say) -> ipc::Status {
    auto node = GpuNode::connect(spec, socket);
    if (!node) return std::unexpected(std::move(node.error()));
    if (auto ok = check(load_kernels(), "loading kernels"); !ok) return ok;
    const sluice_cache_info& info = node->info();
    say(std::to_string(info.device_bytes) + " " +
        std::to_string(std::uint64_t{info.slots} * info.page_bytes) + " " +
        std::to_string(info.pinned_frame_extents * info.frame_extent_bytes));
    return {};
  });
  if (!client) return std::unexpected(std::move(client.error()));
  std::uint64_t device_bytes = 0, arena_bytes = 0, pinned_bytes = 0;
  std::istringstream(client->said()) >> device_bytes >> arena_bytes >> pinned_bytes;
  if (auto ok = wait_for_worker_to_leave(*daemon); !ok) return ok;
  auto with_client = used_mib();
  if (!with_client) return std::unexpected(std::move(with_client.error()));
  auto told = told_pin_mib(*daemon);
  if (!told) return std::unexpected(std::move(told.error()));
  client->let_go();
  if (auto ok = wait_for_worker_to_leave(*daemon); !ok) return ok;
  auto after = used_mib();
  if (!after) return std::unexpected(std::move(after.error()));

  const double share = *with_client - *idle - *bare - double(arena_bytes) / kMib;
  const double counted = double(device_bytes) / kMib;
  GpuRow row = gpu_row("footprint");
  row["dram_gib"] = double(kDramBytes) / kMib / 1024;
  row["start_s"] = start_s;
  row["idle_daemon_mib"] = *idle - *before;
  row["bare_context_mib"] = *bare;
  row["arena_mib"] = double(arena_bytes) / kMib;
  row["pinned_gib"] = double(pinned_bytes) / kMib / 1024;
  row["client_beyond_context_and_arena_mib"] = share;
  row["device_bytes_mib"] = counted;
  row["sluicectl_pin_hbm_mib"] = *told;
  row["after_client_mib"] = *after - *before;
  add_most(row, "start_s", start_s, kMostStartSeconds);
  add_most(row, "idle_daemon_mib", *idle - *before, kIdleNoiseMib);
  add_most(row, "client_share_mib", share, counted + kClientSlackMib);
  add_least(row, "sluicectl_pin_hbm_mib", *told,
            double(pinned_bytes / ipc::kPinnedPerHbmByte) / kMib);
  run.report.add(row);
  return {};
}

}  // namespace sluice::tools::cuda
