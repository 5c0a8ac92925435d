#include "daemon/cache_memory.h"

#include <sys/random.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "daemon/logging.h"
#include "ipc/kill_point.h"
#include "ipc/memfd.h"
#include "kernels/steps.h"
#include "kernels/wanted.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using ipc::wire::Executor;

namespace {

constexpr std::uint32_t kLeastLogEntries = 1024;
constexpr std::uint32_t kMostLogEntries = 65536;
constexpr std::uint32_t kLeastHints = 1024;
constexpr std::uint32_t kMostHints = 1u << 20;
constexpr std::uint32_t kSlotsPerHint = 16;

std::uint32_t power_of_two_within(std::uint32_t wanted, std::uint32_t least, std::uint32_t most) {
  return std::bit_ceil(std::clamp(wanted, least, most));
}

ipc::Result<kernels::TableSizes> table_sizes(const residency::CacheShape& sizes,
                                             std::uint32_t actors) {
  kernels::TableSizes table;
  const std::uint64_t slots = std::uint64_t{sizes.slot_extents} * sizes.slots_per_extent;
  if (slots == 0 || slots > kernels::kMaxSlots) {
    return fail(Errc::invalid_layout, "an arena of " + std::to_string(slots) +
                                          " pages; expected 1 to " +
                                          std::to_string(kernels::kMaxSlots));
  }
  table.slots = static_cast<std::uint32_t>(slots);
  table.blocks = sizes.max_blocks;
  table.pages_per_block = sizes.geometry.pages_per_block;
  table.actors = std::min(actors, kernels::kMaxActors);
  table.log_capacity = power_of_two_within(table.blocks, kLeastLogEntries, kMostLogEntries);
  table.hint_capacity = power_of_two_within(table.slots / kSlotsPerHint, kLeastHints, kMostHints);
  if (const auto wrong = kernels::check_sizes(table); wrong != kernels::SizesError::none) {
    return fail(Errc::invalid_layout,
                "the hot table cannot be made: size " + std::to_string(static_cast<int>(wrong)) +
                    " is out of range (" + std::to_string(table.slots) + " slots, " +
                    std::to_string(table.blocks) + " blocks of " +
                    std::to_string(table.pages_per_block) + " pages)");
  }
  return table;
}

// Each number of `a` with that of `b`.
template <class Combine>
ResolveTotals combined(const ResolveTotals& a, const ResolveTotals& b, Combine combine) {
  return {combine(a.hits, b.hits),
          combine(a.misses, b.misses),
          combine(a.no_slot, b.no_slot),
          combine(a.absent, b.absent),
          combine(a.bytes_filled, b.bytes_filled),
          combine(a.forecast_issued, b.forecast_issued),
          combine(a.forecast_used, b.forecast_used),
          combine(a.forecast_bytes, b.forecast_bytes),
          combine(a.bytes_swept, b.bytes_swept)};
}

}  // namespace

ResolveTotals& ResolveTotals::operator+=(const ResolveTotals& other) {
  *this = combined(*this, other, [](std::uint64_t a, std::uint64_t b) {
    return a + std::min(b, std::numeric_limits<std::uint64_t>::max() - a);
  });
  return *this;
}

ResolveTotals ResolveTotals::since(const ResolveTotals& then) const {
  return combined(*this, then, [](std::uint64_t now, std::uint64_t before) {
    return now - std::min(now, before);
  });
}

void ResolveTotals::raise_to(const ResolveTotals& other) {
  *this = combined(*this, other, [](std::uint64_t a, std::uint64_t b) { return std::max(a, b); });
}

ipc::Result<std::unique_ptr<CacheMemory>> CacheMemory::create(const residency::CacheShape& sizes,
                                                              std::uint32_t actors, Device& device,
                                                              std::shared_ptr<FrameMemory> frames) {
  auto table = table_sizes(sizes, actors);
  if (!table) return std::unexpected(std::move(table.error()));
  auto cache_table = device.create_table(*table);
  if (!cache_table) return std::unexpected(std::move(cache_table.error()));
  // Before the first piece: half an arena would take the node's memory only to give it back.
  const std::uint64_t arena_bytes =
      device.gpu() == nullptr ? std::uint64_t{sizes.slot_extents} * sizes.slot_extent_bytes : 0;
  const std::uint64_t table_bytes = (*cache_table)->bytes().node;
  const std::uint64_t need = table_bytes + arena_bytes;
  if (const std::uint64_t left = ipc::available_memory_bytes(); left < need) {
    return fail(Errc::no_memory, "the cache takes " + std::to_string(need) + " bytes, " +
                                     std::to_string(table_bytes) + " of them for its table; " +
                                     std::to_string(left) +
                                     " are left on the node; ask for a smaller arena, or lower the "
                                     "sizes of the tiers (tiers.*.capacity)");
  }
  auto state = ArenaState::create(table->actors, table->blocks);
  if (!state) return std::unexpected(std::move(state.error()));
  auto made = begin(sizes, *table, std::move(*cache_table), std::move(*state), std::move(frames));
  if (!made) return made;
  while ((*made)->incarnation_ == 0) {
    if (getrandom(&(*made)->incarnation_, sizeof(std::uint64_t), 0) < 0) {
      return ipc::fail_errno("getrandom for the number of an arena");
    }
  }
  return made;
}

ipc::Result<std::unique_ptr<CacheMemory>> CacheMemory::begin(
    const residency::CacheShape& sizes, const kernels::TableSizes& table,
    std::shared_ptr<CacheTable> cache_table, ArenaState state,
    std::shared_ptr<FrameMemory> frames) {
  std::unique_ptr<CacheMemory> made(new CacheMemory);
  CacheMemory& memory = *made;
  memory.cache_table_ = std::move(cache_table);
  const TableBytes bytes = memory.cache_table_->bytes();
  memory.shape_ = {sizes, table, bytes.node, bytes.device, bytes.device_extent};
  auto arena = ipc::ReservedRange::reserve(
      std::uint64_t{sizes.slot_extents} * sizes.slot_extent_bytes, "addresses for an arena");
  if (!arena) return std::unexpected(std::move(arena.error()));
  memory.arena_ = std::move(*arena);
  memory.frames_ = std::move(frames);
  memory.state_ = std::move(state);
  memory.frame_log_.current = memory.state_.frames();
  memory.store_.arena = memory.arena_.data();
  memory.store_.frames = memory.frames_->data();
  memory.store_.page_bytes = sizes.geometry.page_bytes;
  memory.store_.frame_stride = sizes.geometry.frame_stride;
  memory.store_.slots = table.slots;
  memory.store_.frames_ready = memory.frames_->ready();
  memory.seats_ = std::make_unique<ActorSeat[]>(table.actors);
  return made;
}

// ---- coming and going

bool CacheMemory::whole() const {
  return cache_table_->whole() && slot_extents_.size() == shape_.sizes.slot_extents;
}

ipc::Status CacheMemory::make_piece(Device& device) {
  if (!cache_table_->whole()) return make_table_piece();
  const std::uint64_t bytes = shape_.sizes.slot_extent_bytes;
  auto extent = device.allocate_extent(ipc::Tier::hbm, bytes);
  if (!extent) return std::unexpected(std::move(extent.error()));
  auto mapped =
      device.map_extent(ipc::Tier::hbm, arena_, slot_extents_.size() * bytes, *extent, bytes);
  if (!mapped) return mapped;
  slot_extents_.push_back(std::move(*extent));
  return {};
}

ipc::Status CacheMemory::make_table_piece() {
  auto made = cache_table_->make_piece();
  if (made && cache_table_->whole()) use_table();
  return made;
}

void CacheMemory::use_table() {
  shared_ = cache_table_->view();
  table_ = shared_;
  kernels::use_private_frames(table_, frame_log_);
}

// Extents are emptied, since a process may still hold a descriptor or a mapping of them. What the
// kernel refuses to unmap or to empty here goes at the latest with the object and those holders.
bool CacheMemory::free_piece(Device& device) {
  if (!slot_extents_.empty()) {
    const std::uint64_t bytes = shape_.sizes.slot_extent_bytes;
    (void)arena_.unmap_at((slot_extents_.size() - 1) * bytes, bytes, "an HBM extent");
    device.free_extent(ipc::Tier::hbm, slot_extents_.back(), bytes);
    slot_extents_.pop_back();
    return true;
  }
  return cache_table_->free_piece();
}

std::vector<int> CacheMemory::extent_fds(ipc::Tier tier, std::uint32_t first, std::size_t most,
                                         std::uint32_t& total) const {
  const std::vector<ipc::Fd>& extents = tier == ipc::Tier::hbm ? slot_extents_ : frames_->fds();
  total = tier == ipc::Tier::hbm ? shape_.sizes.slot_extents : frame_extents();
  std::vector<int> fds;
  for (std::uint32_t i = first; i < total && fds.size() < most; ++i) {
    if (!extents[i]) break;
    fds.push_back(extents[i].get());
  }
  return fds;
}

// ---- blocks

void CacheMemory::begin_like(const CacheMemory& other) {
  kernels::adopt_frames(shared_, frame_log_, other.frame_log_);
  state_.note_log_end(frame_log_.end);
}

static_assert(ipc::kLostFrameId.value == kernels::kLostFrame);

void CacheMemory::set_frame(ipc::BlockId id, ipc::FrameId frame) {
  log_frame(id, frame.value);
  kernels::apply_written(shared_, frame_log_);
}

void CacheMemory::log_frame(ipc::BlockId id, std::uint32_t frame) {
  SLUICE_KILL_POINT("log.appending");
  kernels::append_log(shared_, frame_log_, id.value, frame);
  SLUICE_KILL_POINT("log.appended");
  state_.note_log_end(frame_log_.end);
}

Retirement CacheMemory::retire(std::vector<ipc::BlockId> ids) {
  Retirement retirement{std::move(ids), true, {}, {}};
  const bool by_log = cache_table_->grace_by_log();
  // Also of blocks that never had a frame: a client may have exposed one while no daemon was there,
  // and a grace by the log tells by these entries which steps came after.
  for (const ipc::BlockId id : retirement.ids) log_frame(id, kernels::kNoFrame);
  kernels::apply_written(shared_, frame_log_);
  if (by_log) {
    retirement.grace.start_by_log(table_, frame_log_.end);
  } else {
    retirement.grace.start(table_, frame_log_.end);
  }
  return retirement;
}

Retirement CacheMemory::withdraw(std::vector<ipc::BlockId> ids) {
  Retirement withdrawal = retire(std::move(ids));
  withdrawal.drops_pages = false;
  return withdrawal;
}

void CacheMemory::take_wanted(WantedBlocks& blocks, std::size_t most) {
  const std::uint32_t bell = kernels::wanted_bell(table_);
  if (bell == wanted_bell_) return;
  kernels::WantedBlock marks[256];
  std::size_t taken = 0;
  for (std::uint32_t some = 1; some > 0 && taken < most; taken += some) {
    some = kernels::collect_wanted(table_, marks, static_cast<std::uint32_t>(std::size(marks)));
    for (std::uint32_t i = 0; i < some; ++i) {
      (marks[i].now ? blocks.now : blocks.soon).push_back(ipc::BlockId{marks[i].block});
    }
  }
  if (taken < most) wanted_bell_ = bell;
}

bool CacheMemory::try_finish(Retirement& retirement) {
  if (!retirement.dropping) {
    if (!retirement.grace.poll(table_)) return false;
    if (!retirement.drops_pages) return true;
    retirement.dropping = cache_table_->drop_pages(retirement.ids);
  }
  return cache_table_->done(*retirement.dropping);
}

void CacheMemory::drop_pins(const std::vector<ipc::BlockId>& ids, bool sealed) {
  cache_table_->drop_pins(ids, sealed);
}

// ---- actors

bool CacheMemory::owns_actor(ipc::SessionId session, std::uint32_t actor) const {
  return actor < shape_.table.actors && sits(session, actor) &&
         !seats_[actor].closed.load(std::memory_order_acquire) &&
         !seats_[actor].of_lane.load(std::memory_order_relaxed);
}

bool CacheMemory::sits(ipc::SessionId session, std::uint32_t actor) const {
  return seats_[actor].owner.load(std::memory_order_acquire) == session.value + 1;
}

bool CacheMemory::is_free(const ActorSeat& seat) const {
  const std::uint64_t owner = seat.owner.load(std::memory_order_relaxed);
  return owner == 0 || (owner == kResetting && cache_table_->done(seat.resetting));
}

std::uint64_t CacheMemory::next_opening() {
  static std::atomic<std::uint64_t> openings{0};
  return ++openings;
}

ipc::Result<std::uint32_t> CacheMemory::open_actor(ipc::SessionId session, Executor executor,
                                                   bool of_lane) {
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    ActorSeat& seat = seats_[i];
    const bool own = sits(session, i) && seat.closed.load(std::memory_order_relaxed);
    if ((!own && !is_free(seat)) || is_becoming_idle(i)) continue;
    const std::lock_guard lock(totals_mutex_);
    seat.executor = executor;
    seat.of_lane.store(of_lane, std::memory_order_relaxed);
    seat.base = line_totals(i);
    seat.most = {};
    seat.seen_since = {};
    seat.opened.store(next_opening(), std::memory_order_release);
    seat.closed.store(false, std::memory_order_release);
    seat.owner.store(session.value + 1, std::memory_order_release);
    keep_seat(i, !of_lane);
    return i;
  }
  return fail(Errc::limit_reached, "all " + std::to_string(shape_.table.actors) +
                                       " actors of the cache are in use (limits.actors_per_cache)");
}

void CacheMemory::make_idle(std::uint32_t actor) {
  seats_[actor].idling = kOrdering;
  seats_[actor].idling = cache_table_->reset_actors({actor});
}

bool CacheMemory::is_becoming_idle(std::uint32_t actor) const {
  const CacheTable::Ticket ticket = seats_[actor].idling;
  return ticket != 0 && (ticket == kOrdering || !cache_table_->done(ticket));
}

void CacheMemory::settle_totals(std::uint32_t actor) {
  ActorSeat& seat = seats_[actor];
  const std::lock_guard lock(totals_mutex_);
  closed_[static_cast<int>(seat.executor)] += seat_totals(actor);
  seat.base = line_totals(actor);
  seat.most = {};
}

// Under totals_mutex_. What was seen once stays counted, so that no total ever goes back.
const ResolveTotals& CacheMemory::seat_totals(std::uint32_t actor) const {
  ActorSeat& seat = seats_[actor];
  seat.most.raise_to(line_totals(actor).since(seat.base));
  return seat.most;
}

ipc::Status CacheMemory::close_actor(ipc::SessionId session, std::uint32_t actor) {
  if (!owns_actor(session, actor)) {
    return fail(Errc::stale_handle,
                "actor " + std::to_string(actor) + " is not one of this session");
  }
  if (kernels::is_active(kernels::load_acquire(&kernels::actor_line(table_, actor)->active))) {
    return fail(Errc::wrong_state,
                "actor " + std::to_string(actor) + " is in a step; end it first");
  }
  settle_totals(actor);
  seats_[actor].closed.store(true, std::memory_order_release);
  keep_seat(actor, false);
  return {};
}

void CacheMemory::close_actors_of(ipc::SessionId session) {
  std::vector<std::uint32_t> actors;
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    if (sits(session, i)) actors.push_back(i);
  }
  if (actors.empty()) return;
  const CacheTable::Ticket resetting = cache_table_->reset_actors(actors);
  for (const std::uint32_t i : actors) {
    settle_totals(i);
    seats_[i].closed.store(false, std::memory_order_relaxed);
    seats_[i].resetting = resetting;
    seats_[i].owner.store(kResetting, std::memory_order_release);
    keep_seat(i, false);
  }
}

// A killed daemon leaves either what was or what is: an actor that nobody goes on with is reset.
void CacheMemory::keep_seat(std::uint32_t actor, bool kept) {
  KeptSeat& keep = state_.seat(actor);
  keep.kept.store(0, std::memory_order_release);
  keep.owner.store(seats_[actor].owner.load(std::memory_order_relaxed), std::memory_order_release);
  keep.executor.store(static_cast<std::uint32_t>(seats_[actor].executor),
                      std::memory_order_release);
  keep.kept.store(kept ? 1 : 0, std::memory_order_release);
}

std::uint32_t CacheMemory::actors_of(ipc::SessionId session) const {
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    count += owns_actor(session, i) ? 1 : 0;
  }
  return count;
}

std::vector<ipc::SessionId> CacheMemory::overdue_actors(std::chrono::steady_clock::time_point now,
                                                        std::chrono::milliseconds deadline) {
  std::vector<ipc::SessionId> overdue;
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    ActorSeat& seat = seats_[i];
    const std::uint64_t owner = seat.owner.load(std::memory_order_acquire);
    const kernels::ActorLine* line = kernels::actor_line(table_, i);
    const std::uint64_t entries = kernels::load_relaxed(&line->entries);
    const bool active = kernels::is_active(kernels::load_relaxed(&line->active));
    // The lane's own work is no fault of the session.
    const bool nobodys = owner == 0 || owner == kResetting || seat.of_lane.load();
    if (nobodys || !active || entries != seat.seen_entries ||
        seat.seen_since == std::chrono::steady_clock::time_point{}) {
      seat.seen_entries = entries;
      seat.seen_since = now;
    } else if (now - seat.seen_since > deadline) {
      overdue.push_back(ipc::SessionId{owner - 1});
    }
  }
  return overdue;
}

// ---- operators

ResolveTotals CacheMemory::line_totals(std::uint32_t actor) const {
  const kernels::ActorCounters& from = kernels::actor_line(table_, actor)->counters;
  ResolveTotals totals;
  totals.hits = kernels::load_relaxed(&from.hits);
  totals.misses = kernels::load_relaxed(&from.fills);
  totals.no_slot = kernels::load_relaxed(&from.no_slot);
  totals.absent = kernels::load_relaxed(&from.absent) + kernels::load_relaxed(&from.pinned);
  totals.bytes_filled = kernels::load_relaxed(&from.filled_bytes);
  totals.forecast_issued = kernels::load_relaxed(&from.forecast_issued);
  totals.forecast_used = kernels::load_relaxed(&from.forecast_used);
  totals.forecast_bytes = kernels::load_relaxed(&from.forecast_bytes);
  return totals;
}

ResolveTotals CacheMemory::totals(Executor executor) const {
  const std::lock_guard lock(totals_mutex_);
  ResolveTotals totals = closed_[static_cast<int>(executor)];
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    const ActorSeat& seat = seats_[i];
    const std::uint64_t owner = seat.owner.load(std::memory_order_acquire);
    if (owner == 0 || owner == kResetting || seat.executor != executor) continue;
    totals += seat_totals(i);
  }
  return totals;
}

ResolveTotals CacheMemory::totals() const {
  ResolveTotals all = totals(Executor::daemon);
  all += totals(Executor::direct);
  ResolveTotals swept;
  swept.bytes_swept =
      kernels::load_relaxed(&table_.header->freed) * shape_.sizes.geometry.page_bytes;
  const std::lock_guard lock(totals_mutex_);
  swept_.raise_to(swept);
  all += swept_;
  return all;
}

std::uint64_t CacheMemory::forecast_wasted() const {
  return kernels::load_relaxed(&table_.header->forecast_wasted);
}

}  // namespace sluice::daemon
