#include "tools/bench/storage_index.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <utility>

#include "storage/block_store.h"
#include "storage/device_directory.h"
#include "storage/index.h"
#include "storage/record.h"
#include "tools/bench/index_writer.h"

namespace sluice::tools {
namespace {

using ipc::Errc;

constexpr std::uint32_t kPagesPerRecord = 2;  // a header and a page
constexpr std::size_t kRowsPerBatch = 4096;
constexpr int kOpens = 5;
constexpr std::uint64_t kLookUps = 300'000;

double resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  file >> all >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

double bytes_in(const std::filesystem::path& directory) {
  double bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    if (entry.is_regular_file(error)) bytes += static_cast<double>(entry.file_size(error));
  }
  return bytes;
}

// The rows, and the segments that they are in, without data.
class IndexMaker {
 public:
  IndexMaker(std::filesystem::path directory, std::uint64_t blocks)
      : directory_(std::move(directory)), blocks_(blocks) {}

  ipc::Status make() {
    const auto store = storage::make_store_id();
    if (!store) return std::unexpected(store.error());
    store_ = *store;
    std::error_code error;
    std::filesystem::create_directories(directory_, error);
    if (error) return ipc::fail(Errc::io_error, "making " + directory_.string());
    const storage::DeviceIdentity identity{store_, 0, kIndexSegmentBytes};
    if (auto done = storage::write_device_identity(directory_, identity); !done) return done;
    auto index = storage::Index::open(directory_ / "index");
    if (!index) return std::unexpected(index.error());
    if (auto done = (*index)->set_store(store_); !done) return done;
    if (auto done = (*index)->put_tenant(0, index_scope().tenant); !done) return done;
    if (auto done = write_rows(**index); !done) return done;
    for (std::uint32_t segment = 0; segment < segments(); ++segment) {
      if (auto done = make_segment(segment); !done) return done;
    }
    return (*index)->sync();
  }

 private:
  static constexpr std::uint64_t kPerSegment =
      (kIndexSegmentBytes / storage::kPageBytes - 1) / kPagesPerRecord;

  std::uint32_t segments() const {
    return static_cast<std::uint32_t>((blocks_ + kPerSegment - 1) / kPerSegment);
  }

  ipc::Status write_rows(storage::Index& index) const {
    const std::string scope = storage::encode_namespace(index_scope());
    for (std::uint64_t first = 0; first < blocks_; first += kRowsPerBatch) {
      storage::IndexBatch batch;
      for (std::uint64_t i = first; i < std::min(blocks_, first + kRowsPerBatch); ++i) {
        batch.puts.push_back(row(scope, i));
      }
      const bool last = first + kRowsPerBatch >= blocks_;
      if (last) batch.checkpoint = storage::Checkpoint{segments(), kIndexSegmentBytes, true};
      if (auto done = index.write(batch); !done) return done;
    }
    return {};
  }

  storage::IndexEntry row(const std::string& scope, std::uint64_t block) const {
    storage::IndexEntry entry;
    entry.digest = storage::digest_of(store_, scope, index_key(block).view());
    entry.sequence = block + 1;
    entry.segment = static_cast<std::uint32_t>(block / kPerSegment);
    entry.segment_sequence = entry.segment + 1;
    entry.offset_pages = static_cast<std::uint32_t>(1 + block % kPerSegment * kPagesPerRecord);
    entry.block_pages = 1;
    entry.part_pages = 1;
    entry.valid_bytes = storage::kPageBytes;
    return entry;
  }

  ipc::Status make_segment(std::uint32_t segment) const {
    const auto opened = storage::open_segment(directory_, segment, true);
    if (!opened) return std::unexpected(opened.error());
    const auto page = storage::allocate_aligned(storage::kPageBytes);
    if (!page) return ipc::fail(Errc::no_memory, "no memory for a page");
    const storage::Page bytes(page.get(), storage::kPageBytes);
    storage::write_segment_page({store_, 0, segment, segment + 1}, bytes);
    if (auto done = storage::write_at(opened->file.fd(), 0, bytes); !done) return done;
    if (::ftruncate(opened->file.fd(), static_cast<off_t>(kIndexSegmentBytes)) != 0) {
      return ipc::fail_errno("ftruncate");
    }
    return {};
  }

  const std::filesystem::path directory_;
  const std::uint64_t blocks_;
  storage::StoreId store_;
};

ipc::Status measure_opens(const std::filesystem::path& directory, IndexFigures& figures) {
  for (int i = 0; i < kOpens; ++i) {
    const double before = resident_bytes();
    const Stopwatch watch;
    const auto store = storage::BlockStore::open(index_config(directory));
    if (!store) return std::unexpected(store.error());
    figures.open_seconds.add(watch.seconds());
    if (i == 0) figures.memory_bytes = resident_bytes() - before;
    if ((*store)->stats().blocks != figures.blocks) {
      return ipc::fail(Errc::internal, "the store does not have all blocks of its index");
    }
  }
  return {};
}

ipc::Status measure_look_ups(const std::filesystem::path& directory, IndexFigures& figures) {
  const auto store = storage::BlockStore::open(index_config(directory));
  if (!store) return std::unexpected(store.error());
  const auto scope = (*store)->intern(index_scope());
  if (!scope) return std::unexpected(scope.error());
  std::mt19937_64 random(1);
  for (std::uint64_t i = 0; i < kLookUps; ++i) {
    const IndexKey key = index_key(random() % figures.blocks);
    const std::span<const std::byte> one[] = {key.view()};
    const Stopwatch watch;
    const auto found = (*store)->find(*scope, one);
    const double us = watch.nanoseconds() / 1e3;
    if (!found || !found->front()) return ipc::fail(Errc::internal, "a block is not found");
    figures.look_up_us.add(us);
  }
  return {};
}

ipc::Status measure_recovery(const std::filesystem::path& directory, KilledWriter& writer,
                             IndexFigures& figures) {
  const auto acknowledged = writer.run(directory, kAcknowledgedBlocks);
  if (!acknowledged) return std::unexpected(acknowledged.error());
  figures.acknowledged_blocks = *acknowledged;
  const Stopwatch watch;
  const auto store = storage::BlockStore::open(index_config(directory));
  if (!store) return std::unexpected(store.error());
  figures.recovery_seconds = watch.seconds();
  const storage::StoreStats stats = (*store)->stats();
  figures.recovered_blocks = stats.recovered_blocks;
  // What was acknowledged is there.
  const auto scope = (*store)->intern(index_scope());
  if (!scope) return std::unexpected(scope.error());
  for (std::uint64_t i = 0; i < *acknowledged; ++i) {
    const IndexKey key = written_key(i);
    const std::span<const std::byte> one[] = {key.view()};
    const auto found = (*store)->find(*scope, one);
    if (!found || !found->front()) {
      return ipc::fail(Errc::data_lost, "a block that was acknowledged is not there after a kill");
    }
  }
  return {};
}

}  // namespace

ipc::Result<IndexFigures> measure_index(const std::filesystem::path& directory,
                                        std::uint64_t blocks, KilledWriter writer) {
  IndexFigures figures;
  figures.blocks = blocks;
  if (const auto made = IndexMaker(directory, blocks).make(); !made) {
    return std::unexpected(made.error());
  }
  if (const auto done = measure_opens(directory, figures); !done) {
    return std::unexpected(done.error());
  }
  figures.index_bytes = bytes_in(directory / "index");
  if (const auto done = measure_look_ups(directory, figures); !done) {
    return std::unexpected(done.error());
  }
  if (const auto done = measure_recovery(directory, writer, figures); !done) {
    return std::unexpected(done.error());
  }
  return figures;
}

}  // namespace sluice::tools
