// sluiced as it is, but for the disks of its block store, which fail: faulty_sluiced --config FILE.
//
// $SLUICE_FAULTS is SEED:PER_THOUSAND: of a thousand requests so many have a fault, of each kind as
// often as of the others. At the end it says how many there were of each. Since one that is killed
// does not come to its end, they are also added to what is in the file that $SLUICE_FAULTS_TALLY
// names, as they happen.
#include <array>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
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
  auto disk = std::make_shared<storage::FaultyDisk>(seed, storage::Power::stays);
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

nlohmann::json counts_of(const storage::FaultyDisk& disk) {
  nlohmann::json counts = nlohmann::json::object();
  for (const KindOfFault& kind : kKinds) counts[kind.name] = disk.injected(kind.fault);
  return counts;
}

// Keeps the sum of all daemons' faults in a file. A kill loses what the last interval had.
class Tally {
 public:
  Tally(std::string file, std::shared_ptr<storage::FaultyDisk> disk)
      : file_(std::move(file)), disk_(std::move(disk)) {
    before_ = nlohmann::json::parse(std::ifstream(file_), nullptr, false);
    thread_ = std::jthread([this](const std::stop_token& stop) {
      std::mutex mutex;
      std::condition_variable_any never;
      std::unique_lock lock(mutex);
      while (!stop.stop_requested()) {
        never.wait_for(lock, stop, kInterval, [] { return false; });
        write();
      }
    });
  }

 private:
  static constexpr std::chrono::milliseconds kInterval{10};

  void write() {
    nlohmann::json counts = counts_of(*disk_);
    if (counts == written_) return;
    written_ = counts;
    if (before_.is_object()) {
      for (auto& [name, count] : counts.items()) {
        count = count.get<std::uint64_t>() + before_.value(name, std::uint64_t{0});
      }
    }
    const std::string next = file_ + ".next";
    std::ofstream(next) << counts << '\n';
    std::error_code ignored;
    std::filesystem::rename(next, file_, ignored);
  }

  const std::string file_;
  const std::shared_ptr<storage::FaultyDisk> disk_;
  nlohmann::json before_;
  nlohmann::json written_;
  std::jthread thread_;  // last: it uses the others
};

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
  std::optional<Tally> tally;
  if (const char* const file = std::getenv("SLUICE_FAULTS_TALLY")) tally.emplace(file, disk);
  (*daemon)->run();
  daemon->reset();
  tally.reset();
  std::fprintf(stderr, "faults: %s\n", counts_of(*disk).dump().c_str());
  return 0;
}
