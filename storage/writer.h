// Writes blocks of a device, in groups that share one sync and one batch of the index.
//
// The payload is copied piece by piece into memory of our own, and checksums are made over the
// copy: what the checksums say is what is written, whatever a client does to its memory meanwhile.
// A group's records are in one segment. While a group syncs the next one is filled. A group ends
// well or badly as a whole at the sync; before it, a record whose writes failed only costs itself.
//
// Thread-safety: the device's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "storage/device_context.h"
#include "storage/job.h"
#include "storage/staging.h"

namespace sluice::storage {

class Writer {
 public:
  // `moved`: a write of cleaning ended.
  using Moved = std::function<void(std::unique_ptr<Job>, Status)>;
  Writer(DeviceContext& context, std::uint32_t depth, Moved moved);
  ~Writer();

  // Whether begin() may be called: the record before is on its way as a whole.
  bool has_room() const { return pumping_ == nullptr; }
  // no_memory: there is no place on the device now; the job is still the caller's. Other errors
  // answered the job.
  Status begin(std::unique_ptr<Job>& job);
  // Goes on as far as staging memory allows, and begins syncs. `more`: writes are waiting.
  void turn(bool more);
  bool idle() const { return pumping_ == nullptr && groups_.empty(); }
  // Up to where the index knows the records.
  const Checkpoint& checkpoint() const { return checkpoint_; }

  // Answers a write job that was not begun, or that ended.
  void answer(std::unique_ptr<Job> job, const Status& status);

 private:
  struct Op;
  struct Group;

  Group& group_for(const Place& place);
  void pump();
  void pump_piece();
  void write_header();
  static void write_header_page(const Op& op, Page page);
  void push(Op& op, std::byte* piece, std::uint64_t offset, std::uint64_t length);
  void push_segment_page(Group& group, const SegmentIdentity& segment);
  void begin_sync();
  void synced(int error);
  void give_up_segment(const Group& group);
  void end_group(Group& group);

  DeviceContext& context_;
  Staging staging_;
  const Moved moved_;
  std::deque<std::unique_ptr<Group>> groups_;  // the last one may be open; the first one syncs
  Op* pumping_ = nullptr;
  bool syncing_ = false;
  Checkpoint checkpoint_;
};

}  // namespace sluice::storage
