#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "tools/bench/gpu_report.h"
#include "tools/bench/measure.h"
#include "tools/bench/options.h"
#include "tools/bench/storage.h"
#include "tools/bench/storage_fio.h"
#include "tools/bench/storage_index.h"
#include "tools/bench/storage_load.h"

namespace sluice::tools {
namespace {

using ipc::Errc;

constexpr double kMegabyte = 1e6;
constexpr double kTailOfLookUps = 0.99;
// The project's targets: parts of fio's rate, seconds, microseconds.
constexpr double kBlocksOverFio = 0.95;
constexpr double kPartsOverFio = 0.90;
constexpr double kMostOpenSeconds = 2;
constexpr double kMostLookUpUs = 20;
constexpr double kMostRecoverySeconds = 2;

struct PatternCase {
  StoragePattern pattern;
  const char* name;
  double least_ratio;
};
constexpr PatternCase kPatternCases[] = {
    {StoragePattern::write_blocks, "write_blocks", kBlocksOverFio},
    {StoragePattern::read_blocks, "read_blocks", kBlocksOverFio},
    {StoragePattern::read_parts, "read_parts", kPartsOverFio},
};

struct Side {
  Series mb_per_s;
  Series cpu_s_per_gb;
  void add(const StorageRound& round) {
    mb_per_s.add(round.bytes_per_s() / kMegabyte);
    cpu_s_per_gb.add(round.cpu_s_per_gb());
  }
};

GpuRow storage_row(const std::string& name) {
  GpuRow row = gpu_row(name);
  row["bench"] = "storage";
  return row;
}

// A folder in the directory, gone at the end.
class WorkFolder {
 public:
  static ipc::Result<WorkFolder> make(const std::filesystem::path& in) {
    std::error_code error;
    std::filesystem::create_directories(in, error);
    std::string name = (in / "sluice-bench-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) return ipc::fail_errno("a folder in " + in.string());
    return WorkFolder(name);
  }
  WorkFolder(WorkFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  WorkFolder& operator=(WorkFolder&&) = delete;
  ~WorkFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit WorkFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

FioJob job_of(const StorageOptions& options, StoragePattern pattern, const StorageLoad& load,
              const std::filesystem::path& folder) {
  FioJob job;
  job.file = folder / "fio";
  job.pattern = pattern;
  job.request_bytes =
      pattern == StoragePattern::read_parts ? options.part_bytes : options.block_bytes;
  job.size_bytes = options.size_bytes / options.block_bytes * options.block_bytes;
  job.depth = options.depth;
  job.uring = load.engine() == "io_uring";
  job.direct = load.direct();
  return job;
}

// The first turn of each side does not count.
ipc::Result<GpuRow> measure_pattern(const StorageOptions& options, const PatternCase& one,
                                    StorageLoad& load, const std::filesystem::path& folder) {
  Side store;
  Side fio;
  for (std::uint32_t round = 0; round <= options.rounds; ++round) {
    const auto ours = load.run(one.pattern);
    if (!ours) return std::unexpected(ours.error());
    if (round > 0) store.add(*ours);
    if (options.no_fio) continue;
    const auto theirs = run_fio(options.fio, job_of(options, one.pattern, load, folder));
    if (!theirs) return std::unexpected(theirs.error());
    if (round > 0) fio.add(*theirs);
  }
  GpuRow row = storage_row(one.name);
  row["bytes"] = options.size_bytes;
  row["request_bytes"] =
      one.pattern == StoragePattern::read_parts ? options.part_bytes : options.block_bytes;
  row["depth"] = options.depth;
  row["rounds"] = options.rounds;
  row["engine"] = load.engine();
  row["direct"] = load.direct();
  row["store_mb_per_s"] = store.mb_per_s.median();
  row["store_cpu_s_per_gb"] = store.cpu_s_per_gb.median();
  if (options.no_fio) return row;
  row["fio_mb_per_s"] = fio.mb_per_s.median();
  row["fio_mb_per_s_min"] = fio.mb_per_s.min();
  row["fio_mb_per_s_max"] = fio.mb_per_s.max();
  row["fio_cpu_s_per_gb"] = fio.cpu_s_per_gb.median();
  add_least(row, "ratio", store.mb_per_s.median() / fio.mb_per_s.median(), one.least_ratio);
  return row;
}

GpuRow index_row(const IndexFigures& figures) {
  GpuRow row = storage_row("index");
  row["blocks"] = figures.blocks;
  row["index_bytes"] = figures.index_bytes;
  row["memory_bytes"] = figures.memory_bytes;
  row["look_up_us_median"] = figures.look_up_us.median();
  row["acknowledged_blocks"] = figures.acknowledged_blocks;
  row["recovered_blocks"] = figures.recovered_blocks;
  add_most(row, "open_s", figures.open_seconds.median(), kMostOpenSeconds);
  add_most(row, "look_up_us_p99", figures.look_up_us.quantile(kTailOfLookUps), kMostLookUpUs);
  add_most(row, "recovery_s", figures.recovery_seconds, kMostRecoverySeconds);
  return row;
}

int failed(const ipc::Error& error) {
  std::fprintf(stderr, "sluice-bench: storage: %s\n", error.text.c_str());
  return kBenchFailed;
}

}  // namespace

int run_storage(const StorageOptions& options) {
  std::optional<KilledWriter> writer;
  if (options.index_blocks > 0) {
    auto forked = KilledWriter::fork_now();
    if (!forked) return failed(forked.error());
    writer.emplace(std::move(*forked));
  }
  const auto folder = WorkFolder::make(options.directory);
  if (!folder) return failed(folder.error());
  GpuReport report(options.json);
  {
    StorageLoad load(options, folder->path() / "store");
    for (const PatternCase& one : kPatternCases) {
      const auto row = measure_pattern(options, one, load, folder->path());
      if (!row) return failed(row.error());
      report.add(*row);
    }
  }
  if (writer) {
    const auto figures =
        measure_index(folder->path() / "index-store", options.index_blocks, std::move(*writer));
    if (!figures) return failed(figures.error());
    report.add(index_row(*figures));
  }
  return options.check && !report.missed().empty() ? kBenchFailed : 0;
}

}  // namespace sluice::tools
