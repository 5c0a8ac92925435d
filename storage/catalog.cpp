#include "storage/catalog.h"

#include <algorithm>
#include <utility>

#include "storage/record.h"

namespace sluice::storage {
namespace {

// The index learns of a use when it is the first one, or this much later than the last it knows.
constexpr std::uint32_t kUseGranularity = 600;

}  // namespace

std::uint64_t record_bytes(const IndexEntry& entry) {
  return record_bytes_of(std::uint64_t{entry.block_pages} * kIoAlign);
}

std::optional<std::uint32_t> Catalog::place_of(const Digest& digest) const {
  return table_.find(digest,
                     [&](std::uint32_t place) { return entries_[place].block.digest == digest; });
}

std::optional<IndexEntry> Catalog::peek(const Digest& digest) const {
  const std::lock_guard lock(mutex_);
  const auto place = place_of(digest);
  if (!place) return std::nullopt;
  return entries_[*place].block;
}

void Catalog::find(std::span<const Digest> digests, std::uint32_t now_s,
                   std::vector<std::optional<IndexEntry>>& found) {
  found.assign(digests.size(), std::nullopt);
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < digests.size(); ++i) {
    const auto place = place_of(digests[i]);
    if (!place) continue;
    use(*place, now_s);
    found[i] = entries_[*place].block;
  }
}

std::vector<Catalog::Held> Catalog::find_and_hold(std::span<const Digest> digests,
                                                  std::uint32_t now_s) {
  std::vector<Held> found;
  const std::lock_guard lock(mutex_);
  for (const Digest& digest : digests) {
    const auto place = place_of(digest);
    if (!place) break;
    use(*place, now_s);
    const bool newly = !entries_[*place].held;
    hold_at(*place);
    found.push_back({entries_[*place].block, newly});
  }
  return found;
}

bool Catalog::restore(const IndexEntry& entry) {
  const std::lock_guard lock(mutex_);
  if (const auto place = place_of(entry.digest)) {
    if (entries_[*place].block.sequence >= entry.sequence) return false;
    remove(*place);
  }
  insert(entry);
  return true;
}

void Catalog::use(std::uint32_t place, std::uint32_t now_s) {
  Entry& entry = entries_[place];
  IndexEntry& block = entry.block;
  Segment& segment = devices_[block.device].segments[block.segment];
  if (!entry.held) {
    List& by_use = tenants_[block.tenant].by_use;
    unlink(by_use, &Entry::by_use, place);
    link(by_use, &Entry::by_use, place);
  }
  block.last_use_s = std::max(block.last_use_s, now_s);
  const bool first = !block.used;
  if (first) {
    block.used = true;
    if (!entry.held) segment.use.used_bytes += record_bytes(block);
  }
  if ((first || block.last_use_s - entry.told_use_s >= kUseGranularity) &&
      uses_.size() < kMaxUses) {
    uses_.push_back(block.digest);
    entry.told_use_s = block.last_use_s;
  }
}

void Catalog::insert(const IndexEntry& block) {
  std::uint32_t place = 0;
  if (free_places_.empty()) {
    place = static_cast<std::uint32_t>(entries_.size());
    entries_.emplace_back();
  } else {
    place = free_places_.back();
    free_places_.pop_back();
  }
  entries_[place] = Entry{block, {}, {}, block.last_use_s, false};
  table_.insert(block.digest, place);

  Tenant& tenant = tenants_[block.tenant];
  Device& device = devices_[block.device];
  Segment& segment = device.segments[block.segment];
  const std::uint64_t bytes = record_bytes(block);
  link(tenant.by_use, &Entry::by_use, place);
  link(segment.blocks, &Entry::by_segment, place);
  ++tenant.stats.blocks;
  tenant.stats.live_bytes += bytes;
  device.live_bytes += bytes;
  segment.use.live_bytes += bytes;
  if (block.used) segment.use.used_bytes += bytes;
}

void Catalog::hold_at(std::uint32_t place) {
  Entry& entry = entries_[place];
  if (std::exchange(entry.held, true)) return;
  Tenant& tenant = tenants_[entry.block.tenant];
  const std::uint64_t bytes = record_bytes(entry.block);
  unlink(tenant.by_use, &Entry::by_use, place);
  tenant.stats.held_bytes += bytes;
  SegmentUse& use = devices_[entry.block.device].segments[entry.block.segment].use;
  use.held_bytes += bytes;
  if (entry.block.used) use.used_bytes -= bytes;
}

void Catalog::let_go_at(std::uint32_t place) {
  Entry& entry = entries_[place];
  if (!std::exchange(entry.held, false)) return;
  Tenant& tenant = tenants_[entry.block.tenant];
  const std::uint64_t bytes = record_bytes(entry.block);
  link(tenant.by_use, &Entry::by_use, place);
  tenant.stats.held_bytes -= bytes;
  SegmentUse& use = devices_[entry.block.device].segments[entry.block.segment].use;
  use.held_bytes -= bytes;
  if (entry.block.used) use.used_bytes += bytes;
}

bool Catalog::hold(const Digest& digest) {
  const std::lock_guard lock(mutex_);
  const auto place = place_of(digest);
  if (place) hold_at(*place);
  return place.has_value();
}

void Catalog::let_go(const Digest& digest) {
  const std::lock_guard lock(mutex_);
  const auto place = place_of(digest);
  if (!place || !entries_[*place].held) return;
  Tenant& tenant = tenants_[entries_[*place].block.tenant];
  let_go_at(*place);
  // The limit became lower while it was held.
  drop_excess(tenant);
}

void Catalog::remove(std::uint32_t place) {
  let_go_at(place);
  const IndexEntry block = entries_[place].block;
  Tenant& tenant = tenants_[block.tenant];
  Device& device = devices_[block.device];
  Segment& segment = device.segments[block.segment];
  const std::uint64_t bytes = record_bytes(block);
  unlink(tenant.by_use, &Entry::by_use, place);
  unlink(segment.blocks, &Entry::by_segment, place);
  --tenant.stats.blocks;
  tenant.stats.live_bytes -= bytes;
  device.live_bytes -= bytes;
  segment.use.live_bytes -= bytes;
  if (block.used) segment.use.used_bytes -= bytes;
  table_.erase(block.digest, place);
  free_places_.push_back(place);
}

void Catalog::link(List& list, Links Entry::* links, std::uint32_t place) {
  entries_[place].*links = {kNone, list.first};
  if (list.first != kNone) (entries_[list.first].*links).previous = place;
  list.first = place;
  if (list.last == kNone) list.last = place;
}

void Catalog::unlink(List& list, Links Entry::* links, std::uint32_t place) {
  const Links own = entries_[place].*links;
  (own.previous == kNone ? list.first : (entries_[own.previous].*links).next) = own.next;
  (own.next == kNone ? list.last : (entries_[own.next].*links).previous) = own.previous;
}

void Catalog::drop_at(std::uint32_t place, Drop why) {
  const IndexEntry& block = entries_[place].block;
  TenantStats& stats = tenants_[block.tenant].stats;
  if (why == Drop::to_make_room) ++stats.dropped_blocks;
  if (why == Drop::lost) ++stats.lost_blocks;
  deletes_.push_back(block.digest);
  remove(place);
}

bool Catalog::drop(const Digest& digest, std::optional<std::uint64_t> sequence, Drop why) {
  const std::lock_guard lock(mutex_);
  if (!sequence) {
    if (const auto pending = pending_.find(digest); pending != pending_.end()) {
      pending->second.forgotten = true;
    }
  }
  const auto place = place_of(digest);
  if (!place || (sequence && entries_[*place].block.sequence != *sequence)) return false;
  if (why == Drop::to_make_room && entries_[*place].held) return false;
  drop_at(*place, why);
  return true;
}

void Catalog::drop_device(std::uint32_t device) {
  const std::lock_guard lock(mutex_);
  for (Segment& segment : devices_[device].segments) {
    while (segment.blocks.first != kNone) {
      ++tenants_[entries_[segment.blocks.first].block.tenant].stats.lost_blocks;
      remove(segment.blocks.first);
    }
  }
}

bool Catalog::drop_segment(std::uint32_t device, std::uint32_t segment) {
  const std::lock_guard lock(mutex_);
  Segment& dropped = devices_[device].segments[segment];
  if (dropped.use.held_bytes > 0) return false;
  while (dropped.blocks.first != kNone) drop_at(dropped.blocks.first, Drop::to_make_room);
  return true;
}

bool Catalog::make_room(Tenant& tenant, std::uint64_t bytes) {
  const std::uint64_t limit = tenant.stats.limit_bytes;
  if (limit == 0) return true;
  // What is being written or held cannot be dropped, and what is beyond a limit that became lower
  // is not one write's to drop.
  const std::uint64_t stays = tenant.reserved_bytes + tenant.stats.held_bytes;
  if (stays + bytes > limit || tenant.is_over_limit()) return false;
  while (tenant.stats.live_bytes + tenant.reserved_bytes + bytes > limit) {
    drop_at(tenant.by_use.last, Drop::to_make_room);
  }
  return true;
}

bool Catalog::drop_excess(Tenant& tenant) {
  for (std::size_t dropped = 0; tenant.is_over_limit() && tenant.by_use.last != kNone; ++dropped) {
    if (dropped == kDropsPerTurn) return true;
    drop_at(tenant.by_use.last, Drop::to_make_room);
  }
  return false;
}

bool Catalog::drop_excess(std::uint32_t tenant) {
  const std::lock_guard lock(mutex_);
  return drop_excess(tenants_[tenant]);
}

bool Catalog::exists_at(const Digest& digest, std::uint64_t block_bytes, std::uint64_t valid_bytes,
                        Hold hold) {
  const auto place = place_of(digest);
  if (!place) return false;
  const IndexEntry& block = entries_[*place].block;
  if (block.valid_bytes != valid_bytes || block.block_pages != block_bytes / kIoAlign) return false;
  if (hold == Hold::yes) hold_at(*place);
  return true;
}

bool Catalog::exists(const Digest& digest, std::uint64_t block_bytes, std::uint64_t valid_bytes,
                     Hold hold) {
  const std::lock_guard lock(mutex_);
  return exists_at(digest, block_bytes, valid_bytes, hold);
}

Catalog::Begun Catalog::begin_write(const Digest& digest, std::uint32_t tenant_number,
                                    std::uint64_t block_bytes, std::uint64_t valid_bytes, Hold hold,
                                    Done& done) {
  const std::lock_guard lock(mutex_);
  Tenant& tenant = tenants_[tenant_number];
  if (const auto pending = pending_.find(digest); pending != pending_.end()) {
    if (hold == Hold::yes && !hold_pending(digest, pending->second)) {
      ++tenant.stats.refused_writes;
      return Begun::refused;
    }
    pending->second.waiters.push_back(std::move(done));
    return Begun::joined;
  }
  if (exists_at(digest, block_bytes, valid_bytes, hold)) return Begun::exists;
  const std::uint64_t bytes = record_bytes_of(block_bytes);
  if (!make_room(tenant, bytes)) {
    ++tenant.stats.refused_writes;
    return Begun::refused;
  }
  tenant.reserved_bytes += bytes;
  Pending& pending = pending_[digest];
  pending.tenant = tenant_number;
  pending.bytes = bytes;
  pending.hold = hold == Hold::yes;
  pending.waiters.push_back(std::move(done));
  return Begun::started;
}

// false: it exists no more, though those who wait for it are about to be told that it does.
bool Catalog::hold_pending(const Digest& digest, Pending& pending) {
  pending.hold = true;
  if (!pending.applied) return true;
  const auto place = place_of(digest);
  if (place) hold_at(*place);
  return place.has_value();
}

std::vector<Done> Catalog::end_write(const Digest& digest) {
  const std::lock_guard lock(mutex_);
  const auto pending = pending_.find(digest);
  SLUICE_ASSERT(pending != pending_.end());
  tenants_[pending->second.tenant].reserved_bytes -= pending->second.bytes;
  std::vector<Done> waiters = std::move(pending->second.waiters);
  pending_.erase(pending);
  return waiters;
}

bool Catalog::wanted(const Digest& digest, std::optional<std::uint64_t> moved_from) const {
  const std::lock_guard lock(mutex_);
  if (!moved_from) {
    const auto pending = pending_.find(digest);
    return pending != pending_.end() && !pending->second.forgotten;
  }
  const auto place = place_of(digest);
  return place && entries_[*place].block.sequence == *moved_from;
}

void Catalog::apply(const IndexEntry& entry, std::optional<std::uint64_t> moved_from) {
  const std::lock_guard lock(mutex_);
  const auto place = place_of(entry.digest);
  const auto pending = pending_.find(entry.digest);
  const bool is_wanted = moved_from ? place && entries_[*place].block.sequence == *moved_from
                                    : pending != pending_.end() && !pending->second.forgotten;
  if (!is_wanted) {
    if (!place) deletes_.push_back(entry.digest);
    return;
  }
  if (moved_from) {
    // The same block, as cold as it was, in another place.
    Entry& old = entries_[*place];
    Device& device = devices_[old.block.device];
    Segment& before = device.segments[old.block.segment];
    const std::uint64_t bytes = record_bytes(old.block);
    unlink(before.blocks, &Entry::by_segment, *place);
    before.use.live_bytes -= bytes;
    if (old.held) {
      before.use.held_bytes -= bytes;
    } else if (old.block.used) {
      before.use.used_bytes -= bytes;
    }
    const std::uint32_t last_use_s = old.block.last_use_s;
    old.block = entry;
    old.block.last_use_s = last_use_s;
    Segment& now = device.segments[entry.segment];
    link(now.blocks, &Entry::by_segment, *place);
    now.use.live_bytes += bytes;
    if (old.held) {
      now.use.held_bytes += bytes;
    } else if (old.block.used) {
      now.use.used_bytes += bytes;
    }
    return;
  }
  const bool held = pending->second.hold || (place && entries_[*place].held);
  if (place) remove(*place);
  Tenant& tenant = tenants_[entry.tenant];
  tenant.reserved_bytes -= std::exchange(pending->second.bytes, 0);
  pending->second.applied = true;
  tenant.stats.written_bytes += record_bytes(entry);
  insert(entry);
  if (held) {
    if (const auto now = place_of(entry.digest)) hold_at(*now);
  }
  // The limit became lower while it was written.
  drop_excess(tenant);
}

Catalog::News Catalog::take_news(std::size_t uses) {
  const std::lock_guard lock(mutex_);
  News news;
  news.deletes.swap(deletes_);
  while (!uses_.empty() && news.uses.size() < uses) {
    if (const auto place = place_of(uses_.back())) news.uses.push_back(entries_[*place].block);
    uses_.pop_back();
  }
  return news;
}

void Catalog::give_back(News news) {
  const std::lock_guard lock(mutex_);
  deletes_.insert(deletes_.begin(), news.deletes.begin(), news.deletes.end());
}

}  // namespace sluice::storage
