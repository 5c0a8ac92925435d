#include "daemon/residency/quota.h"

#include <algorithm>
#include <cmath>

#include "daemon/residency/seeded.h"

namespace sluice::residency {
namespace {

std::uint64_t minus(std::uint64_t a, std::uint64_t b) { return a > b ? a - b : 0; }

// Of what is lent beyond guarantees; all of the tier if nobody else wants.
std::uint64_t entitlement(const TierBook& book, std::size_t tenant, std::uint64_t now) {
  const TenantUse& use = book.tenants[tenant];
  double weights = use.quota.weight;
  bool alone = true;
  for (std::size_t other = 0; other < book.tenants.size(); ++other) {
    if (other == tenant || book.tenants[other].want_until <= now) continue;
    weights += book.tenants[other].quota.weight;
    alone = false;
  }
  if (alone) return book.capacity;
  const std::uint64_t lendable = minus(book.capacity, guaranteed_bytes(book));
  const double share = static_cast<double>(lendable) * (use.quota.weight / weights);
  return use.quota.guaranteed_bytes + static_cast<std::uint64_t>(share);
}

}  // namespace

std::uint64_t used_bytes(const TierBook& book) {
  std::uint64_t sum = 0;
  for (const TenantUse& use : book.tenants) sum += use.used;
  return sum;
}

std::uint64_t guaranteed_bytes(const TierBook& book) {
  std::uint64_t sum = 0;
  for (const TenantUse& use : book.tenants) sum += use.quota.guaranteed_bytes;
  return sum;
}

Room room_for(const TierBook& book, TenantId tenant, std::uint64_t now) {
  const TenantUse& use = book.tenants[tenant.value];
  std::uint64_t unmet = 0;
  for (std::size_t other = 0; other < book.tenants.size(); ++other) {
    if (other == tenant.value) continue;
    unmet += minus(book.tenants[other].quota.guaranteed_bytes, book.tenants[other].used);
  }
  Room room{minus(use.quota.limit_bytes, use.used), Bound::limit};
  if (SLUICE_SEEDED(ignore_limit)) room.bytes = book.capacity;
  const std::uint64_t free = minus(minus(book.capacity, used_bytes(book)), unmet);
  if (free < room.bytes) room = {free, Bound::capacity};
  const std::uint64_t share = minus(entitlement(book, tenant.value, now), use.used);
  if (share < room.bytes) room = {share, Bound::share};
  return room;
}

std::uint64_t excess_of(const TierBook& book, TenantId tenant, std::uint64_t now) {
  return minus(book.tenants[tenant.value].used, entitlement(book, tenant.value, now));
}

std::uint64_t over_limit(const TierBook& book, TenantId tenant) {
  const TenantUse& use = book.tenants[tenant.value];
  return minus(use.used, use.quota.limit_bytes);
}

Status check_quota(const TierBook& book, TenantId tenant, const Quota& quota) {
  const std::string whose = "tenant '" + book.tenants[tenant.value].name + "', " +
                            std::string(to_string(book.tier)) + ": ";
  if (quota.guaranteed_bytes > quota.limit_bytes) {
    return ipc::fail(Errc::bad_config,
                     whose + "guaranteed is " + std::to_string(quota.guaranteed_bytes) +
                         " bytes, above the limit of " + std::to_string(quota.limit_bytes) +
                         "; expected guaranteed <= limit");
  }
  if (!std::isfinite(quota.weight) || quota.weight <= 0) {
    return ipc::fail(Errc::bad_config,
                     whose + "weight is " + std::to_string(quota.weight) + "; expected above 0");
  }
  const std::uint64_t others =
      guaranteed_bytes(book) - book.tenants[tenant.value].quota.guaranteed_bytes;
  if (quota.guaranteed_bytes > minus(book.capacity, others)) {
    return ipc::fail(Errc::bad_config,
                     whose + "guaranteed is " + std::to_string(quota.guaranteed_bytes) +
                         " bytes; the other tenants' guarantees leave " +
                         std::to_string(minus(book.capacity, others)) +
                         " of the tier's capacity of " + std::to_string(book.capacity));
  }
  return {};
}

std::string describe(const TierBook& book, TenantId tenant, std::uint64_t now) {
  const TenantUse& use = book.tenants[tenant.value];
  const Room room = room_for(book, tenant, now);
  std::string text = "tenant '" + use.name + "' has " + std::to_string(use.used) + " bytes of " +
                     std::string(to_string(book.tier)) + ", its limit is " +
                     std::to_string(use.quota.limit_bytes) + " (guaranteed " +
                     std::to_string(use.quota.guaranteed_bytes) + "), and it may take " +
                     std::to_string(room.bytes) + " more now";
  if (room.bound == Bound::capacity) {
    text += ": " + std::to_string(minus(book.capacity, used_bytes(book))) + " of the tier's " +
            std::to_string(book.capacity) + " are free, part of it guaranteed to others";
  }
  if (room.bound == Bound::share) text += ": its share by weight while other tenants want memory";
  return text;
}

std::string_view to_string(Tier tier) {
  switch (tier) {
    case Tier::hbm:
      return "hbm";
    case Tier::dram:
      return "dram";
    default:
      return "nvme";
  }
}

}  // namespace sluice::residency
