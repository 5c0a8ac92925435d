#include "tools/bench/index_writer.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "storage/file.h"
#include "tools/bench/storage_index.h"

namespace sluice::tools {
namespace {

constexpr std::uint32_t kWriterDepth = 32;
constexpr std::uint64_t kSpareSegments = 32;

bool write_whole(int fd, const void* data, std::size_t bytes) {
  return ::write(fd, data, bytes) == static_cast<ssize_t>(bytes);
}

// Answers come in any order; what is told is how many of the first ones are there.
class Acknowledgements {
 public:
  explicit Acknowledgements(int told) : told_(told) {}

  void begin() {
    std::unique_lock lock(mutex_);
    room_.wait(lock, [&] { return in_flight_ < kWriterDepth; });
    ++in_flight_;
  }
  void end(std::uint64_t block, const ipc::Status& status) {
    const std::lock_guard lock(mutex_);
    --in_flight_;
    room_.notify_one();
    if (!status) return;
    early_.insert(block);
    while (early_.erase(first_) > 0) ++first_;
    static_cast<void>(write_whole(told_, &first_, sizeof first_));
  }

 private:
  const int told_;
  std::mutex mutex_;
  std::condition_variable room_;
  std::uint32_t in_flight_ = 0;
  std::set<std::uint64_t> early_;
  std::uint64_t first_ = 0;
};

}  // namespace

storage::Namespace index_scope() { return {"bench", "model", "", "layout", "shard"}; }

storage::StoreConfig index_config(const std::filesystem::path& directory) {
  storage::StoreConfig config;
  config.segment_bytes = kIndexSegmentBytes;
  std::uint64_t segments = kSpareSegments;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    segments += entry.path().filename().string().starts_with("segment-") ? 1 : 0;
  }
  config.devices = {{directory, segments * kIndexSegmentBytes}};
  return config;
}

void write_until_killed(int go, int told) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::string directory(4096, '\0');
  const ssize_t got = ::read(go, directory.data(), directory.size());
  if (got <= 0) return;
  directory.resize(static_cast<std::size_t>(got));
  const auto store = storage::BlockStore::open(index_config(directory));
  if (!store) return;
  const auto scope = (*store)->intern(index_scope());
  const auto payload = storage::allocate_aligned(kWrittenBlockBytes);
  if (!scope || !payload) return;
  std::memset(payload.get(), 1, kWrittenBlockBytes);
  Acknowledgements acknowledgements(told);
  for (std::uint64_t block = 0;; ++block) {
    acknowledgements.begin();
    (*store)->write(*scope, written_key(block).view(), {payload.get(), kWrittenBlockBytes},
                    kWrittenBlockBytes, storage::IoClass::write_back,
                    [&acknowledgements, block](const ipc::Status& status) {
                      acknowledgements.end(block, status);
                    });
  }
}

ipc::Result<KilledWriter> KilledWriter::fork_now() {
  int go[2];
  int told[2];
  if (::pipe(go) != 0) return ipc::fail_errno("a pipe to the writer");
  if (::pipe(told) != 0) return ipc::fail_errno("a pipe from the writer");
  const pid_t child = ::fork();
  if (child < 0) return ipc::fail_errno("fork of the writer");
  if (child == 0) {
    ::close(go[1]);
    ::close(told[0]);
    write_until_killed(go[0], told[1]);
    ::_exit(1);
  }
  ::close(go[0]);
  ::close(told[1]);
  return KilledWriter(child, go[1], told[0]);
}

KilledWriter::KilledWriter(KilledWriter&& other) noexcept
    : child_(std::exchange(other.child_, -1)),
      go_(std::exchange(other.go_, -1)),
      told_(std::exchange(other.told_, -1)) {}

KilledWriter::~KilledWriter() {
  if (go_ >= 0) ::close(go_);
  if (told_ >= 0) ::close(told_);
  if (child_ < 0) return;
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
}

ipc::Result<std::uint64_t> KilledWriter::run(const std::filesystem::path& directory,
                                             std::uint64_t blocks) {
  const std::string text = directory.string();
  if (!write_whole(go_, text.data(), text.size())) return ipc::fail_errno("waking the writer");
  std::uint64_t acknowledged = 0;
  const auto hear = [&] {
    std::uint64_t count = 0;
    const ssize_t got = ::read(told_, &count, sizeof count);
    if (got == static_cast<ssize_t>(sizeof count)) acknowledged = count;
    return got > 0;
  };
  while (acknowledged < blocks) {
    if (!hear()) return ipc::fail(ipc::Errc::io_error, "the writer of the index ended by itself");
  }
  ::kill(child_, SIGKILL);
  ::waitpid(child_, nullptr, 0);
  child_ = -1;
  while (hear()) {
  }
  return acknowledged;
}

}  // namespace sluice::tools
