// The rings of a client: requests go out in order, completions come back in any.
//
// Each request has a ticket from a bounded table; its request memory is given back when its
// completion was read, also when nobody waits for it any more: the daemon may write there until
// then. A sequence that an abandoned request made is released.
//
// Thread-safety: any thread. Waiting threads elect one that reads the completion ring for all.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "client/control.h"
#include "ipc/deadline.h"
#include "ipc/doorbell.h"
#include "ipc/error.h"
#include "ipc/request_memory.h"
#include "ipc/session_memory.h"
#include "ipc/waiter.h"

namespace sluice::client::internal {

class Channel {
 public:
  Channel(ipc::SessionMemory memory, ipc::Doorbell bell, Control& control);

  // What a request says besides its memory. Offsets are inside the request's piece of memory.
  struct Request {
    ipc::wire::Op op = ipc::wire::Op::nop;
    std::uint16_t flags = 0;
    std::uint32_t actor = 0;
    std::uint32_t count = 0;
    std::uint32_t length = 0;  // request bytes, at the start of the piece
    std::uint32_t reply_offset = 0;
    std::uint32_t reply_length = 0;
    std::uint64_t handle = 0;
    std::uint64_t value = 0;
  };

  struct Answer {
    ipc::wire::Completion completion{};
    ipc::RequestPiece memory;  // as submitted; its reply area may hold the reply
  };

  // A request under way; waited for once, or abandoned.
  struct Ticket {
    std::uint32_t slot = 0;
    std::uint64_t user_data = 0;
  };

  const ipc::SessionMemory& memory() const { return memory_; }

  // The daemon is away, and the session not to be gone on with.
  void say_goodbye() const { bell_.say_goodbye(); }

  // Room in request memory. Waits while requests in flight hold it. Errors: list_too_long,
  // timed_out.
  ipc::Result<ipc::RequestPiece> allocate(std::size_t bytes, ipc::Deadline deadline);

  // Sends a request. Errors: timed_out (no ticket or ring slot came free),
  // daemon_away, peer_violation.
  ipc::Result<Ticket> submit(const Request& request, ipc::RequestPiece memory,
                             ipc::Deadline deadline);

  // Waits for the completion. On timed_out the ticket stays valid. An error that the daemon
  // completed with comes back as that error.
  ipc::Result<Answer> wait(const Ticket& ticket, ipc::Deadline deadline);

  // Nobody will wait for it.
  void abandon(const Ticket& ticket);

  // submit and wait; on a time-out the request is abandoned.
  ipc::Result<Answer> call(const Request& request, ipc::RequestPiece memory,
                           ipc::Deadline deadline);

  std::size_t request_bytes() const { return requests_.capacity(); }

  // The error that ended the session; Errc::ok while it lives.
  ipc::Errc end_code();

 private:
  struct Pending {
    enum class State : std::uint8_t { free, waiting, abandoned, done } state = State::free;
    std::uint64_t user_data = 0;
    ipc::wire::Op op = ipc::wire::Op::nop;
    std::uint32_t reply_offset = 0;  // inside the piece
    std::uint32_t reply_length = 0;
    Answer answer;
  };

  // One look at, or one wait for, the completion ring by the elected thread; `lock` holds mutex_.
  ipc::Status pump(std::unique_lock<std::mutex>& lock, ipc::Deadline deadline);
  ipc::Status take_completions();
  // Errors: peer_violation (a completion that no honest daemon would write).
  ipc::Status check_completion(const ipc::wire::Completion& completion) const;
  // submit() when a ticket is free.
  ipc::Result<Ticket> send(const Request& request, ipc::RequestPiece memory);
  // Of a request that was abandoned. Errors: peer_violation.
  ipc::Status drop_answer(std::uint32_t slot);
  ipc::Status release(std::uint64_t sequence);
  ipc::Status end(ipc::Error error);
  ipc::Error completion_error(const Pending& pending) const;
  void free_slot(std::uint32_t slot);

  ipc::SessionMemory memory_;
  ipc::Doorbell bell_;
  Control& control_;
  ipc::RequestMemory requests_;

  std::mutex mutex_;
  std::condition_variable changed_;
  ipc::SubmissionProducer submissions_;
  ipc::CompletionConsumer completions_;
  ipc::Waiter waiter_;
  std::vector<Pending> pending_;
  std::vector<std::uint32_t> free_;
  std::uint32_t round_ = 0;
  bool pumping_ = false;
  ipc::Error ended_{ipc::Errc::ok, {}};
};

}  // namespace sluice::client::internal
