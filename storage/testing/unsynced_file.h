// The changes of one file that a power loss may still undo: those that were answered, and not yet
// made durable by a sync that was submitted after their answer.
//
// It remembers the bytes of before and after each change. A sync that fails takes its changes with
// it, as kernels do that mark pages clean all the same: no later sync makes those durable. More
// than kMaxUnsyncedBytes are not kept: the oldest count as durable then, as if the disk had written
// its cache back.
//
// Thread-safety: none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "storage/io_engine.h"

namespace sluice::storage {

inline constexpr std::uint64_t kMaxUnsyncedBytes = std::uint64_t{256} << 20;  // of a file

// What a power loss did to the changes.
struct PowerLoss {
  std::uint64_t kept = 0, dropped = 0, torn = 0;
};

class UnsyncedFile {
 public:
  // Opens the file of the descriptor a second time, without O_DIRECT. Errors: as of open(2).
  static Result<std::unique_ptr<UnsyncedFile>> open(int fd);
  ~UnsyncedFile();
  UnsyncedFile(const UnsyncedFile&) = delete;
  UnsyncedFile& operator=(const UnsyncedFile&) = delete;

  // What is in the file now; zeros behind its end.
  std::vector<std::byte> read(std::uint64_t offset, std::uint64_t length) const;

  // Around a write or discard. end() when its answer is given, or when nobody will ask for it and
  // it happened or will not happen any more.
  using Change = std::uint64_t;
  Change begin(std::uint64_t offset, std::uint64_t length);
  void end(Change ended);

  // Around a sync: what sync_begins() gave says which changes it is for.
  using Moment = std::uint64_t;
  Moment sync_begins() const { return now_; }
  void sync_ends(Moment begun, bool good);

  bool clean() const { return changes_.empty(); }

  // Each change stays, goes, or stays in some of its sectors. None is in flight.
  void lose_power(std::mt19937_64& random, PowerLoss& loss);

 private:
  struct Kept {
    Change id = 0;
    std::uint64_t offset = 0;
    std::uint64_t size_before = 0;         // of the file
    std::vector<std::byte> before, after;  // as long; `after` only once it is answered
    Moment answered = 0;                   // 0: in flight
    bool doomed = false;                   // a sync that was for it has failed

    std::uint64_t end() const { return offset + before.size(); }
  };
  using Place = std::list<Kept>::iterator;

  explicit UnsyncedFile(int fd) : fd_(fd) {}
  std::uint64_t size() const;
  void write(std::uint64_t offset, std::span<const std::byte> bytes) const;
  Place settle(Place change);
  void settle_oldest();
  void undo(const Kept& change) const;
  void redo_some(const Kept& change, std::mt19937_64& random, PowerLoss& loss) const;

  const int fd_;
  Moment now_ = 1;
  Change last_id_ = 0;
  std::uint64_t bytes_ = 0;
  std::list<Kept> changes_;  // in the order of begin()
};

}  // namespace sluice::storage
