// The catalog's tenants and devices, and what it tells of them.
#include "storage/catalog.h"

namespace sluice::storage {

Catalog::TenantNumber Catalog::tenant(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (const auto known = tenant_numbers_.find(name); known != tenant_numbers_.end()) {
    return {known->second, false};
  }
  const auto number = static_cast<std::uint32_t>(tenants_.size());
  Tenant& tenant = tenants_.emplace_back();
  tenant.stats.name = name;
  tenant_numbers_.emplace(name, number);
  return {number, true};
}

void Catalog::restore_tenant(std::uint32_t number, const std::string& name) {
  // A number whose name was lost keeps its blocks, under a name that nobody has.
  for (std::uint32_t next = 0; next < number; ++next) {
    if (!has_tenant(next)) tenant("?" + std::to_string(next));
  }
  if (!has_tenant(number)) tenant(name);
}

bool Catalog::has_tenant(std::uint32_t number) const {
  const std::lock_guard lock(mutex_);
  return number < tenants_.size();
}

double Catalog::weight(std::uint32_t tenant) const {
  const std::lock_guard lock(mutex_);
  return tenants_[tenant].stats.weight;
}

void Catalog::set_quota(std::uint32_t tenant, std::uint64_t limit_bytes, double weight) {
  const std::lock_guard lock(mutex_);
  tenants_[tenant].stats.limit_bytes = limit_bytes;
  tenants_[tenant].stats.weight = weight;
}

void Catalog::add_device(std::uint32_t device, std::uint32_t segments) {
  const std::lock_guard lock(mutex_);
  if (devices_.size() <= device) devices_.resize(device + 1);
  devices_[device].segments.resize(segments);
}

std::vector<SegmentUse> Catalog::segment_use(std::uint32_t device) const {
  const std::lock_guard lock(mutex_);
  std::vector<SegmentUse> uses;
  uses.reserve(devices_[device].segments.size());
  for (const Segment& segment : devices_[device].segments) uses.push_back(segment.use);
  return uses;
}

void Catalog::clear_used(std::uint32_t device, std::uint32_t number) {
  const std::lock_guard lock(mutex_);
  Segment& segment = devices_[device].segments[number];
  segment.use.used_bytes = 0;
  std::uint32_t place = segment.blocks.first;
  for (; place != kNone; place = entries_[place].by_segment.next) {
    entries_[place].block.used = false;
  }
}

std::uint64_t Catalog::live_bytes(std::uint32_t device) const {
  const std::lock_guard lock(mutex_);
  return devices_[device].live_bytes;
}

std::vector<Catalog::SegmentBlock> Catalog::blocks_of(std::uint32_t device,
                                                      std::uint32_t segment) const {
  const std::lock_guard lock(mutex_);
  std::vector<SegmentBlock> blocks;
  std::uint32_t place = devices_[device].segments[segment].blocks.first;
  for (; place != kNone; place = entries_[place].by_segment.next) {
    blocks.push_back({entries_[place].block, entries_[place].held});
  }
  return blocks;
}

void Catalog::count_refused(std::uint32_t tenant) {
  const std::lock_guard lock(mutex_);
  ++tenants_[tenant].stats.refused_writes;
}

void Catalog::count_read(std::uint32_t tenant, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  tenants_[tenant].stats.read_bytes += bytes;
}

bool Catalog::has_news() const {
  const std::lock_guard lock(mutex_);
  return !deletes_.empty() || !uses_.empty();
}

std::uint64_t Catalog::blocks() const {
  const std::lock_guard lock(mutex_);
  return entries_.size() - free_places_.size();
}

std::vector<TenantStats> Catalog::tenant_stats() const {
  const std::lock_guard lock(mutex_);
  std::vector<TenantStats> stats;
  stats.reserve(tenants_.size());
  for (const Tenant& tenant : tenants_) stats.push_back(tenant.stats);
  return stats;
}

}  // namespace sluice::storage
