#include "storage/index.h"
#include "ipc/kill_point.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_checksum.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <atomic>
#include <chrono>
#include <cstdarg>
#include <system_error>
#include <utility>

#include "storage/bytes.h"
#include "storage/record.h"

namespace sluice::storage {
namespace {

constexpr std::uint32_t kIndexVersion = 1;
constexpr std::string_view kMetaKey = "meta";
constexpr std::string_view kWrittenKey = "written";
constexpr char kBlock = 'b';
constexpr char kCheckpoint = 'c';
constexpr char kTenant = 't';
// Only open() reads, once through.
constexpr std::size_t kBlockCacheBytes = std::size_t{8} << 20;
constexpr std::size_t kMemtableBytes = std::size_t{16} << 20;
constexpr std::size_t kReadaheadBytes = std::size_t{4} << 20;
constexpr std::size_t kLogBytes = std::size_t{4} << 20;
// Between attempts to leave the read-only state that an error put RocksDB into.
constexpr std::chrono::seconds kResumePause{5};

rocksdb::Slice slice(std::string_view text) { return {text.data(), text.size()}; }
std::span<const std::byte> bytes_of(const rocksdb::Slice& slice) {
  return as_bytes({slice.data(), slice.size()});
}

rocksdb::Options options() {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kPointInTimeRecovery;
  options.write_buffer_size = kMemtableBytes;
  options.max_background_jobs = 2;
  options.compression = rocksdb::kNoCompression;
  options.max_log_file_size = kLogBytes;
  options.keep_log_file_num = 2;
  options.max_open_files = 256;
  options.file_checksum_gen_factory = rocksdb::GetFileChecksumGenCrc32cFactory();
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

// RocksDB would make a log file of its own in the directory.
class NoLog final : public rocksdb::Logger {
 public:
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

std::string key_of(const Digest& digest) {
  std::string key(1, kBlock);
  append_number(key, digest.high);
  append_number(key, digest.low);
  return key;
}

std::string numbered_key(char kind, std::uint32_t number) {
  std::string key(1, kind);
  append_number(key, number);
  return key;
}

std::string value_of(const IndexEntry& entry) {
  std::string value;
  append_number(value, entry.sequence);
  append_number(value, entry.segment_sequence);
  for (const std::uint32_t number :
       {entry.device, entry.segment, entry.offset_pages, entry.block_pages, entry.part_pages,
        entry.valid_bytes, entry.tenant, entry.last_use_s}) {
    append_number(value, number);
  }
  append_number(value, static_cast<std::uint8_t>(entry.used));
  return value;
}

bool parse_entry(std::span<const std::byte> key, std::span<const std::byte> value,
                 IndexEntry& entry) {
  key = key.subspan(1);
  std::uint8_t used = 0;
  const bool whole =
      take_number(key, entry.digest.high) && take_number(key, entry.digest.low) && key.empty() &&
      take_number(value, entry.sequence) && take_number(value, entry.segment_sequence) &&
      take_number(value, entry.device) && take_number(value, entry.segment) &&
      take_number(value, entry.offset_pages) && take_number(value, entry.block_pages) &&
      take_number(value, entry.part_pages) && take_number(value, entry.valid_bytes) &&
      take_number(value, entry.tenant) && take_number(value, entry.last_use_s) &&
      take_number(value, used) && value.empty() && used <= 1;
  entry.used = used == 1;
  return whole;
}

std::string value_of(const Checkpoint& checkpoint) {
  std::string value;
  append_number(value, checkpoint.segment_sequence);
  append_number(value, checkpoint.offset);
  append_number(value, static_cast<std::uint8_t>(checkpoint.clean));
  return value;
}

bool parse_checkpoint(std::span<const std::byte> value, Checkpoint& checkpoint) {
  std::uint8_t clean = 0;
  const bool whole = take_number(value, checkpoint.segment_sequence) &&
                     take_number(value, checkpoint.offset) && take_number(value, clean) &&
                     value.empty() && clean <= 1;
  checkpoint.clean = clean == 1;
  return whole;
}

std::unexpected<Error> failed(const char* what, const rocksdb::Status& status) {
  const Errc code = status.IsNoSpace()      ? Errc::no_memory
                    : status.IsCorruption() ? Errc::data_lost
                                            : Errc::io_error;
  return ipc::fail(code, std::string("the index: ") + what + ": " + status.ToString());
}

Status answer(const char* what, const rocksdb::Status& status) {
  if (status.ok()) return {};
  return failed(what, status);
}

}  // namespace

bool is_possible(const IndexEntry& entry, std::uint64_t segment_bytes) {
  const std::uint64_t block_bytes = std::uint64_t{entry.block_pages} * kIoAlign;
  const std::uint64_t part_bytes = std::uint64_t{entry.part_pages} * kIoAlign;
  if (block_bytes == 0 || block_bytes > kMaxBlockBytes || entry.valid_bytes > block_bytes) {
    return false;
  }
  if (part_bytes == 0 || layout_of(block_bytes, part_bytes).part_bytes != part_bytes) return false;
  const std::uint64_t offset = std::uint64_t{entry.offset_pages} * kIoAlign;
  return offset >= kPageBytes && offset <= segment_bytes &&
         record_bytes_of(block_bytes) <= segment_bytes - offset;
}

struct Index::Impl {
  std::unique_ptr<rocksdb::DB> db;
  std::optional<StoreId> store;
  std::atomic<std::chrono::steady_clock::rep> resumed_at{0};

  // After an error in the background (a full disk) RocksDB refuses writes until it is told to try.
  void resume() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    auto last = resumed_at.load();
    if (now - std::chrono::steady_clock::duration(last) < kResumePause) return;
    if (resumed_at.compare_exchange_strong(last, now.count())) db->Resume().PermitUncheckedError();
  }

  Status put(std::string_view key, const std::string& value, bool sync) const {
    rocksdb::WriteOptions how;
    how.sync = sync;
    return answer("write", db->Put(how, slice(key), value));
  }

  Status read_meta() {
    std::string value;
    const rocksdb::Status got = db->Get({}, slice(kMetaKey), &value);
    if (got.IsNotFound()) return {};
    if (!got.ok()) return failed("read", got);
    std::span<const std::byte> bytes = as_bytes(value);
    std::uint32_t version = 0;
    if (!take_number(bytes, version)) return ipc::fail(Errc::io_error, "the index has no version");
    if (version != kIndexVersion) {
      return ipc::fail(Errc::version_mismatch, "the index has version " + std::to_string(version) +
                                                   ", this program knows " +
                                                   std::to_string(kIndexVersion));
    }
    StoreId id;
    if (!take_number(bytes, id.high) || !take_number(bytes, id.low)) {
      return ipc::fail(Errc::io_error, "the index does not say which store it belongs to");
    }
    store = id;
    return {};
  }
};

Index::Index(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Index::~Index() {
  if (impl_->db) impl_->db->Close().PermitUncheckedError();
}

Result<std::unique_ptr<Index>> Index::open(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return ipc::fail(Errc::io_error, "making " + directory.string());
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::Open(options(), directory.string(), &raw);
  if (!opened.ok()) return failed("open", opened);
  auto impl = std::make_unique<Impl>();
  impl->db.reset(raw);
  if (const Status meta = impl->read_meta(); !meta) return std::unexpected(meta.error());
  return std::unique_ptr<Index>(new Index(std::move(impl)));
}

Result<std::unique_ptr<Index>> Index::open_to_read(const std::filesystem::path& directory,
                                                   Log log) {
  std::error_code ignored;
  if (!std::filesystem::exists(directory / "CURRENT", ignored)) {
    return ipc::fail(Errc::not_found, "there is no index in " + directory.string());
  }
  rocksdb::Options how = options();
  how.create_if_missing = false;
  how.info_log = std::make_shared<NoLog>();
  if (log == Log::undamaged) {
    how.wal_recovery_mode = rocksdb::WALRecoveryMode::kAbsoluteConsistency;
  }
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened = rocksdb::DB::OpenForReadOnly(how, directory.string(), &raw);
  if (!opened.ok()) return failed("open", opened);
  auto impl = std::make_unique<Impl>();
  impl->db.reset(raw);
  if (const Status meta = impl->read_meta(); !meta) return std::unexpected(meta.error());
  return std::unique_ptr<Index>(new Index(std::move(impl)));
}

Status Index::set_aside(const std::filesystem::path& directory) {
  const std::filesystem::path aside = directory.string() + ".corrupt";
  std::error_code error;
  std::filesystem::remove_all(aside, error);
  std::filesystem::rename(directory, aside, error);
  if (error) return ipc::fail(Errc::io_error, "setting " + directory.string() + " aside");
  return {};
}

std::optional<StoreId> Index::store() const { return impl_->store; }

Status Index::set_store(const StoreId& store) {
  std::string value;
  append_number(value, kIndexVersion);
  append_number(value, store.high);
  append_number(value, store.low);
  impl_->store = store;
  return impl_->put(kMetaKey, value, true);
}

Status Index::put_tenant(std::uint32_t tenant, const std::string& name) {
  return impl_->put(numbered_key(kTenant, tenant), name, false);
}

Result<Index::Loaded> Index::load() const {
  Loaded loaded;
  rocksdb::ReadOptions how;
  how.fill_cache = false;
  how.readahead_size = kReadaheadBytes;
  const std::unique_ptr<rocksdb::Iterator> row(impl_->db->NewIterator(how));
  for (row->SeekToFirst(); row->Valid(); row->Next()) {
    const rocksdb::Slice key = row->key();
    std::span<const std::byte> value = bytes_of(row->value());
    if (key == slice(kMetaKey)) continue;
    bool parsed = false;
    if (key.empty()) {
      parsed = false;
    } else if (key == slice(kWrittenKey)) {
      parsed = take_number(value, loaded.written.day) && take_number(value, loaded.written.bytes);
    } else if (key[0] == kBlock) {
      parsed = parse_entry(bytes_of(key), value, loaded.entries.emplace_back());
      if (!parsed) loaded.entries.pop_back();
    } else {
      std::span<const std::byte> rest = bytes_of(key).subspan(1);
      std::uint32_t number = 0;
      Checkpoint checkpoint;
      parsed = take_number(rest, number) && rest.empty();
      if (parsed && key[0] == kTenant) loaded.tenants.emplace_back(number, as_text(value));
      if (key[0] == kCheckpoint && parsed) {
        parsed = parse_checkpoint(value, checkpoint);
        if (parsed) loaded.checkpoints.emplace_back(number, checkpoint);
      }
    }
    if (!parsed) ++loaded.unreadable;
  }
  if (!row->status().ok()) return failed("read", row->status());
  return loaded;
}

Status Index::verify() const {
  const rocksdb::Status blocks = impl_->db->VerifyChecksum();
  if (!blocks.ok()) return failed("verify", blocks);
  // Of tables from before files had checksums of their own there is nothing more to say.
  const rocksdb::Status files = impl_->db->VerifyFileChecksums({});
  return files.IsNotSupported() || files.IsInvalidArgument() ? Status{} : answer("verify", files);
}

Result<std::vector<std::uint32_t>> Index::devices() const {
  std::vector<std::uint32_t> numbers;
  const std::string prefix(1, kCheckpoint);
  const std::unique_ptr<rocksdb::Iterator> row(impl_->db->NewIterator({}));
  for (row->Seek(prefix); row->Valid() && row->key().starts_with(prefix); row->Next()) {
    std::span<const std::byte> rest = bytes_of(row->key()).subspan(1);
    std::uint32_t number = 0;
    if (take_number(rest, number)) numbers.push_back(number);
  }
  if (!row->status().ok()) return failed("read", row->status());
  return numbers;
}

Status Index::write(const IndexBatch& batch) {
  rocksdb::WriteBatch rows;
  rocksdb::Status added;
  const auto add = [&added](const rocksdb::Status& status) {
    if (added.ok()) added = status;
  };
  for (const Digest& digest : batch.deletes) add(rows.Delete(key_of(digest)));
  for (const IndexEntry& entry : batch.puts) add(rows.Put(key_of(entry.digest), value_of(entry)));
  if (batch.checkpoint) {
    add(rows.Put(numbered_key(kCheckpoint, batch.device), value_of(*batch.checkpoint)));
  }
  if (batch.written) {
    std::string value;
    append_number(value, batch.written->day);
    append_number(value, batch.written->bytes);
    add(rows.Put(slice(kWrittenKey), value));
  }
  if (!added.ok()) return failed("batch", added);
  SLUICE_KILL_POINT("store.index.writing");
  const rocksdb::Status written = impl_->db->Write({}, &rows);
  SLUICE_KILL_POINT("store.index.written");
  if (!written.ok()) impl_->resume();
  return answer("write", written);
}

Status Index::sync() {
  const rocksdb::Status synced = impl_->db->SyncWAL();
  SLUICE_KILL_POINT("store.index.synced");
  return answer("sync", synced);
}

}  // namespace sluice::storage
