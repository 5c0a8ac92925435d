// What the daemon knows about an arena and clients may not touch, in memory that outlives it: who
// has which actor, and the frames of blocks (the daemon's own frame_of).
//
//   [header][actors x KeptSeat][blocks x u64 frame entry]
//
// Thread-safety: as CacheMemory, whose it is.
#pragma once

#include <atomic>
#include <cstdint>

#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/mapping.h"

namespace sluice::daemon {

struct KeptSeat {
  std::atomic<std::uint64_t> owner{0};  // session + 1; 0: nobody's
  std::atomic<std::uint32_t> executor{0};
  std::atomic<std::uint32_t> kept{0};  // 1: the session goes on with it after a restart
};
static_assert(sizeof(KeptSeat) == 16);

class ArenaState {
 public:
  ArenaState() = default;

  // Errors: no_memory, limit_reached, io_error.
  static ipc::Result<ArenaState> create(std::uint32_t actors, std::uint32_t blocks);
  // Of a daemon of before. Errors: invalid_argument (other sizes, or no such memory), no_memory.
  static ipc::Result<ArenaState> adopt(ipc::Fd fd, std::uint32_t actors, std::uint32_t blocks);

  int fd() const { return fd_.get(); }
  KeptSeat& seat(std::uint32_t actor) { return seats_[actor]; }
  std::uint64_t* frames() { return frames_; }
  // How far the frame log was written, as of the last note; a few entries may have followed.
  std::uint64_t log_end() const { return header_->log_end.load(std::memory_order_relaxed); }
  void note_log_end(std::uint64_t end) { header_->log_end.store(end, std::memory_order_relaxed); }

 private:
  struct Header {
    std::uint64_t magic = 0;
    std::uint32_t actors = 0;
    std::uint32_t blocks = 0;
    std::atomic<std::uint64_t> log_end{0};
  };
  static constexpr std::uint64_t kMagic = 0x31'41'4e'45'52'41'4c'53;  // "SLARENA1"
  static constexpr std::uint64_t kHeaderBytes = 64;

  static std::uint64_t bytes_for(std::uint32_t actors, std::uint32_t blocks);
  static ipc::Result<ArenaState> map(ipc::Fd fd, std::uint32_t actors, std::uint32_t blocks);

  ipc::Fd fd_;
  ipc::Mapping memory_;
  Header* header_ = nullptr;
  KeptSeat* seats_ = nullptr;
  std::uint64_t* frames_ = nullptr;
};

}  // namespace sluice::daemon
