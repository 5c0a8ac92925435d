#include "storage/testing/unsynced_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "storage/testing/fault_plan.h"

namespace sluice::storage {
namespace {

// The bytes of `from`, which begin at from_offset, where they fall into `to`.
void overlay(std::span<const std::byte> from, std::uint64_t from_offset, std::span<std::byte> to,
             std::uint64_t to_offset) {
  const std::uint64_t begin = std::max(from_offset, to_offset);
  const std::uint64_t end = std::min(from_offset + from.size(), to_offset + to.size());
  if (begin >= end || to.empty()) return;
  std::ranges::copy(from.subspan(begin - from_offset, end - begin),
                    to.subspan(begin - to_offset).begin());
}

}  // namespace

Result<std::unique_ptr<UnsyncedFile>> UnsyncedFile::open(int fd) {
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  const int own = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (own < 0) return ipc::fail_errno("opening a file again to remember its changes");
  return std::unique_ptr<UnsyncedFile>(new UnsyncedFile(own));
}

UnsyncedFile::~UnsyncedFile() { close(fd_); }

std::uint64_t UnsyncedFile::size() const {
  struct stat status = {};
  const int result = fstat(fd_, &status);
  SLUICE_ASSERT(result == 0);
  return static_cast<std::uint64_t>(status.st_size);
}

std::vector<std::byte> UnsyncedFile::read(std::uint64_t offset, std::uint64_t length) const {
  std::vector<std::byte> bytes(length);
  std::uint64_t done = 0;
  while (done < length) {
    const ssize_t got =
        pread(fd_, bytes.data() + done, length - done, static_cast<off_t>(offset + done));
    SLUICE_ASSERT(got >= 0);
    if (got == 0) break;
    done += static_cast<std::uint64_t>(got);
  }
  return bytes;
}

void UnsyncedFile::write(std::uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t put = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    SLUICE_ASSERT(put > 0);
    offset += static_cast<std::uint64_t>(put);
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
}

UnsyncedFile::Change UnsyncedFile::begin(std::uint64_t offset, std::uint64_t length) {
  SLUICE_ASSERT(length <= kMaxUnsyncedBytes);
  changes_.push_back({.id = ++last_id_,
                      .offset = offset,
                      .size_before = size(),
                      .before = read(offset, length),
                      .after = {},
                      .answered = 0,
                      .doomed = false});
  bytes_ += length;
  return last_id_;
}

void UnsyncedFile::end(Change ended) {
  const auto change = std::ranges::find(changes_, ended, &Kept::id);
  SLUICE_ASSERT(change != changes_.end() && change->answered == 0);
  // Not behind the end of the file, where a discard or a short write changes nothing.
  const std::uint64_t file_end = std::max(size(), change->offset);
  const std::uint64_t length =
      std::min<std::uint64_t>(change->before.size(), file_end - change->offset);
  bytes_ -= change->before.size() - length;
  change->before.resize(length);
  change->after = read(change->offset, length);
  change->answered = ++now_;
  settle_oldest();
}

void UnsyncedFile::sync_ends(Moment begun, bool good) {
  for (auto change = changes_.begin(); change != changes_.end();) {
    const bool covered = change->answered != 0 && change->answered <= begun && !change->doomed;
    if (covered && good) {
      change = settle(change);
      continue;
    }
    if (covered) change->doomed = true;
    ++change;
  }
}

// It is durable: what came before it cannot take it away any more.
UnsyncedFile::Place UnsyncedFile::settle(Place change) {
  for (auto older = changes_.begin(); older != change; ++older) {
    overlay(change->after, change->offset, older->before, older->offset);
    overlay(change->after, change->offset, older->after, older->offset);
    older->size_before = std::max(older->size_before, change->end());
  }
  bytes_ -= change->before.size();
  return changes_.erase(change);
}

void UnsyncedFile::settle_oldest() {
  for (auto change = changes_.begin(); change != changes_.end() && bytes_ > kMaxUnsyncedBytes;) {
    change = change->answered != 0 ? settle(change) : std::next(change);
  }
}

void UnsyncedFile::lose_power(std::mt19937_64& random, PowerLoss& loss) {
  for (auto change = changes_.rbegin(); change != changes_.rend(); ++change) undo(*change);
  for (const Kept& change : changes_) redo_some(change, random, loss);
  changes_.clear();
  bytes_ = 0;
  // O_DIRECT reads see it, and a later power loss does not.
  const int synced = fdatasync(fd_);
  SLUICE_ASSERT(synced == 0);
  (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_DONTNEED);
}

void UnsyncedFile::undo(const Kept& change) const {
  SLUICE_ASSERT(change.answered != 0);
  write(change.offset, change.before);
  if (change.size_before >= change.end() || size() != change.end()) return;
  const int cut = ftruncate(fd_, static_cast<off_t>(change.size_before));
  SLUICE_ASSERT(cut == 0);
}

void UnsyncedFile::redo_some(const Kept& change, std::mt19937_64& random, PowerLoss& loss) const {
  enum Fate : std::uint8_t { whole, none, first_sectors, scattered_sectors };
  const auto fate = static_cast<Fate>(random() % (scattered_sectors + 1));
  const std::span<const std::byte> after = change.after;
  const std::uint64_t sectors = (after.size() + kSectorBytes - 1) / kSectorBytes;
  const std::uint64_t first = sectors == 0 ? 0 : random() % sectors;
  for (std::uint64_t sector = 0; sector < sectors; ++sector) {
    const bool stays = fate == whole || (fate == first_sectors && sector < first) ||
                       (fate == scattered_sectors && random() % 2 == 0);
    if (!stays) continue;
    const std::uint64_t at = sector * kSectorBytes;
    write(change.offset + at, after.subspan(at, std::min(kSectorBytes, after.size() - at)));
  }
  ++(fate == whole ? loss.kept : fate == none ? loss.dropped : loss.torn);
}

}  // namespace sluice::storage
