// Who may take how much of a tier: pure arithmetic over what every tenant has.
//
// A tenant t may take e bytes (one extent, or an arena) if all three hold:
//   1. limit:    used(t) + e <= limit(t)
//   2. capacity: e <= free - sum over the other tenants of max(0, guaranteed - used)
//   3. share:    while other tenants want more (they were refused by 2 or 3 within the last
//   kWantEvents
//                events), used(t) + e <= guaranteed(t) + lendable * weight(t) / sum of weights,
//                where lendable = capacity - sum of all guarantees, and the sum goes over t and
//                those that want
//
// By 2, what is free always covers the guarantees that are not used yet: a guarantee is honoured at
// once, nothing has to be recalled for it. By 3, tenants alone take all that is free, and tenants
// that compete end up with their guarantee plus a part of the rest in proportion to their weights:
// who has more gets no more, and its extents that nobody refers to are reclaimed for those that
// want (pressure.h). (A guarantee that is raised while the memory is lent is honoured in the same
// way, not at once.)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "daemon/residency/types.h"

namespace sluice::residency {

struct TenantUse {
  std::string name;
  Quota quota;
  std::uint64_t used = 0;        // bytes granted, until their memory is really back
  std::uint64_t want_until = 0;  // event count until which this tenant counts as wanting
  std::uint64_t refused = 0;     // requests that failed by quota_exceeded, since start
  std::uint64_t failed = 0;      // extents, or arenas, that were granted and could not be made
};

// Of DRAM there is one, of HBM one for each device.
struct TierBook {
  Tier tier = Tier::dram;
  DeviceId device;  // of HBM
  std::uint64_t capacity = 0;
  std::uint64_t extent_bytes = 0;
  std::uint64_t granularity = 0;
  bool extents_stay = false;  // see TierSpec
  std::vector<TenantUse> tenants;
};

enum class Bound : std::uint8_t { limit, capacity, share };

// What a tenant may take now, and which of the three rules says so.
struct Room {
  std::uint64_t bytes = 0;
  Bound bound = Bound::limit;
};
Room room_for(const TierBook& book, TenantId tenant, std::uint64_t now);

// What a tenant has above guarantee and share while others want: reclaimable for them.
std::uint64_t excess_of(const TierBook& book, TenantId tenant, std::uint64_t now);
// What it has above its limit.
std::uint64_t over_limit(const TierBook& book, TenantId tenant);

std::uint64_t used_bytes(const TierBook& book);
std::uint64_t guaranteed_bytes(const TierBook& book);

// bad_config: what is wrong with `quota` as the one of `tenant`.
Status check_quota(const TierBook& book, TenantId tenant, const Quota& quota);

// "tenant 'a' has 10 of at most 20 bytes of dram (guaranteed 5); ..." for error texts.
std::string describe(const TierBook& book, TenantId tenant, std::uint64_t now);
std::string_view to_string(Tier tier);

}  // namespace sluice::residency
