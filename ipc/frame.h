// Frames of the control socket: a u32 little-endian length, then so many bytes (one Envelope).
//
// File descriptors ride on the first byte of a frame. The reader never asks the kernel for bytes
// beyond the frame it is reading, so descriptors that arrive belong to that frame, however the
// bytes are cut. The daemon accepts none: its reader gives the kernel no room for them, so the
// kernel drops them without installing any, and the frame is a violation.
//
// Thread-safety: one thread per reader, one per writer; both may use one socket at a time.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "ipc/deadline.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::ipc {

inline constexpr std::size_t kFrameHeaderBytes = 4;
inline constexpr std::size_t kMaxFrameBytes = std::size_t{1} << 20;  // without the header
inline constexpr std::size_t kMaxFdsPerFrame = 64;

struct Frame {
  std::vector<std::byte> bytes;  // aligned for FlatBuffers
  std::vector<Fd> fds;           // in the order they were sent
};

enum class FdPolicy : bool { refuse, accept };

// Collects one frame after another from a socket, without blocking.
class FrameReader {
 public:
  explicit FrameReader(FdPolicy policy) : policy_(policy) {}

  enum class Progress : std::uint8_t {
    frame,   // take() has a whole frame
    again,   // the socket has no more bytes now: wait until it is readable
    closed,  // the peer closed its end, or died; an unfinished frame is lost
  };

  // Reads until one of the above. After `frame`, take() before the next call. Errors:
  // peer_violation (a length of 0 or above kMaxFrameBytes, descriptors where none may be, too many
  // of them), limit_reached (this process has no room for a descriptor that was sent), io_error. An
  // error is final: close the socket.
  Result<Progress> advance(int socket);

  // The frame of the last advance().
  Frame take();

 private:
  Result<Progress> receive(int socket, std::byte* into, std::size_t bytes, std::size_t& received);
  Status collect_fds(msghdr& message);

  FdPolicy policy_;
  std::array<std::byte, kFrameHeaderBytes> header_{};
  std::size_t header_bytes_ = 0;  // of header_ that are here
  std::size_t body_bytes_ = 0;    // of the body that are here
  std::size_t body_length_ = 0;   // known once the header is whole
  Frame frame_;
};

// A bounded queue of frames to be sent without blocking.
class FrameWriter {
 public:
  // Bytes that may wait, headers and the queue's own entries included. One frame always fits into
  // an empty queue.
  explicit FrameWriter(std::size_t max_queued_bytes = kDefaultQueuedBytes);

  // Descriptors that the peer has not read yet count against a limit of the kernel that all
  // sessions of a daemon share; a peer that lets more than this many pile up breaks the protocol.
  static constexpr std::size_t kMaxUnreadFds = 512;
  static constexpr std::size_t kDefaultQueuedBytes = 4 * kMaxFrameBytes;

  // Appends a frame; descriptors are duplicated, so the caller may close its own. Errors:
  // list_too_long (no bytes, or above kMaxFrameBytes or kMaxFdsPerFrame), busy (the queue is full:
  // the peer does not read), limit_reached (no free descriptor). On an error nothing is queued.
  Status enqueue(std::span<const std::byte> bytes, std::span<const int> fds = {});

  enum class Progress : std::uint8_t {
    drained,  // nothing is left
    again,    // the socket is full: wait until it is writable
    closed,   // the peer is gone
  };
  // Errors: peer_violation (see kMaxUnreadFds), limit_reached (the kernel holds too many
  // descriptors of this user in flight), io_error. An error is final: close the socket.
  Result<Progress> flush(int socket);

  bool empty() const { return queue_.empty(); }
  std::size_t queued_bytes() const { return queued_bytes_; }

 private:
  struct Queued {
    std::vector<std::byte> bytes;  // header included
    std::size_t sent = 0;
    std::vector<Fd> fds;  // until the first byte is sent
    bool fds_accounted = false;
  };
  // What a frame of so many bytes counts as: small ones cost more than they hold.
  static constexpr std::size_t cost_of(std::size_t bytes) {
    return kFrameHeaderBytes + bytes + sizeof(Queued);
  }
  Status account_unread_fds(int socket, std::size_t fds);

  std::size_t max_queued_bytes_;
  std::size_t queued_bytes_ = 0;
  std::size_t queued_fds_ = 0;
  std::size_t unread_fds_ = 0;  // sent since the peer was last seen to have read everything
  std::deque<Queued> queue_;
};

// Sends one frame and waits until the kernel has all of it. The socket may be blocking or not.
// Errors: list_too_long, timed_out (the stream is cut in the middle then: close the socket),
// daemon_away (the peer is gone), io_error.
Status send_frame(int socket, std::span<const std::byte> bytes, std::span<const int> fds,
                  Deadline deadline);

// Waits for the next whole frame. Errors: those of FrameReader, timed_out (call again to go on),
// and daemon_away when the peer closed.
Result<Frame> receive_frame(FrameReader& reader, int socket, Deadline deadline);

}  // namespace sluice::ipc
