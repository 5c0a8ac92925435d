// An arena that a daemon of before left: its table, its extents, and who sits in it.
#include <algorithm>
#include <string>
#include <utility>

#include "daemon/cache_memory.h"
#include "ipc/kill_point.h"
#include "kernels/atomic.h"
#include "kernels/steps.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;

namespace {

// Entries of the frame log that the dead may have written after it noted how many there are, at
// most; a round number far above what one turn writes.
constexpr std::uint64_t kLogMargin = std::uint64_t{1} << 20;

}  // namespace

ipc::Result<std::unique_ptr<CacheMemory>> CacheMemory::adopt(const residency::CacheShape& sizes,
                                                             Device& device,
                                                             std::shared_ptr<FrameMemory> frames,
                                                             Left left) {
  const std::uint64_t slots = std::uint64_t{sizes.slot_extents} * sizes.slots_per_extent;
  if (kernels::check_sizes(left.table) != kernels::SizesError::none || left.table.slots != slots ||
      left.table.blocks != sizes.max_blocks ||
      left.table.pages_per_block != sizes.geometry.pages_per_block ||
      left.slot_extents.size() != sizes.slot_extents || left.incarnation == 0) {
    return fail(Errc::invalid_argument, "the sizes of an arena of before do not go together");
  }
  auto table = device.adopt_table(left.table, std::move(left.table_fds));
  if (!table) return std::unexpected(std::move(table.error()));
  auto state = ArenaState::adopt(std::move(left.state), left.table.actors, left.table.blocks);
  if (!state) return std::unexpected(std::move(state.error()));
  auto made = begin(sizes, left.table, std::move(*table), std::move(*state), std::move(frames));
  if (!made) return made;
  CacheMemory& memory = **made;
  memory.incarnation_ = left.incarnation;
  for (ipc::Fd& extent : left.slot_extents) {
    const std::uint64_t at = memory.slot_extents_.size() * sizes.slot_extent_bytes;
    auto mapped =
        device.map_extent(ipc::Tier::hbm, memory.arena_, at, extent, sizes.slot_extent_bytes);
    if (!mapped) return std::unexpected(std::move(mapped.error()));
    memory.slot_extents_.push_back(std::move(extent));
  }
  memory.use_table();
  return made;
}

void CacheMemory::take_over(const std::vector<ipc::FrameId>& frame_of,
                            const std::function<bool(ipc::SessionId)>& sits_on) {
  adopt_frames(frame_of);
  SLUICE_KILL_POINT("adopt.frames");
  adopt_seats(sits_on);
  SLUICE_KILL_POINT("adopt.seats");
}

// The log goes on more than a ring further than anybody can have read it, so that every reader, and
// every copy of frame_of, takes what is in the original now. Entries of the dead are skipped, since
// their stamps are of other positions; half-written ones were in no reader's reach.
void CacheMemory::adopt_frames(const std::vector<ipc::FrameId>& frame_of) {
  std::uint64_t* const current = frame_log_.current;
  for (std::uint32_t block = 0; block < shape_.table.blocks; ++block) {
    const std::uint32_t frame = block < frame_of.size() ? frame_of[block].value : kernels::kNoFrame;
    std::uint64_t entry = kernels::load_relaxed(&current[block]);
    if (kernels::frame_in(entry) != frame) {
      entry = kernels::make_frame_entry(frame, kernels::version_in(entry) + 1);
      kernels::store_release(&current[block], entry);
    }
    if (kernels::load_relaxed(&shared_.frame_of[block]) != entry) {
      kernels::store_release(&shared_.frame_of[block], entry);
    }
  }
  frame_log_.end = frame_log_.applied = state_.log_end() + shape_.table.log_capacity + kLogMargin;
  state_.note_log_end(frame_log_.end);
  kernels::store_release(&shared_.header->log_applied, frame_log_.end);
  kernels::store_release(&shared_.header->log_end, frame_log_.end);
}

// Actors of the daemon itself died with it, as did those of sessions that are over.
void CacheMemory::adopt_seats(const std::function<bool(ipc::SessionId)>& sits_on) {
  std::vector<std::uint32_t> dead;
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    KeptSeat& kept = state_.seat(i);
    const std::uint64_t owner = kept.owner.load(std::memory_order_acquire);
    const std::uint32_t executor = kept.executor.load(std::memory_order_relaxed);
    const bool goes_on = kept.kept.load(std::memory_order_acquire) == 1 && owner != 0 &&
                         owner != kResetting && executor <= 1 && sits_on(ipc::SessionId{owner - 1});
    if (!goes_on) {
      const bool touched =
          kernels::is_active(kernels::load_acquire(&kernels::actor_line(shared_, i)->active));
      if (owner != 0 || touched) dead.push_back(i);
      continue;
    }
    ActorSeat& seat = seats_[i];
    seat.executor = static_cast<ipc::wire::Executor>(executor);
    seat.base = line_totals(i);
    seat.opened.store(next_opening(), std::memory_order_release);
    seat.owner.store(owner, std::memory_order_release);
  }
  if (dead.empty()) return;
  const CacheTable::Ticket resetting = cache_table_->reset_actors(dead);
  for (const std::uint32_t i : dead) {
    seats_[i].resetting = resetting;
    seats_[i].owner.store(kResetting, std::memory_order_release);
    keep_seat(i, false);
  }
}

}  // namespace sluice::daemon
