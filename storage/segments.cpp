#include "storage/segments.h"

#include <algorithm>
#include <string>
#include <utility>

#include "ipc/kill_point.h"
#include "storage/device_directory.h"

namespace sluice::storage {
namespace {

// Until a full disk is asked for space again.
constexpr std::chrono::seconds kFullPause{10};

}  // namespace

Segments::Segments(Config config, IoQueue& io)
    : config_(std::move(config)), io_(io), segments_(config_.count), tail_(config_.tail) {
  for (std::uint32_t number = 0; number < config_.count; ++number) {
    Segment& segment = segments_[number];
    segment.sequence = config_.sequences[number];
    if (config_.exists[number]) {
      segment.state = segment.sequence != 0 ? State::in_use : State::free;
      segment.has_space = segment.state == State::in_use;
    }
    next_sequence_ = std::max(next_sequence_, segment.sequence + 1);
  }
}

Segments::~Segments() {
  for (Segment& segment : segments_) {
    if (segment.registered) io_.engine().unregister_file(*segment.registered);
  }
}

SegmentIdentity Segments::identity(std::uint32_t segment) const {
  return {config_.identity.store, config_.identity.device, segment, segments_[segment].sequence};
}

Status Segments::open(std::uint32_t number, bool create) {
  Segment& segment = segments_[number];
  if (segment.registered) return {};
  auto opened = open_segment(config_.directory, number, create);
  if (!opened) return std::unexpected(opened.error());
  const auto registered = io_.engine().register_file(opened->file.fd());
  if (!registered) return std::unexpected(registered.error());
  direct_ = opened->direct;
  segment.opened = std::move(*opened);
  segment.registered = *registered;
  return {};
}

Result<IoFile> Segments::file(std::uint32_t segment) {
  if (const Status opened = open(segment, false); !opened) {
    return std::unexpected(opened.error());
  }
  return *segments_[segment].registered;
}

std::unexpected<Error> Segments::device_is_full() const {
  return ipc::fail(Errc::no_memory, disk_is_full() ? "the disk is full" : "the device is full");
}

Status Segments::open_next(bool cleaning) {
  if (free_count() < (cleaning ? 1U : 2U)) {
    return device_is_full();
  }
  // Those that have their space first, then by number: the files are as few as possible.
  const auto usable = [&](const Segment& segment) {
    return segment.pins == 0 && (segment.state == State::free || segment.state == State::absent) &&
           (segment.has_space || !disk_is_full());
  };
  auto next = std::ranges::find_if(
      segments_, [&](const Segment& segment) { return usable(segment) && segment.has_space; });
  if (next == segments_.end()) next = std::ranges::find_if(segments_, usable);
  SLUICE_ASSERT(next != segments_.end());
  const auto number = static_cast<std::uint32_t>(next - segments_.begin());

  const bool is_new = next->state == State::absent;
  SLUICE_KILL_POINT("store.segment.making");
  if (Status opened = open(number, true); !opened) return opened;
  if (Status space = reserve_segment(next->opened.file.fd(), segment_bytes()); !space) {
    if (space.error().code == Errc::no_memory) full_since_ = std::chrono::steady_clock::now();
    next->state = State::free;
    return space;
  }
  full_since_.reset();
  if (is_new) {
    next->state = State::free;
    if (Status named = sync_directory(config_.directory); !named) return named;
  }
  next->has_space = true;
  next->state = State::in_use;
  next->sequence = next_sequence_++;
  tail_ = SegmentTail{number, 0};
  none_free_ = free_count() == 0;
  SLUICE_KILL_POINT("store.segment.made");
  return {};
}

bool Segments::leaves_room(std::uint64_t record_bytes) const {
  return tail_ && cleaning_left_ &&
         record_bytes + *cleaning_left_ <= segment_bytes() - std::max(tail_->offset, kPageBytes);
}

Result<Place> Segments::take_place(std::uint64_t record_bytes, bool cleaning) {
  SLUICE_ASSERT(kPageBytes + record_bytes <= segment_bytes());
  if (none_free_) none_free_ = free_count() == 0;
  if (!cleaning && none_free_ && !leaves_room(record_bytes)) return device_is_full();
  if (!tail_ || record_bytes > segment_bytes() - tail_->offset) {
    if (const Status opened = open_next(cleaning); !opened) {
      return std::unexpected(opened.error());
    }
  }
  // Opened here, or by the run before this one.
  if (const auto registered = file(tail_->segment); !registered) {
    tail_.reset();
    return std::unexpected(registered.error());
  }
  const bool begins = tail_->offset == 0;
  if (begins) tail_->offset = kPageBytes;
  const Place place{identity(tail_->segment), tail_->offset, begins};
  tail_->offset += record_bytes;
  if (cleaning && cleaning_left_) *cleaning_left_ -= std::min(*cleaning_left_, record_bytes);
  return place;
}

void Segments::unpin(std::uint32_t segment) {
  SLUICE_ASSERT(segments_[segment].pins > 0);
  --segments_[segment].pins;
}

void Segments::seal(std::uint32_t segment) {
  if (tail_ && tail_->segment == segment) tail_.reset();
}

bool Segments::can_be_cleaned(std::uint32_t segment) const {
  return segments_[segment].state == State::in_use && segments_[segment].groups == 0 &&
         !(tail_ && tail_->segment == segment);
}

void Segments::release(std::uint32_t number) {
  Segment& segment = segments_[number];
  SLUICE_ASSERT(can_be_cleaned(number) && segment.pins == 0);
  segment.state = State::free;
  // A full disk would give the space to others.
  if (!discards_ || !segment.registered || disk_is_full()) return;
  segment.state = State::discarding;
  segment.has_space = false;
  io_.push({IoOp::discard, *segment.registered, 0, nullptr, segment_bytes(), 0},
           [this, number](int error) {
             segments_[number].state = State::free;
             // It only costs the file system its space.
             if (error != 0) discards_ = false;
           });
}

std::uint32_t Segments::free_count() const {
  const bool full = disk_is_full();
  return static_cast<std::uint32_t>(std::ranges::count_if(segments_, [&](const Segment& segment) {
    return segment.pins == 0 && (segment.state == State::free || segment.state == State::absent) &&
           (segment.has_space || !full);
  }));
}

std::uint64_t Segments::room_to_clean() const {
  if (free_count() > 0) return segment_bytes() - kPageBytes;
  return tail_ ? segment_bytes() - std::max(tail_->offset, kPageBytes) : 0;
}

std::uint32_t Segments::existing() const {
  return static_cast<std::uint32_t>(std::ranges::count_if(
      segments_, [](const Segment& segment) { return segment.state != State::absent; }));
}

bool Segments::discarding() const {
  return std::ranges::any_of(
      segments_, [](const Segment& segment) { return segment.state == State::discarding; });
}

bool Segments::disk_is_full() const {
  return full_since_ && std::chrono::steady_clock::now() - *full_since_ < kFullPause;
}

}  // namespace sluice::storage
