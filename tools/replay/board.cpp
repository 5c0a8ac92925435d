#include "tools/replay/board.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>
#include <new>
#include <string>

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::chrono::seconds kBarrierTimeout{120};
constexpr long kFutexWaitNs = 50'000'000;  // so that a death without a ring is noticed, too
constexpr std::size_t kHeaderBytes = 4096;
constexpr std::size_t kWords = sizeof(Counters) / sizeof(std::uint64_t);
static_assert(sizeof(Counters) == kWords * sizeof(std::uint64_t));
static_assert(sizeof(BoardHeader) <= kHeaderBytes);

std::uint64_t* words_of(Counters& counters) { return reinterpret_cast<std::uint64_t*>(&counters); }
const std::uint64_t* words_of(const Counters& counters) {
  return reinterpret_cast<const std::uint64_t*>(&counters);
}

// std::atomic::wait is private to a process; this one is not.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected) {
  const timespec timeout{0, kFutexWaitNs};
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, expected, &timeout,
            nullptr, 0);
}

void futex_wake(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr,
            nullptr, 0);
}

}  // namespace

Counters& Counters::operator+=(const Counters& other) {
  std::uint64_t* const mine = words_of(*this);
  const std::uint64_t* const theirs = words_of(other);
  for (std::size_t i = 0; i < kWords; ++i) mine[i] += theirs[i];
  return *this;
}

void EngineBoard::publish(const Counters& counters) {
  const std::uint32_t next = published.load(std::memory_order_relaxed) + 1;
  std::uint64_t* const to = words_of(copies[next % 2]);
  const std::uint64_t* const from = words_of(counters);
  // A reader of the copy of two publications ago sees `published` move, and reads again.
  std::atomic_thread_fence(std::memory_order_release);
  for (std::size_t i = 0; i < kWords; ++i) {
    std::atomic_ref(to[i]).store(from[i], std::memory_order_relaxed);
  }
  published.store(next, std::memory_order_release);
  steps.store(counters.steps, std::memory_order_release);
}

Counters EngineBoard::snapshot() const {
  for (;;) {
    const std::uint32_t current = published.load(std::memory_order_acquire);
    Counters out;
    auto& copy =
        const_cast<Counters&>(copies[current % 2]);  // atomic_ref takes no const before C++26
    for (std::size_t i = 0; i < kWords; ++i) {
      words_of(out)[i] = std::atomic_ref(words_of(copy)[i]).load(std::memory_order_relaxed);
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    if (published.load(std::memory_order_relaxed) == current) return out;
  }
}

void EngineBoard::fail_with(std::string_view text) {
  const std::size_t size = std::min(text.size(), sizeof failure - 1);
  std::memcpy(failure, text.data(), size);
  failure[size] = '\0';
}

void EngineBoard::record(const Mismatch& what) {
  const std::uint32_t count = mismatch_count.load(std::memory_order_relaxed);
  if (count >= kMaxMismatches) return;
  mismatch[count] = what;
  mismatch_count.store(count + 1, std::memory_order_release);
}

void UnmapBoard::operator()(std::byte* memory) const { ::munmap(memory, bytes); }

ipc::Result<Board> Board::create(std::uint32_t engines) {
  const std::size_t bytes = kHeaderBytes + engines * sizeof(EngineBoard);
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return ipc::fail_errno("mmap of the engines' counters");
  Board board;
  auto* const base = static_cast<std::byte*>(memory);
  board.memory_ = std::unique_ptr<std::byte, UnmapBoard>(base, UnmapBoard{bytes});
  board.header_ = new (base) BoardHeader;
  board.engines_ = reinterpret_cast<EngineBoard*>(base + kHeaderBytes);
  for (std::uint32_t i = 0; i < engines; ++i) new (&board.engines_[i]) EngineBoard;
  board.count_ = engines;
  return board;
}

void Board::ring() {
  header_->bell.fetch_add(1);
  futex_wake(header_->bell);
}

void Board::stop() {
  header_->stop.store(1);
  ring();
}

void Board::leave(std::uint32_t engine) {
  engines_[engine].iteration.store(kLeft);
  ring();
}

ipc::Status Board::meet(std::uint32_t engine, std::uint64_t iteration) {
  engines_[engine].iteration.store(iteration);
  ring();
  const auto deadline = std::chrono::steady_clock::now() + kBarrierTimeout;
  for (;;) {
    const std::uint32_t seen = header_->bell.load();
    const auto behind = std::find_if(engines().begin(), engines().end(), [&](const EngineBoard& e) {
      return e.iteration.load() < iteration;
    });
    if (behind == engines().end() || stopping()) return {};
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail(Errc::timed_out, "engine " + std::to_string(behind - engines().begin()) +
                                       " did not reach iteration " + std::to_string(iteration) +
                                       " within " + std::to_string(kBarrierTimeout.count()) + " s");
    }
    futex_wait(header_->bell, seen);
  }
}

}  // namespace sluice::tools
