// sluiced as it is, but for the disks of its block store, which fail: faulty_sluiced --config FILE.
//
// $SLUICE_FAULTS is SEED:PER_THOUSAND: of a thousand requests so many have a fault, of each kind as
// often as of the others. At the end it says how many there were of each.
#include <array>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/device.h"
#include "daemon/kept_open.h"
#include "daemon/logging.h"
#include "storage/testing/faulty_engine.h"

namespace {

using namespace sluice;  // NOLINT(google-build-using-namespace): the entry of its program
using storage::Fault;

struct KindOfFault {
  Fault fault;
  const char* name;
};
constexpr std::array<KindOfFault, 8> kKinds = {{{Fault::io_error, "io_error"},
                                                {Fault::short_transfer, "short_transfer"},
                                                {Fault::no_space, "no_space"},
                                                {Fault::lost, "lost"},
                                                {Fault::torn_write, "torn_write"},
                                                {Fault::flip_read, "flip_read"},
                                                {Fault::flip_write, "flip_write"},
                                                {Fault::stall, "stall"}}};
constexpr std::chrono::milliseconds kStall{5};

std::shared_ptr<storage::FaultyDisk> make_disk(std::uint64_t seed, double probability) {
  auto disk = std::make_shared<storage::FaultyDisk>(seed);
  for (const KindOfFault& kind : kKinds) {
    storage::FaultRule rule;
    rule.fault = kind.fault;
    rule.count = storage::kEveryTime;
    rule.probability = probability / static_cast<double>(kKinds.size());
    if (kind.fault == Fault::stall) rule.delay = kStall;
    disk->add(rule);
  }
  return disk;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sluice::daemon;  // NOLINT(google-build-using-namespace): the entry of its program
  const char* const faults = std::getenv("SLUICE_FAULTS");
  unsigned long long seed = 0;
  double per_thousand = 0;
  if (argc != 3 || std::string(argv[1]) != "--config" || faults == nullptr ||
      std::sscanf(faults, "%llu:%lf", &seed, &per_thousand) != 2) {
    std::fprintf(stderr, "usage: SLUICE_FAULTS=SEED:PER_THOUSAND faulty_sluiced --config FILE\n");
    return 2;
  }
  const std::string path = argv[2];
  ConfigReport report = check_config(path);
  if (!report.ok()) {
    std::fprintf(stderr, "%s\n", report.text().c_str());
    return 2;
  }
  start_logging(report.config.daemon.log_level, report.config.daemon.log_format);
  std::signal(SIGPIPE, SIG_IGN);
  const auto disk = make_disk(seed, per_thousand / 1000);
  auto store = open_store(report.config);
  auto devices = make_devices(report.config);
  if (!store || !devices) return 1;
  DaemonParts parts{std::move(*devices), std::move(*store), {}};
  parts.tune_store = [disk](storage::StoreConfig& config) {
    // Many faults are what this is for; a device that is taken out has none any more.
    config.device_error_budget = std::numeric_limits<std::uint32_t>::max();
    config.engine = [disk, kind = config.io, depth = config.depth](
                        std::size_t) -> ipc::Result<std::unique_ptr<storage::IoEngine>> {
      auto engine = storage::make_io_engine(kind, depth);
      if (!engine) return std::unexpected(std::move(engine.error()));
      return storage::make_faulty_engine(std::move(*engine), disk);
    };
  };
  auto daemon = Daemon::create(std::move(report.config), path, std::move(parts));
  if (!daemon) {
    std::fprintf(stderr, "faulty_sluiced: %s\n", daemon.error().text.c_str());
    return 1;
  }
  (*daemon)->run();
  daemon->reset();
  std::string counts;
  for (const KindOfFault& kind : kKinds) {
    counts += (counts.empty() ? "\"" : ", \"") + std::string(kind.name) +
              "\": " + std::to_string(disk->injected(kind.fault));
  }
  std::fprintf(stderr, "faults: {%s}\n", counts.c_str());
  return 0;
}
