#include "tools/replay/environment.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>

#include "ipc/layout.h"

namespace sluice::tools {
namespace {

std::string tenant_name(std::uint32_t tenant) { return "t" + std::to_string(tenant); }

std::uint64_t whole_extents(std::uint64_t bytes, std::uint64_t extent) {
  return std::max<std::uint64_t>((bytes + extent - 1) / extent, 1) * extent;
}

// A block store for four times the blocks of the trace, unless its size is given.
void place_store(const Plan& plan, const Options& options, DaemonSpec& spec) {
  constexpr std::uint64_t kLeastSegment = std::uint64_t{1} << 20;
  constexpr std::uint64_t kMostSegment = std::uint64_t{256} << 20;
  constexpr std::uint64_t kSegments = 64;
  constexpr std::uint64_t kHeader = 4096;  // of a record
  const std::uint64_t record = plan.shape.frame_stride() + kHeader;
  std::uint64_t footprint = 0;
  for (const TenantPlan& tenant : plan.tenants) footprint += tenant.distinct_blocks * record;
  const std::uint64_t wanted = options.nvme_bytes != 0 ? options.nvme_bytes : 4 * footprint;
  // A record fills at most a quarter of a segment, so that little is left over at the end.
  const std::uint64_t least = std::max(kLeastSegment, 4 * record);
  spec.nvme_directory = std::filesystem::absolute(options.nvme).string();
  spec.nvme_segment_bytes = whole_extents(
      std::clamp(wanted / kSegments, least, std::max(least, kMostSegment)), kLeastSegment);
  spec.nvme_bytes = options.nvme_bytes != 0
                        ? options.nvme_bytes
                        : std::max(wanted, kSegments / 4 * spec.nvme_segment_bytes);
}

}  // namespace

DevicePlace place_of(std::uint32_t device, const Options& options, std::size_t gpus) {
  const auto count = static_cast<std::uint32_t>(gpus);
  return {(options.device + device) % count, device / count};
}

DaemonSpec daemon_spec(const Plan& plan, const Options& options,
                       const std::vector<std::string>& gpus) {
  std::uint64_t largest_hbm = 0;
  std::uint64_t largest_dram = 0;
  for (const TenantPlan& tenant : plan.tenants) {
    largest_hbm = std::max(largest_hbm, tenant.hbm_bytes);
    largest_dram = std::max(largest_dram, tenant.dram_bytes);
  }
  DaemonSpec spec;
  spec.program = options.sluiced.empty() ? beside_this_program("sluiced") : options.sluiced;
  spec.log_file = options.daemon_log;
  spec.keep_folder = options.keep;
  spec.cuda = options.backend == Backend::cuda;
  if (spec.cuda && options.executor == Executor::daemon) {
    spec.mps_pipe_directory = mps_pipe_directory();
  }
  for (std::uint32_t device = 0; !gpus.empty() && device < options.devices; ++device) {
    const std::string& gpu = gpus[place_of(device, options, gpus.size()).ordinal];
    if (device == 0) {
      spec.gpu = gpu;
    } else {
      spec.more_gpus.push_back(gpu);
    }
  }
  spec.hbm_extent_bytes =
      spawn_extent_bytes(largest_hbm, plan.shape.payload.page_bytes(),
                         spec.cuda ? kDeviceExtentAlignment : ipc::kFrameAlignment);
  spec.dram_extent_bytes = spawn_extent_bytes(largest_dram, plan.shape.frame_stride());
  for (std::uint32_t t = 0; t < options.tenants; ++t) {
    spec.tenants.push_back({tenant_name(t),
                            whole_extents(plan.tenants[t].hbm_bytes, spec.hbm_extent_bytes),
                            whole_extents(plan.tenants[t].dram_bytes, spec.dram_extent_bytes)});
  }
  spec.warm = !options.kill_daemon_at.empty() && options.restart == Restart::warm;
  if (!options.nvme.empty()) place_store(plan, options, spec);
  return spec;
}

RunEnvironment spawned_environment(SpawnedDaemon& daemon, const Options& options,
                                   const std::vector<std::string>& gpus) {
  RunEnvironment environment;
  for (std::uint32_t engine = 0; engine < options.engines; ++engine) {
    environment.engine_sockets.push_back(
        daemon.tenant_socket(tenant_name(engine % options.tenants)));
    environment.engine_devices.push_back(
        gpus.empty() ? DevicePlace{} : place_of(engine % options.devices, options, gpus.size()));
  }
  environment.admin_socket = daemon.admin_socket();
  environment.daemon_death = [&daemon] { return daemon.death(); };
  environment.kill_daemon = [&daemon] { daemon.kill(); };
  environment.restart_daemon = [&daemon, cold = options.restart == Restart::cold] {
    return daemon.restart(cold);
  };
  return environment;
}

RunEnvironment existing_environment(const Options& options) {
  RunEnvironment environment;
  constexpr std::string_view kPlaceholder = "{tenant}";
  for (std::uint32_t engine = 0; engine < options.engines; ++engine) {
    std::string path = options.socket;
    const auto at = path.find(kPlaceholder);
    if (at != std::string::npos)
      path.replace(at, kPlaceholder.size(), tenant_name(engine % options.tenants));
    environment.engine_sockets.push_back(path);
    environment.engine_devices.push_back({options.device, 0});
  }
  environment.admin_socket = environment.engine_sockets[0];
  return environment;
}

}  // namespace sluice::tools
