// Gets segments back: moves what is worth keeping out of one, drops the rest, and frees it.
//
// A segment in which nothing is wanted is freed at once, others when few segments are free. One
// with enough dead bytes is *compacted*: all its blocks move. The one with the best benefit for its
// cost, (1 - u) * age / (1 + u) of the share u that must move (Rosenblum and Ousterhout, "The
// Design and Implementation of a Log-Structured File System"; age in segments begun since). If
// there is none, the device is full of blocks that exist, and some must go: by the same measure of
// the blocks that were used since they were written. These move, the others are dropped. A segment
// of which more than half would move is passed over once instead, as if it were new and its blocks
// not used yet (a second chance that writes nothing). Blocks that are held always move; a segment
// of which these are more than three quarters is left as it is. So every segment that is cleaned
// gains at least a quarter of itself. One whose held blocks could not be moved stays for a while,
// with all that is in it. While no segment is free, what moves must fit behind what was written
// last.
//
// A *compaction* (BlockStore::compact) chooses by the share that is alive alone, the emptiest
// first, and drops nothing; while it goes on nothing else is chosen, unless a write waits for
// space.
//
// Unless writes wait for space, one block moves at a time, behind everything else.
//
// Thread-safety: the device's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "storage/device_context.h"
#include "storage/job.h"

namespace sluice::storage {

class Cleaner {
 public:
  // `reads` and `writes` are the device's queues; moves go through them.
  Cleaner(DeviceContext& context, JobQueue& reads, JobQueue& writes)
      : context_(context), reads_(reads), writes_(writes) {}

  // `urgent`: a write waits for space. false: urgent, and there is nothing to gain.
  bool turn(bool urgent);
  void compact(double least_live, Done done);
  void read_ended(std::unique_ptr<Job> job, Status status);
  void write_ended(Status status);
  // Ends what it does without finishing it; turn() is not called again.
  void stop(const Status& why);

 private:
  // Segments of which less is alive, of those that were begun before, are to be emptied.
  struct Compaction {
    double least_live = 0;
    std::uint64_t newest = 0;
    Done done;
    bool on_victim = false;
    Status failed;  // a move: the victim stays as it is
  };

  // A segment is chosen, and how.
  bool choose(bool urgent);
  bool choose_to_compact();
  void end_compaction(Status status);
  bool begin_victim(bool urgent);
  bool end_victim();
  void leave_victim();
  std::optional<std::uint32_t> choose_to_move(const std::vector<SegmentUse>& uses,
                                              std::uint64_t room) const;
  std::optional<std::uint32_t> choose_to_drop(std::vector<SegmentUse> uses, std::uint64_t room);
  bool is_there_one(const std::vector<SegmentUse>& uses, std::uint64_t room);
  bool take_one(const std::vector<SegmentUse>& uses, std::uint64_t room);
  bool may_be_moved(std::uint32_t segment) const;
  std::uint64_t unheld_to_keep(const SegmentUse& use, std::uint64_t room) const;
  std::uint64_t bytes(double share) const;  // of a segment
  double share(std::uint64_t bytes) const;  // the same, the other way round
  void take_all(std::uint32_t segment);
  void take_used(std::uint32_t segment, std::uint64_t most_to_keep);
  void start_moves(std::size_t most);
  bool try_release();

  DeviceContext& context_;
  JobQueue& reads_;
  JobQueue& writes_;
  std::optional<std::uint32_t> victim_;
  std::deque<IndexEntry> to_move_;
  std::size_t moving_ = 0;
  std::optional<Compaction> compaction_;
  std::chrono::steady_clock::time_point look_again_;  // unless a write waits for space
  bool looked_with_enough_ = false;
  std::unordered_map<std::uint32_t, std::chrono::steady_clock::time_point> stuck_until_;
  std::chrono::steady_clock::time_point paused_until_;
  bool careful_ = false;  // a move failed, and no segment was freed since: one at a time
};

}  // namespace sluice::storage
