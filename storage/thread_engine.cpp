#include "storage/thread_engine.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "storage/io_files.h"

namespace sluice::storage {
namespace {

struct Call {
  IoRequest request;
  int fd = -1;
};

std::int64_t call_once(const Call& call) {
  const IoRequest& request = call.request;
  const auto offset = static_cast<off_t>(request.offset);
  switch (request.op) {
    case IoOp::read:
      return pread(call.fd, request.memory, request.length, offset);
    case IoOp::write:
      return pwrite(call.fd, request.memory, request.length, offset);
    case IoOp::sync:
      return fdatasync(call.fd);
    case IoOp::discard:
      return fallocate(call.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                       static_cast<off_t>(request.length));
  }
  return -1;
}

IoAnswer perform(const Call& call) {
  for (;;) {
    errno = EINVAL;  // of an op that is none
    const std::int64_t result = call_once(call);
    if (result >= 0) return {call.request.tag, result};
    if (errno != EINTR) return {call.request.tag, -std::int64_t{errno}};
  }
}

class ThreadEngine final : public IoEngine {
 public:
  explicit ThreadEngine(std::uint32_t depth) : depth_(depth) {}

  // Ends what has begun; what waits in the queue is dropped.
  ~ThreadEngine() override {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // Throws std::system_error.
  void start_threads() {
    const std::uint32_t count = std::min(depth_, kMaxIoThreads);
    threads_.reserve(count);
    while (threads_.size() < count) threads_.emplace_back([this] { serve(); });
  }

  std::string_view name() const override { return "threads"; }
  std::uint32_t depth() const override { return depth_; }

  Result<IoFile> register_file(int fd) override { return files_.add(fd); }
  void unregister_file(IoFile file) override { files_.remove(file); }
  Status register_memory(std::span<std::byte>) override { return {}; }
  void unregister_memory(const std::byte*) override {}

  std::size_t submit(std::span<const IoRequest> requests) override {
    const std::size_t taken = std::min<std::size_t>(requests.size(), depth_ - in_flight_);
    if (taken == 0) return 0;
    {
      const std::lock_guard lock(mutex_);
      for (const IoRequest& request : requests.first(taken)) {
        SLUICE_ASSERT(request.length <= kMaxIoBytes || request.op == IoOp::discard);
        queue_.push_back({request, files_.descriptor(request.file)});
      }
    }
    in_flight_ += taken;
    taken == 1 ? work_.notify_one() : work_.notify_all();
    return taken;
  }

  std::size_t reap(std::span<IoAnswer> answers, std::chrono::microseconds timeout) override {
    std::unique_lock lock(mutex_);
    if (answered_.empty() && timeout > timeout.zero()) {
      news_.wait_for(lock, std::min(timeout, kMaxReapWait),
                     [this] { return !answered_.empty() || woken_; });
    }
    woken_.store(false);
    const std::size_t count = std::min(answers.size(), answered_.size());
    const auto end = answered_.begin() + static_cast<std::ptrdiff_t>(count);
    std::copy(answered_.begin(), end, answers.begin());
    answered_.erase(answered_.begin(), end);
    in_flight_ -= count;
    return count;
  }

  // Who wakes again and again takes no lock from those that work.
  void wake() override {
    if (woken_.exchange(true)) return;  // whoever woke before notifies, or has
    {
      const std::lock_guard lock(mutex_);
    }
    news_.notify_one();
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return !queue_.empty() || ending_; });
      if (ending_) return;
      const Call call = queue_.front();
      queue_.pop_front();
      lock.unlock();
      const IoAnswer answer = perform(call);
      lock.lock();
      answered_.push_back(answer);
      news_.notify_one();
    }
  }

  const std::uint32_t depth_;
  IoFiles files_;
  std::size_t in_flight_ = 0;  // taken, and the answer not yet reaped: at most depth_

  std::mutex mutex_;
  std::condition_variable work_, news_;
  std::deque<Call> queue_;  // guarded by mutex_, as what follows
  std::deque<IoAnswer> answered_;
  std::atomic<bool> woken_ = false;  // set without the mutex
  bool ending_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<IoEngine>> make_thread_engine(std::uint32_t depth) {
  SLUICE_ASSERT(depth >= 1 && depth <= kMaxIoDepth);
  auto engine = std::make_unique<ThreadEngine>(depth);
  try {
    engine->start_threads();
  } catch (const std::system_error& error) {
    return ipc::fail(Errc::limit_reached,
                     "starting the threads of an io engine failed: " + error.code().message() +
                         "; raise the limit of threads (ulimit -u)");
  }
  return engine;
}

}  // namespace sluice::storage
