// What drives engines that are forked from a process without a CUDA context.
//
// Thread-safety: any thread, but start_process.
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <new>
#include <optional>
#include <string>

namespace sluice::test::engines {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point from);

// Looks at `condition` until it is so, or until the time is over; whether it became so.
bool eventually(std::chrono::nanoseconds within, const std::function<bool()>& condition);

// Forks a process that runs `body` and exits with what it returns; it is killed when this one dies.
// -1: there is none.
pid_t start_process(const std::function<int()>& body);

// Reaps a process; its status, or nullopt at the deadline.
std::optional<int> await_process(pid_t pid, std::chrono::nanoseconds within);

std::string how_it_ended(int status);

// A pid of -1 would name every process.
void send_signal(pid_t pid, int signal);

// Closes every socket that this process has; what a forked child of an engine may call.
void close_sockets();

// Memory that processes forked from now on share with this one; never freed.
template <class T>
T* make_shared_memory() {
  void* const memory =
      mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return new (memory) T;
}

}  // namespace sluice::test::engines
