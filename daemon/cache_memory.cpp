#include "daemon/cache_memory.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <string>

#include "daemon/logging.h"
#include "ipc/memfd.h"
#include "kernels/drop.h"
#include "kernels/pins.h"

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
constexpr const char* kTableName = "sluice-table";
constexpr const char* kHbmName = "sluice-hbm";
constexpr const char* kDramName = "sluice-dram";

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
                                                              std::uint32_t actors) {
  auto table = table_sizes(sizes, actors);
  if (!table) return std::unexpected(std::move(table.error()));
  std::unique_ptr<CacheMemory> made(new CacheMemory);
  CacheMemory& memory = *made;
  memory.shape_ = {sizes, *table, kernels::table_bytes(*table)};
  // Before the first piece: half an arena would take the node's memory only to give it back.
  const std::uint64_t need =
      memory.shape_.table_bytes + std::uint64_t{sizes.slot_extents} * sizes.slot_extent_bytes;
  if (const std::uint64_t left = ipc::available_memory_bytes(); left < need) {
    return fail(Errc::no_memory, "the cache takes " + std::to_string(need) + " bytes, " +
                                     std::to_string(memory.shape_.table_bytes) +
                                     " of them for its table; " + std::to_string(left) +
                                     " are left on the node; ask for a smaller arena, or lower the "
                                     "sizes of the tiers (tiers.*.capacity)");
  }

  auto fd = ipc::create_memfd(kTableName, memory.shape_.table_bytes, ipc::Populate::no);
  if (!fd) return std::unexpected(std::move(fd.error()));
  memory.table_fd_ = std::move(*fd);
  auto arena = ipc::ReservedRange::reserve(
      std::uint64_t{sizes.slot_extents} * sizes.slot_extent_bytes, "addresses for an arena");
  if (!arena) return std::unexpected(std::move(arena.error()));
  memory.arena_ = std::move(*arena);
  auto frames =
      ipc::ReservedRange::reserve(std::uint64_t{sizes.max_frame_extents} * sizes.frame_extent_bytes,
                                  "addresses for a cache's DRAM extents");
  if (!frames) return std::unexpected(std::move(frames.error()));
  memory.frames_ = std::move(*frames);
  memory.frame_extents_.resize(sizes.max_frame_extents);
  memory.extent_ready_.assign(sizes.max_frame_extents, 0);
  memory.private_frames_.assign(table->blocks, 0);
  memory.frame_log_.current = memory.private_frames_.data();
  memory.store_.arena = memory.arena_.data();
  memory.store_.frames = memory.frames_.data();
  memory.store_.page_bytes = sizes.geometry.page_bytes;
  memory.store_.frame_stride = sizes.geometry.frame_stride;
  memory.store_.frames_per_extent = sizes.frames_per_extent;
  memory.store_.slots = table->slots;
  memory.store_.frame_limit = sizes.max_frame_extents * sizes.frames_per_extent;
  memory.store_.extent_ready = memory.extent_ready_.data();
  memory.seats_ = std::make_unique<ActorSeat[]>(table->actors);
  memory.marks_.assign((table->blocks + 63) / 64, 0);
  return made;
}

// ---- coming and going

bool CacheMemory::whole() const {
  return table_memory_ && slot_extents_.size() == shape_.sizes.slot_extents;
}

ipc::Status CacheMemory::make_piece(Device& device) {
  if (!table_memory_) return make_table_piece();
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
  const std::uint64_t piece = std::min(kTablePiece, shape_.table_bytes - table_taken_);
  if (auto ok = ipc::populate_memfd(table_fd_.get(), kTableName, table_taken_, piece,
                                    ipc::HugePages::attempt);
      !ok) {
    return ok;
  }
  table_taken_ += piece;
  if (table_taken_ < shape_.table_bytes) return {};
  auto mapping = ipc::Mapping::map(table_fd_.get(), 0, shape_.table_bytes, ipc::Access::read_write,
                                   "a hot table");
  if (!mapping) return std::unexpected(std::move(mapping.error()));
  table_memory_ = std::move(*mapping);
  shared_ = kernels::format_table(table_memory_.data(), shape_.table);
  table_ = shared_;
  kernels::use_private_frames(table_, frame_log_);
  return {};
}

// Files are emptied, since a process may still hold a descriptor or a mapping of them. What the
// kernel refuses to unmap or to empty here goes at the latest with the object and those holders.
bool CacheMemory::free_piece() {
  if (!slot_extents_.empty()) {
    const std::uint64_t bytes = shape_.sizes.slot_extent_bytes;
    (void)arena_.unmap_at((slot_extents_.size() - 1) * bytes, bytes, "an HBM extent");
    (void)ipc::vacate_memfd(slot_extents_.back().get(), kHbmName, 0, bytes);
    slot_extents_.pop_back();
    return true;
  }
  if (const std::uint32_t left = frame_extents(); left > 0) {
    const std::uint64_t bytes = shape_.sizes.frame_extent_bytes;
    (void)frames_.unmap_at((left - 1) * bytes, bytes, "a DRAM extent");
    (void)ipc::vacate_memfd(frame_extents_[left - 1].get(), kDramName, 0, bytes);
    frame_extents_[left - 1].reset();
    extents_.store(left - 1, std::memory_order_release);
    return true;
  }
  if (table_taken_ == 0) return false;
  table_memory_ = ipc::Mapping();
  const std::uint64_t piece = std::min(kTablePiece, table_taken_);
  table_taken_ -= piece;
  (void)ipc::vacate_memfd(table_fd_.get(), kTableName, table_taken_, piece);
  return true;
}

std::vector<int> CacheMemory::extent_fds(ipc::Tier tier, std::uint32_t first, std::size_t most,
                                         std::uint32_t& total) const {
  const std::vector<ipc::Fd>& extents = tier == ipc::Tier::hbm ? slot_extents_ : frame_extents_;
  total = tier == ipc::Tier::hbm ? shape_.sizes.slot_extents : frame_extents();
  std::vector<int> fds;
  for (std::uint32_t i = first; i < total && fds.size() < most; ++i) {
    if (!extents[i]) break;
    fds.push_back(extents[i].get());
  }
  return fds;
}

// ---- DRAM extents

ipc::Status CacheMemory::grant_extent(Device& device, std::uint32_t extent) {
  const std::uint64_t bytes = shape_.sizes.frame_extent_bytes;
  if (extent < frame_extents()) {
    // Given back before: the same file takes memory anew.
    auto taken = device.refill_extent(ipc::Tier::dram, frame_extents_[extent], bytes);
    if (!taken) release_extent(extent);
    return taken;
  }
  SLUICE_ASSERT(extent == frame_extents() && extent < frame_extents_.size());
  auto made = device.allocate_extent(ipc::Tier::dram, bytes);
  if (!made) return std::unexpected(std::move(made.error()));
  auto mapped = device.map_extent(ipc::Tier::dram, frames_, extent * bytes, *made, bytes);
  if (!mapped) return mapped;
  frame_extents_[extent] = std::move(*made);
  std::atomic_ref(extent_ready_[extent]).store(1, std::memory_order_release);
  extents_.store(extent + 1, std::memory_order_release);
  return {};
}

void CacheMemory::release_extent(std::uint32_t extent) {
  if (auto vacated = ipc::vacate_memfd(frame_extents_[extent].get(), kDramName, 0,
                                       shape_.sizes.frame_extent_bytes);
      !vacated) {
    log_error("memory of a DRAM extent was not given back", {{"reason", vacated.error().text}});
  }
}

// ---- blocks

void CacheMemory::set_frame(ipc::BlockId id, ipc::FrameId frame) {
  kernels::append_log(shared_, frame_log_, id.value, frame.value);
  kernels::apply_log(shared_);
}

kernels::BlockSet CacheMemory::mark(const std::vector<ipc::BlockId>& ids) {
  for (const ipc::BlockId id : ids) {
    marks_[id.value / 64] |= std::uint64_t{1} << (id.value % 64);
  }
  return {marks_.data(), shape_.table.blocks};
}

void CacheMemory::unmark(const std::vector<ipc::BlockId>& ids) {
  for (const ipc::BlockId id : ids) marks_[id.value / 64] = 0;
}

Retirement CacheMemory::retire(std::vector<ipc::BlockId> ids) {
  Retirement retirement{std::move(ids), {}};
  for (const ipc::BlockId id : retirement.ids) {
    if (kernels::frame_of(table_, id.value) != kernels::kNoFrame) {
      kernels::append_log(shared_, frame_log_, id.value, kernels::kNoFrame);
    }
  }
  kernels::apply_log(shared_);
  retirement.grace.start(table_, frame_log_.end);
  return retirement;
}

bool CacheMemory::try_finish(Retirement& retirement) {
  if (!retirement.grace.poll(table_)) return false;
  kernels::drop_blocks(table_, mark(retirement.ids));
  unmark(retirement.ids);
  return true;
}

void CacheMemory::drop_pins(const std::vector<ipc::BlockId>& ids, bool sealed) {
  const kernels::BlockSet blocks = mark(ids);
  if (sealed) {
    seal_pins(blocks);
  } else {
    kernels::drop_pins(table_, blocks);
  }
  unmark(ids);
}

void CacheMemory::seal_pins(const kernels::BlockSet& blocks) {
  const kernels::Step step = kernels::clock_of(table_);
  for (std::uint32_t i = 0; i < shape_.table.slots; ++i) {
    const kernels::Word word = kernels::load_acquire(&table_.words[i]);
    const kernels::Page page = kernels::page_of(word);
    if (kernels::is_pinned(word) && page < table_.pages &&
        blocks.contains(kernels::block_of(table_, page))) {
      kernels::seal_pin(table_, static_cast<kernels::Slot>(i), page, step);
    }
  }
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

ipc::Result<std::uint32_t> CacheMemory::open_actor(ipc::SessionId session, Executor executor,
                                                   bool of_lane) {
  static std::atomic<std::uint64_t> openings{0};
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    ActorSeat& seat = seats_[i];
    const bool own = sits(session, i) && seat.closed.load(std::memory_order_relaxed);
    if (!own && seat.owner.load(std::memory_order_relaxed) != 0) continue;
    const std::lock_guard lock(totals_mutex_);
    seat.executor = executor;
    seat.of_lane.store(of_lane, std::memory_order_relaxed);
    seat.base = line_totals(i);
    seat.most = {};
    seat.seen_since = {};
    seat.opened.store(++openings, std::memory_order_release);
    seat.closed.store(false, std::memory_order_release);
    seat.owner.store(session.value + 1, std::memory_order_release);
    return i;
  }
  return fail(Errc::limit_reached, "all " + std::to_string(shape_.table.actors) +
                                       " actors of the cache are in use (limits.actors_per_cache)");
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
  return {};
}

void CacheMemory::close_actors_of(ipc::SessionId session) {
  for (std::uint32_t i = 0; i < shape_.table.actors; ++i) {
    if (!sits(session, i)) continue;
    kernels::reset_actor(table_, i);
    settle_totals(i);
    seats_[i].closed.store(false, std::memory_order_relaxed);
    seats_[i].owner.store(0, std::memory_order_release);
  }
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
    if (owner == 0 || !active || entries != seat.seen_entries ||
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
    if (seat.owner.load(std::memory_order_acquire) == 0 || seat.executor != executor) continue;
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

HbmResidency CacheMemory::scan() const {
  HbmResidency found;
  found.pages_of_block.assign(shape_.table.blocks, 0);
  found.pinned_of_block.assign(shape_.table.blocks, 0);
  for (std::uint32_t slot = 0; slot < shape_.table.slots; ++slot) {
    const kernels::Word word = kernels::load_relaxed(&table_.words[slot]);
    const kernels::Page page = kernels::page_of(word);
    if (page >= table_.pages) {
      ++found.free_slots;
      continue;
    }
    const kernels::Block block = kernels::block_of(table_, page);
    ++found.pages_of_block[block];
    if (kernels::is_pinned(word)) {
      ++found.pinned_of_block[block];
      ++found.pinned_pages;
    } else {
      ++found.cached_pages;
    }
  }
  return found;
}

}  // namespace sluice::daemon
