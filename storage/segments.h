// The segments of a device: their files, which one is written, which are free.
//
// Thread-safety: the device's thread.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "storage/file.h"
#include "storage/io_queue.h"
#include "storage/record.h"

namespace sluice::storage {

// What is behind the last record of the segment that is being written.
struct SegmentTail {
  std::uint32_t segment = 0;
  std::uint64_t offset = 0;
};

// Where the next record goes.
struct Place {
  SegmentIdentity segment;
  std::uint64_t offset = 0;
  bool begins_segment = false;  // the segment's page must be written too
};

class Segments {
 public:
  struct Config {
    std::filesystem::path directory;
    DeviceIdentity identity;
    std::uint32_t count = 0;   // that the device may have
    std::uint32_t within = 0;  // of these, the first ones: that its capacity allows
    // Found when the store opened; sequence 0 in those that do not exist or cannot be read.
    std::vector<std::uint64_t> sequences;
    std::vector<bool> exists;
    std::optional<SegmentTail> tail;  // to go on with
  };
  Segments(Config config, IoQueue& io);
  ~Segments();
  Segments(const Segments&) = delete;
  Segments& operator=(const Segments&) = delete;

  // One free segment, with its space, is kept for cleaning, which alone may take the last one.
  // While there is none, others write only what leaves room for what cleaning has begun. Errors:
  // no_memory (none is free, or the disk is full), io_error.
  Result<Place> take_place(std::uint64_t record_bytes, bool cleaning);

  // Cleaning is going to write so much, until it ends.
  void begin_cleaning(std::uint64_t bytes) { cleaning_left_ = bytes; }
  void end_cleaning() { cleaning_left_.reset(); }

  // The engine's file of a segment, opened if it is not yet. Errors: io_error, limit_reached.
  Result<IoFile> file(std::uint32_t segment);
  SegmentIdentity identity(std::uint32_t segment) const;

  // Who reads or writes a segment keeps it from being reused.
  void pin(std::uint32_t segment) { ++segments_[segment].pins; }
  void unpin(std::uint32_t segment);
  // As pin, and its records are not all in the catalog: it cannot be cleaned.
  void begin_group(std::uint32_t segment) { ++segments_[segment].groups; }
  void end_group(std::uint32_t segment) { --segments_[segment].groups; }

  // No record goes into it any more: its writes failed.
  void seal(std::uint32_t segment);
  // The record at `offset` was not written. If none is behind it, the next one takes its place.
  void take_back(const SegmentIdentity& segment, std::uint64_t offset, std::uint64_t record_bytes);
  // The one that records go into; not while they do.
  std::optional<std::uint32_t> idle_tail() const;
  // Segments that were begun since this one was, and this one.
  std::uint64_t age(std::uint32_t segment) const {
    return next_sequence_ - std::max(segments_[segment].sequence, segments_[segment].as_if);
  }
  // The sequence of the segment that was begun last.
  std::uint64_t newest() const { return next_sequence_ - 1; }
  // As if it were begun now.
  void rejuvenate(std::uint32_t segment) { segments_[segment].as_if = next_sequence_ - 1; }
  bool can_be_cleaned(std::uint32_t segment) const;
  bool is_pinned(std::uint32_t segment) const { return segments_[segment].pins > 0; }
  // Nothing in it is wanted, and the index is durable about that. Gives its space back to the file
  // system, if that can.
  void release(std::uint32_t number);

  std::uint32_t count() const { return static_cast<std::uint32_t>(segments_.size()); }
  // That can be taken. Of a full disk only those whose files have their space.
  std::uint32_t free_count() const;
  std::uint32_t existing() const;
  // Some will be free soon.
  bool discarding() const;
  // Cleaning has no room in the device's capacity: until it has, it may use a segment beyond that.
  // false: it may already, or that is in use.
  bool exceed();
  // The one beyond the capacity, if it is in use.
  std::optional<std::uint32_t> beyond() const;
  // Bytes that cleaning can write. Sees to the space of a free segment.
  std::uint64_t room_to_clean();
  std::uint64_t segment_bytes() const { return config_.identity.segment_bytes; }
  const std::filesystem::path& directory() const { return config_.directory; }
  std::uint32_t device() const { return config_.identity.device; }
  bool direct() const { return direct_; }

 private:
  enum class State : std::uint8_t { absent, free, discarding, in_use };
  struct Segment {
    State state = State::absent;
    std::uint64_t sequence = 0;
    std::uint64_t as_if = 0;
    OpenedFile opened;
    std::optional<IoFile> registered;
    std::uint32_t pins = 0;
    std::uint32_t groups = 0;
    bool has_space = false;  // all of its file is allocated
  };

  bool leaves_room(std::uint64_t record_bytes) const;
  Status open_next(bool cleaning);
  Status make_ready(std::uint32_t wanted);
  Status make_ready(Segment& segment, std::uint32_t number);
  bool is_free(const Segment& segment) const;
  bool has_free_within() const;
  template <class Is>
  std::uint32_t count_if(Is is) const;
  std::uint32_t ready_count() const;
  Status open(std::uint32_t number, bool create);
  bool disk_is_full() const;
  std::unexpected<Error> device_is_full() const;

  const Config config_;
  IoQueue& io_;
  std::vector<Segment> segments_;
  std::optional<SegmentTail> tail_;
  std::uint64_t next_sequence_ = 1;
  std::optional<std::chrono::steady_clock::time_point> full_since_;
  bool none_ready_ = true;  // or not looked at since
  bool exceeds_ = false;
  std::optional<std::uint64_t> cleaning_left_;
  bool discards_ = true;
  bool direct_ = true;
};

}  // namespace sluice::storage
