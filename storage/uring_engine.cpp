#include "storage/uring_engine.h"

#include <fcntl.h>
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <map>
#include <system_error>
#include <thread>
#include <vector>

#include "storage/io_files.h"

namespace sluice::storage {
namespace {

using std::chrono::steady_clock;

// The kernel's bound of one registered buffer; a longer piece of memory takes several.
constexpr std::size_t kMaxBufferBytes = std::size_t{1} << 30;
// What the completion of the wake's read is known by; a request's is the index of its slot.
constexpr std::uint64_t kWakeData = std::uint64_t{1} << 32;
constexpr std::size_t kReapBatch = 64;

constexpr std::array kNeededOps = {IORING_OP_READ,  IORING_OP_WRITE,     IORING_OP_READ_FIXED,
                                   IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_WRITE_FIXED};

std::string words_of(int error) { return std::generic_category().message(error); }

class Ring {
 public:
  Ring() = default;
  ~Ring() {
    if (open_) io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // 0, or -errno.
  int open(unsigned entries, unsigned flags) {
    SLUICE_ASSERT(!open_);
    const int result = io_uring_queue_init(entries, &ring_, flags);
    open_ = result == 0;
    return result;
  }

  io_uring* get() { return &ring_; }

 private:
  io_uring ring_ = {};
  bool open_ = false;
};

// The pieces of memory in the ring's table of buffers.
class Buffers {
 public:
  explicit Buffers(io_uring* ring) : ring_(ring) {
    refused_ = io_uring_register_buffers_sparse(ring_, kMaxIoMemories);
    if (refused_ != 0) return;
    for (std::uint32_t index = kMaxIoMemories; index > 0; --index) free_.push_back(index - 1);
  }

  Status add(std::span<std::byte> memory) {
    if (refused_ != 0) {
      return ipc::fail(Errc::not_supported,
                       "io_uring has no table of buffers here (" + words_of(-refused_) + ")");
    }
    if (memory.empty()) return ipc::fail(Errc::invalid_argument, "no memory to register");
    if (overlaps(memory)) {
      return ipc::fail(Errc::invalid_argument,
                       "memory is registered that overlaps; unregister it first");
    }
    for (std::size_t done = 0; done < memory.size(); done += kMaxBufferBytes) {
      const std::size_t bytes = std::min(kMaxBufferBytes, memory.size() - done);
      if (Status added = add_buffer(memory.data(), memory.subspan(done, bytes)); !added) {
        remove(memory.data());
        return added;
      }
    }
    return {};
  }

  // All that was added as the memory that begins there.
  void remove(const std::byte* memory) {
    auto buffer = buffers_.find(memory);
    while (buffer != buffers_.end() && buffer->second.memory == memory) {
      const iovec none = {};
      const int updated =
          io_uring_register_buffers_update_tag(ring_, buffer->second.index, &none, nullptr, 1);
      SLUICE_ASSERT(updated == 1);
      free_.push_back(buffer->second.index);
      buffer = buffers_.erase(buffer);
    }
  }

  // The index of the buffer that holds all of it; -1 if there is none.
  int find(const std::byte* address, std::uint64_t length) const {
    auto buffer = buffers_.upper_bound(address);
    if (buffer == buffers_.begin()) return -1;
    --buffer;
    const auto before = static_cast<std::uint64_t>(address - buffer->first);
    const bool inside = before <= buffer->second.bytes && length <= buffer->second.bytes - before;
    return inside ? static_cast<int>(buffer->second.index) : -1;
  }

 private:
  struct Buffer {
    const std::byte* memory;  // that it was added as a part of
    std::size_t bytes;
    std::uint32_t index;
  };

  bool overlaps(std::span<const std::byte> memory) const {
    const auto next = buffers_.lower_bound(memory.data());
    if (next != buffers_.end() && next->first < memory.data() + memory.size()) return true;
    if (next == buffers_.begin()) return false;
    const auto previous = std::prev(next);
    return previous->first + previous->second.bytes > memory.data();
  }

  Status add_buffer(const std::byte* memory, std::span<std::byte> bytes) {
    if (free_.empty()) {
      return ipc::fail(
          Errc::limit_reached,
          "an io engine registers at most " + std::to_string(kMaxIoMemories) + " pieces of memory");
    }
    const iovec vector = {bytes.data(), bytes.size()};
    const int updated =
        io_uring_register_buffers_update_tag(ring_, free_.back(), &vector, nullptr, 1);
    if (updated != 1) {
      return ipc::fail(Errc::limit_reached, "io_uring did not register " +
                                                std::to_string(bytes.size()) +
                                                " bytes of memory (" + words_of(-updated) +
                                                "); the memlock limit (ulimit -l) may be too low");
    }
    buffers_.emplace(bytes.data(), Buffer{memory, bytes.size(), free_.back()});
    free_.pop_back();
    return {};
  }

  io_uring* ring_;
  int refused_ = 0;  // -errno of the table
  std::map<const std::byte*, Buffer> buffers_;
  std::vector<std::uint32_t> free_;
};

class UringEngine final : public IoEngine {
 public:
  UringEngine(std::unique_ptr<Ring> ring, int wake_fd, std::uint32_t depth)
      : owned_(std::move(ring)),
        ring_(owned_->get()),
        wake_fd_(wake_fd),
        buffers_(ring_),
        has_file_table_(io_uring_register_files_sparse(ring_, kMaxIoFiles) == 0),
        tags_(depth) {
    for (std::uint32_t slot = depth; slot > 0; --slot) free_slots_.push_back(slot - 1);
  }

  ~UringEngine() override {
    wake();
    std::array<IoAnswer, kReapBatch> answers;
    for (;;) {
      while (collect(answers) != 0) {
      }
      if (free_slots_.size() == tags_.size() && !wake_armed_) break;
      enter(kMaxReapWait);
    }
    close(wake_fd_);
  }

  std::string_view name() const override { return "io_uring"; }
  std::uint32_t depth() const override { return static_cast<std::uint32_t>(tags_.size()); }

  Result<IoFile> register_file(int fd) override {
    auto file = files_.add(fd);
    if (!file) return file;
    if (file->index >= in_table_.size()) in_table_.resize(file->index + 1);
    in_table_[file->index] =
        has_file_table_ && io_uring_register_files_update(ring_, file->index, &fd, 1) == 1;
    return file;
  }

  void unregister_file(IoFile file) override {
    files_.remove(file);
    if (!in_table_[file.index]) return;
    const int none = -1;
    const int updated = io_uring_register_files_update(ring_, file.index, &none, 1);
    SLUICE_ASSERT(updated == 1);
  }

  Status register_memory(std::span<std::byte> memory) override { return buffers_.add(memory); }
  void unregister_memory(const std::byte* memory) override { buffers_.remove(memory); }

  std::size_t submit(std::span<const IoRequest> requests) override {
    const std::size_t taken = std::min(requests.size(), free_slots_.size());
    for (const IoRequest& request : requests.first(taken)) {
      io_uring_sqe* const entry = next_entry();
      prepare(entry, request);
      const std::uint32_t slot = free_slots_.back();
      free_slots_.pop_back();
      tags_[slot] = request.tag;
      io_uring_sqe_set_data64(entry, slot);
    }
    push();
    return taken;
  }

  std::size_t reap(std::span<IoAnswer> answers, std::chrono::microseconds timeout) override {
    if (answers.empty()) return 0;
    push();
    const auto end = steady_clock::now() + std::min(timeout, kMaxReapWait);
    for (;;) {
      const std::size_t count = collect(answers);
      const auto left = end - steady_clock::now();
      if (count != 0 || woken_ || left <= left.zero()) {
        woken_ = false;
        return count;
      }
      arm_wake();
      enter(left);
    }
  }

  void wake() override {
    // A wake that was sent and not yet seen stands for this one too.
    if (wake_sent_.exchange(true)) return;
    const ssize_t written = eventfd_write(wake_fd_, 1);
    SLUICE_ASSERT(written == 0);
  }

 private:
  // There are as many as can be in flight, the wake among them.
  io_uring_sqe* next_entry() {
    io_uring_sqe* const entry = io_uring_get_sqe(ring_);
    SLUICE_ASSERT(entry != nullptr);
    return entry;
  }

  void prepare(io_uring_sqe* entry, const IoRequest& request) const {
    const int descriptor = files_.descriptor(request.file);
    const bool in_table = in_table_[request.file.index];
    const int file = in_table ? static_cast<int>(request.file.index) : descriptor;
    switch (request.op) {
      case IoOp::read:
      case IoOp::write:
        prepare_transfer(entry, file, request);
        break;
      case IoOp::sync:
        io_uring_prep_fsync(entry, file, IORING_FSYNC_DATASYNC);
        break;
      case IoOp::discard:
        io_uring_prep_fallocate(entry, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                static_cast<off_t>(request.offset),
                                static_cast<off_t>(request.length));
        break;
    }
    if (in_table) io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
  }

  void prepare_transfer(io_uring_sqe* entry, int file, const IoRequest& request) const {
    SLUICE_ASSERT(request.length <= kMaxIoBytes);
    const auto length = static_cast<unsigned>(request.length);
    const int buffer = buffers_.find(request.memory, request.length);
    const bool reads = request.op == IoOp::read;
    if (buffer >= 0 && reads) {
      io_uring_prep_read_fixed(entry, file, request.memory, length, request.offset, buffer);
    } else if (buffer >= 0) {
      io_uring_prep_write_fixed(entry, file, request.memory, length, request.offset, buffer);
    } else if (reads) {
      io_uring_prep_read(entry, file, request.memory, length, request.offset);
    } else {
      io_uring_prep_write(entry, file, request.memory, length, request.offset);
    }
  }

  // A read of the eventfd, which stays in the ring until a wake.
  void arm_wake() {
    if (wake_armed_) return;
    io_uring_sqe* const entry = next_entry();
    io_uring_prep_read(entry, wake_fd_, &wake_count_, sizeof(wake_count_), 0);
    io_uring_sqe_set_data64(entry, kWakeData);
    wake_armed_ = true;
  }

  // What the kernel does not take now, for want of memory, stays in the ring for the next time.
  void push() {
    if (io_uring_sq_ready(ring_) != 0) io_uring_submit(ring_);
  }

  // Waits for a completion.
  void enter(steady_clock::duration timeout) {
    const auto seconds = std::chrono::floor<std::chrono::seconds>(timeout);
    const auto rest = std::chrono::nanoseconds(timeout - seconds);
    __kernel_timespec limit = {.tv_sec = seconds.count(), .tv_nsec = rest.count()};
    io_uring_cqe* completion = nullptr;
    const int result = io_uring_submit_and_wait_timeout(ring_, &completion, 1, &limit, nullptr);
    SLUICE_ASSERT(result != -EBADF && result != -EINVAL && result != -EFAULT);
    if (result == -EAGAIN || result == -EBUSY || result == -ENOMEM) std::this_thread::yield();
  }

  std::size_t collect(std::span<IoAnswer> answers) {
    std::size_t count = 0;
    io_uring_cqe* completion = nullptr;
    while (count < answers.size() && io_uring_peek_cqe(ring_, &completion) == 0) {
      if (completion->user_data == kWakeData) {
        take_wake(completion->res);
      } else {
        const auto slot = static_cast<std::uint32_t>(completion->user_data);
        answers[count++] = {tags_[slot], completion->res};
        free_slots_.push_back(slot);
      }
      io_uring_cqe_seen(ring_, completion);
    }
    return count;
  }

  void take_wake(int result) {
    wake_armed_ = false;
    // The kernel cancels what a thread that ends has in the ring: then the next one reads again.
    if (result == -ECANCELED) return;
    woken_ = true;
    wake_sent_.exchange(false);
  }

  const std::unique_ptr<Ring> owned_;
  io_uring* const ring_;

  const int wake_fd_;
  std::atomic<bool> wake_sent_ = false;  // and not yet seen by collect()
  std::uint64_t wake_count_ = 0;         // the kernel writes it
  bool wake_armed_ = false;
  bool woken_ = false;

  Buffers buffers_;
  IoFiles files_;
  const bool has_file_table_;
  std::vector<bool> in_table_;  // by index of the file: in the ring's table too

  std::vector<std::uint64_t> tags_;  // by slot; a request in flight has one
  std::vector<std::uint32_t> free_slots_;
};

int open_ring(Ring& ring, std::uint32_t depth) {
  // Completions need not interrupt the thread that will reap them. Linux 5.19 knows the flags.
  constexpr unsigned kQuiet =
      IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  const unsigned entries = depth + 1;  // and the wake
  const int result = ring.open(entries, kQuiet);
  return result == -EINVAL ? ring.open(entries, 0) : result;
}

std::string why_not_opened(int error) {
  std::string advice;
  if (error == EPERM || error == EACCES) {
    advice = "; the sysctl kernel.io_uring_disabled or a container's seccomp profile forbids it";
  } else if (error == ENOSYS) {
    advice = "; the kernel has none, or a container's seccomp profile hides it";
  } else if (error == ENOMEM) {
    advice = "; raise the memlock limit (ulimit -l)";
  }
  return "the kernel gave no io_uring: " + words_of(error) + advice;
}

// Empty: it has all that the engine needs.
std::string what_lacks(io_uring* ring) {
  constexpr unsigned kNeeded = IORING_FEAT_NODROP | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG;
  if ((ring->features & kNeeded) != kNeeded) return "waits with a timeout";
  const std::unique_ptr<io_uring_probe, decltype(&io_uring_free_probe)> probe(
      io_uring_get_probe_ring(ring), &io_uring_free_probe);
  if (probe == nullptr) return "the list of its operations";
  for (const int op : kNeededOps) {
    if (io_uring_opcode_supported(probe.get(), op) == 0) return "operation " + std::to_string(op);
  }
  return "";
}

}  // namespace

Result<std::unique_ptr<IoEngine>> make_uring_engine(std::uint32_t depth) {
  SLUICE_ASSERT(depth >= 1 && depth <= kMaxIoDepth);
  auto ring = std::make_unique<Ring>();
  if (const int opened = open_ring(*ring, depth); opened != 0) {
    return ipc::fail(Errc::not_supported, why_not_opened(-opened));
  }
  if (const std::string lacking = what_lacks(ring->get()); !lacking.empty()) {
    return ipc::fail(Errc::not_supported, "the io_uring of this kernel lacks " + lacking +
                                              "; Linux 5.11 has all that is needed");
  }
  const int wake_fd = eventfd(0, EFD_CLOEXEC);
  if (wake_fd < 0) return ipc::fail_errno("making the eventfd of an io engine");
  return std::make_unique<UringEngine>(std::move(ring), wake_fd, depth);
}

}  // namespace sluice::storage
