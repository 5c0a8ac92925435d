// The DRAM frames of a cache and the extents that they lie in.
//
// Frame f lies in extent f / frames_per_extent. Frames are taken from the lowest extent that has a
// free one, so that high extents run empty and can be given back. An extent that is *vacating*
// hands out no frames; when its last one is free it can be released. Vacating by wish (somebody
// else needs memory) ends when one of its blocks is used again; by force (a lowered limit) it does
// not.
//
// A frame in use is *held* while its block is private or referenced: an extent that holds nothing
// can be emptied by eviction alone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "daemon/residency/types.h"

namespace sluice::residency {

inline constexpr std::uint32_t kNoExtent = 0xFFFFFFFFu;

enum class ExtentState : std::uint8_t { absent, granting, present, releasing };

class FramePool {
 public:
  FramePool(std::uint32_t frames_per_extent, std::uint32_t max_extents);

  // Frames that take() can give.
  std::uint32_t available() const { return available_; }
  std::uint32_t used() const { return used_; }
  // Frames of extents that exist and are to stay.
  std::uint32_t lasting() const { return lasting_extents_ * frames_per_extent_; }

  // available() > 0.
  FrameId take(BlockId owner);
  // The frame is free from now on. True: its extent is empty.
  bool give_back(FrameId frame);
  // The block in a frame that is in use, else kNoBlock.
  BlockId owner(FrameId frame) const;

  std::uint32_t extent_of(FrameId frame) const { return frame.value / frames_per_extent_; }
  bool is_vacating(FrameId frame) const { return extents_[extent_of(frame)].vacating; }
  bool is_forced(FrameId frame) const { return extents_[extent_of(frame)].forced; }

  void hold(FrameId frame) {
    Extent& extent = extents_[extent_of(frame)];
    ++extent.held;
    if (extent.vacating) held_while_vacating(extent);
  }
  void unhold(FrameId frame) {
    Extent& extent = extents_[extent_of(frame)];
    --extent.held;
    if (extent.vacating && extent.held == 0) ++returning_;
  }

  // ---- extents, by index

  std::uint32_t max_extents() const { return static_cast<std::uint32_t>(extents_.size()); }
  ExtentState state(std::uint32_t extent) const { return extents_[extent].state; }
  bool is_empty(std::uint32_t extent) const { return extents_[extent].used == 0; }
  bool vacating(std::uint32_t extent) const { return extents_[extent].vacating; }
  std::uint32_t held(std::uint32_t extent) const { return extents_[extent].held; }
  std::uint32_t used(std::uint32_t extent) const { return extents_[extent].used; }

  std::uint32_t end() const;  // one past the highest that is present or releasing
  std::uint32_t charged() const { return charged_; }  // not absent
  std::uint32_t granting() const { return granting_; }
  std::uint32_t absent() const { return max_extents() - charged_; }
  std::uint32_t empty() const { return empty_; }  // present, lasting and without a frame in use
  // Will be absent without anybody giving up a reference: releasing, or vacating and holding
  // nothing.
  std::uint32_t returning() const { return returning_; }
  // Vacating or releasing, whatever they hold.
  std::uint32_t leaving() const { return charged_ - granting_ - lasting_extents_; }

  // Of a pool that has none yet: extents [0, count) are present, and frame f is in use by
  // owners[f], or free (kNoBlock).
  void adopt(std::uint32_t count, std::span<const BlockId> owners);

  std::uint32_t begin_grant();  // the lowest absent one; absent() > 0
  void granted(std::uint32_t index);
  void grant_failed(std::uint32_t index);
  void begin_vacating(std::uint32_t index, bool forced);
  void stop_vacating(std::uint32_t index);
  void begin_release(std::uint32_t index);  // it is empty
  void released(std::uint32_t index);

  // The present, lasting extent that is cheapest to empty; kNoExtent if there is none.
  // `only_unheld`: without a frame that is held.
  std::uint32_t cheapest(bool only_unheld) const;

 private:
  struct Extent {
    ExtentState state = ExtentState::absent;
    bool vacating = false;
    bool forced = false;
    std::uint32_t used = 0;
    std::uint32_t held = 0;
    std::uint32_t fresh = 0;  // frames from here on were never in use
    std::uint32_t free_head = kNone;
    // Of a frame in use: its block. Of a free one: the next free frame of the extent, with
    // kFreeBit.
    std::vector<std::uint32_t> link;
  };
  static constexpr std::uint32_t kFreeBit = 0x80000000u;
  static constexpr std::uint32_t kNone = 0x7FFFFFFFu;

  void held_while_vacating(Extent& extent);
  void make_available(Extent& extent);
  void make_unavailable(Extent& extent);

  std::uint32_t frames_per_extent_;
  std::vector<Extent> extents_;
  std::uint32_t available_ = 0;
  std::uint32_t used_ = 0;
  std::uint32_t lasting_extents_ = 0;
  std::uint32_t charged_ = 0;
  std::uint32_t granting_ = 0;
  std::uint32_t returning_ = 0;
  std::uint32_t empty_ = 0;
  std::uint32_t lowest_ = 0;         // no extent below has a frame to give
  std::uint32_t lowest_absent_ = 0;  // no extent below is absent
};

}  // namespace sluice::residency
