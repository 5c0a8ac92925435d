#include "daemon/residency/frames.h"

#include <algorithm>

namespace sluice::residency {

FramePool::FramePool(std::uint32_t frames_per_extent, std::uint32_t max_extents)
    : frames_per_extent_(frames_per_extent), extents_(max_extents) {}

FrameId FramePool::take(BlockId owner) {
  SLUICE_ASSERT(available_ > 0);
  const auto can_give = [&](const Extent& extent) {
    return extent.state == ExtentState::present && !extent.vacating &&
           extent.used < frames_per_extent_;
  };
  while (!can_give(extents_[lowest_])) ++lowest_;
  Extent& extent = extents_[lowest_];
  std::uint32_t at = extent.free_head;
  if (at != kNone) {
    extent.free_head = extent.link[at] & ~kFreeBit;
  } else {
    at = extent.fresh++;
  }
  extent.link[at] = owner.value;
  if (extent.used++ == 0) --empty_;
  ++used_;
  --available_;
  return FrameId{lowest_ * frames_per_extent_ + at};
}

bool FramePool::give_back(FrameId frame) {
  const std::uint32_t index = extent_of(frame);
  Extent& extent = extents_[index];
  const std::uint32_t at = frame.value % frames_per_extent_;
  SLUICE_ASSERT((extent.link[at] & kFreeBit) == 0);
  extent.link[at] = extent.free_head | kFreeBit;
  extent.free_head = at;
  --extent.used;
  --used_;
  if (!extent.vacating) {
    ++available_;
    lowest_ = std::min(lowest_, index);
    if (extent.used == 0) ++empty_;
  }
  return extent.used == 0;
}

BlockId FramePool::owner(FrameId frame) const {
  const Extent& extent = extents_[extent_of(frame)];
  const std::uint32_t at = frame.value % frames_per_extent_;
  if (extent.state != ExtentState::present || at >= extent.fresh) return ipc::kNoBlock;
  const std::uint32_t link = extent.link[at];
  return (link & kFreeBit) != 0 ? ipc::kNoBlock : BlockId{link};
}

void FramePool::make_available(Extent& extent) {
  available_ += frames_per_extent_ - extent.used;
  ++lasting_extents_;
  if (extent.used == 0) ++empty_;
  lowest_ = std::min(lowest_, static_cast<std::uint32_t>(&extent - extents_.data()));
}

void FramePool::make_unavailable(Extent& extent) {
  available_ -= frames_per_extent_ - extent.used;
  --lasting_extents_;
  if (extent.used == 0) --empty_;
}

void FramePool::held_while_vacating(Extent& extent) {
  if (extent.held == 1) --returning_;
  if (extent.forced) return;
  extent.vacating = false;
  make_available(extent);
}

std::uint32_t FramePool::end() const {
  std::uint32_t end = max_extents();
  while (end > 0 && (extents_[end - 1].state == ExtentState::absent ||
                     extents_[end - 1].state == ExtentState::granting)) {
    --end;
  }
  return end;
}

std::uint32_t FramePool::begin_grant() {
  SLUICE_ASSERT(absent() > 0);
  while (extents_[lowest_absent_].state != ExtentState::absent) ++lowest_absent_;
  extents_[lowest_absent_].state = ExtentState::granting;
  ++charged_;
  ++granting_;
  return lowest_absent_++;
}

void FramePool::granted(std::uint32_t index) {
  Extent& extent = extents_[index];
  extent = Extent{};
  extent.state = ExtentState::present;
  extent.link.resize(frames_per_extent_);
  --granting_;
  make_available(extent);
}

void FramePool::adopt(std::uint32_t count, std::span<const BlockId> owners) {
  for (std::uint32_t index = 0; index < count; ++index) {
    SLUICE_ASSERT(begin_grant() == index);
    granted(index);
    Extent& extent = extents_[index];
    extent.fresh = frames_per_extent_;
    for (std::uint32_t at = frames_per_extent_; at-- > 0;) {
      const BlockId owner = owners[std::size_t{index} * frames_per_extent_ + at];
      if (owner == ipc::kNoBlock) {
        extent.link[at] = extent.free_head | kFreeBit;
        extent.free_head = at;
      } else {
        extent.link[at] = owner.value;
        ++extent.used;
      }
    }
    used_ += extent.used;
    available_ -= extent.used;
    if (extent.used > 0) --empty_;
  }
}

void FramePool::grant_failed(std::uint32_t index) {
  extents_[index] = Extent{};
  lowest_absent_ = std::min(lowest_absent_, index);
  --granting_;
  --charged_;
}

void FramePool::begin_vacating(std::uint32_t index, bool forced) {
  Extent& extent = extents_[index];
  SLUICE_ASSERT(extent.state == ExtentState::present && !extent.vacating);
  make_unavailable(extent);
  extent.vacating = true;
  extent.forced = forced;
  if (extent.held == 0) ++returning_;
}

void FramePool::stop_vacating(std::uint32_t index) {
  Extent& extent = extents_[index];
  SLUICE_ASSERT(extent.state == ExtentState::present && extent.vacating);
  if (extent.held == 0) --returning_;
  extent.vacating = false;
  make_available(extent);
}

void FramePool::begin_release(std::uint32_t index) {
  Extent& extent = extents_[index];
  SLUICE_ASSERT(extent.state == ExtentState::present && extent.used == 0);
  if (!extent.vacating) begin_vacating(index, true);
  extent.state = ExtentState::releasing;
}

void FramePool::released(std::uint32_t index) {
  extents_[index] = Extent{};
  lowest_absent_ = std::min(lowest_absent_, index);
  --returning_;
  --charged_;
}

std::uint32_t FramePool::cheapest(bool only_unheld) const {
  std::uint32_t best = kNoExtent;
  for (std::uint32_t index = 0; index < max_extents(); ++index) {
    const Extent& extent = extents_[index];
    if (extent.state != ExtentState::present || extent.vacating) continue;
    if (only_unheld && extent.held != 0) continue;
    if (best == kNoExtent) {
      best = index;
      continue;
    }
    const Extent& other = extents_[best];
    // Fewest held, then fewest in use, then the highest.
    if (extent.held != other.held ? extent.held < other.held : extent.used <= other.used) {
      best = index;
    }
  }
  return best;
}

}  // namespace sluice::residency
