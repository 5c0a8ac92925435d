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

// Sees to it that so many free segments have their space, as long as the disk gives it.
Status Segments::make_ready(std::uint32_t wanted) {
  for (std::uint32_t number = 0; ready_count() < wanted; ++number) {
    if (number == count()) return device_is_full();
    Segment& segment = segments_[number];
    if (!is_free(segment) || segment.has_space) continue;
    if (disk_is_full()) return device_is_full();
    if (Status made = make_ready(segment, number); !made) return made;
  }
  return {};
}

Status Segments::make_ready(Segment& segment, std::uint32_t number) {
  const bool is_new = segment.state == State::absent;
  SLUICE_KILL_POINT("store.segment.making");
  if (Status opened = open(number, true); !opened) return opened;
  if (Status space = reserve_segment(segment.opened.file.fd(), segment_bytes()); !space) {
    if (space.error().code == Errc::no_memory) full_since_ = std::chrono::steady_clock::now();
    segment.state = State::free;
    return space;
  }
  full_since_.reset();
  if (is_new) {
    segment.state = State::free;
    if (Status named = sync_directory(config_.directory); !named) return named;
  }
  segment.has_space = true;
  return {};
}

Status Segments::open_next(bool cleaning) {
  const std::uint32_t wanted = cleaning ? 1 : 2;
  if (free_count() < wanted) return device_is_full();
  if (Status ready = make_ready(wanted); !ready) return ready;
  const auto next = std::ranges::find_if(
      segments_, [&](const Segment& segment) { return is_free(segment) && segment.has_space; });
  SLUICE_ASSERT(next != segments_.end());
  next->state = State::in_use;
  next->sequence = next_sequence_++;
  tail_ = SegmentTail{static_cast<std::uint32_t>(next - segments_.begin()), 0};
  none_ready_ = ready_count() == 0;
  SLUICE_KILL_POINT("store.segment.made");
  return {};
}

bool Segments::leaves_room(std::uint64_t record_bytes) const {
  return tail_ && cleaning_left_ &&
         record_bytes + *cleaning_left_ <= segment_bytes() - std::max(tail_->offset, kPageBytes);
}

Result<Place> Segments::take_place(std::uint64_t record_bytes, bool cleaning) {
  SLUICE_ASSERT(kPageBytes + record_bytes <= segment_bytes());
  if (none_ready_) none_ready_ = ready_count() == 0;
  if (!cleaning && none_ready_ && !leaves_room(record_bytes)) {
    if (!has_free_within()) return device_is_full();
    if (const Status ready = make_ready(1); !ready) return std::unexpected(ready.error());
    none_ready_ = false;
  }
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

void Segments::take_back(const SegmentIdentity& segment, std::uint64_t offset,
                         std::uint64_t record_bytes) {
  if (tail_ && tail_->segment == segment.segment && tail_->offset == offset + record_bytes) {
    tail_->offset = offset;
  }
}

std::optional<std::uint32_t> Segments::idle_tail() const {
  if (!tail_ || segments_[tail_->segment].groups > 0) return std::nullopt;
  return tail_->segment;
}

bool Segments::can_be_cleaned(std::uint32_t segment) const {
  return segments_[segment].state == State::in_use && segments_[segment].groups == 0 &&
         !(tail_ && tail_->segment == segment);
}

void Segments::release(std::uint32_t number) {
  Segment& segment = segments_[number];
  SLUICE_ASSERT(can_be_cleaned(number) && segment.pins == 0);
  if (number < config_.within) exceeds_ = false;
  const bool is_spare = segment.has_space && number < config_.within && ready_count() == 0;
  segment.state = State::free;
  // A full disk would give the space to others. The one that is kept for cleaning has its own.
  if (!discards_ || !segment.registered || disk_is_full() || is_spare) return;
  segment.state = State::discarding;
  segment.has_space = false;
  io_.push({IoOp::discard, *segment.registered, 0, nullptr, segment_bytes(), 0},
           [this, number](int error) {
             segments_[number].state = State::free;
             // It only costs the file system its space.
             if (error != 0) discards_ = false;
           });
}

bool Segments::is_free(const Segment& segment) const {
  return segment.pins == 0 && (segment.state == State::free || segment.state == State::absent);
}

// Of those that the capacity allows. The one beyond it counts when none of them does, if it may.
template <class Is>
std::uint32_t Segments::count_if(Is is) const {
  const auto beyond = segments_.begin() + config_.within;
  const auto within = std::count_if(segments_.begin(), beyond, is);
  if (within > 0 || !exceeds_) return static_cast<std::uint32_t>(within);
  return static_cast<std::uint32_t>(std::count_if(beyond, segments_.end(), is));
}

std::uint32_t Segments::free_count() const {
  const bool full = disk_is_full();
  return count_if([&](const Segment& one) { return is_free(one) && (one.has_space || !full); });
}

bool Segments::has_free_within() const {
  const auto beyond = segments_.begin() + config_.within;
  return std::any_of(segments_.begin(), beyond, [&](const Segment& one) { return is_free(one); });
}

std::uint32_t Segments::ready_count() const {
  return count_if([&](const Segment& one) { return is_free(one) && one.has_space; });
}

bool Segments::exceed() {
  if (exceeds_ || count() == config_.within || !is_free(segments_.back())) return false;
  exceeds_ = true;
  return true;
}

std::optional<std::uint32_t> Segments::beyond() const {
  if (count() == config_.within || segments_.back().state != State::in_use) return std::nullopt;
  return config_.within;
}

std::uint64_t Segments::room_to_clean() {
  if (free_count() > 0 && make_ready(1)) return segment_bytes() - kPageBytes;
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
