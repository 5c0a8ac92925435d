#include "daemon/nvme_tier.h"

#include <algorithm>
#include <utility>

#include "daemon/logging.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;

constexpr storage::IoKind kind_of(IoKind kind) {
  switch (kind) {
    case IoKind::io_uring:
      return storage::IoKind::io_uring;
    case IoKind::threads:
      return storage::IoKind::threads;
    case IoKind::automatic:
      break;
  }
  return storage::IoKind::automatic;
}

std::string text_of(const ipc::Layout& layout) {
  return "layers=" + std::to_string(layout.layers) +
         " kv_heads=" + std::to_string(layout.kv_heads) +
         " head_dim=" + std::to_string(layout.head_dim) +
         " block_tokens=" + std::to_string(layout.block_tokens) +
         " dtype_bytes=" + std::to_string(layout.dtype_bytes) +
         " planes=" + std::to_string(layout.planes) +
         " page_kind=" + std::to_string(static_cast<int>(layout.page_kind));
}

storage::TenantConfig quota_of(const TenantConfig& tenant) {
  return {tenant.name, tenant.nvme.limit_bytes, tenant.nvme.weight};
}

}  // namespace

storage::Namespace scope_of(const std::string& tenant, const residency::CacheSpec& spec) {
  return {tenant, spec.model, spec.salt, text_of(spec.layout),
          "index=" + std::to_string(spec.shard_index) +
              " count=" + std::to_string(spec.shard_count) +
              " kind=" + std::to_string(static_cast<int>(spec.kind))};
}

NvmeTier::NvmeTier(std::unique_ptr<storage::BlockStore> store) : store_(std::move(store)) {}

ipc::Result<std::unique_ptr<NvmeTier>> NvmeTier::open(const Config& config, const StoreTuning& tune,
                                                      storage::Cleaning cleaning) {
  if (config.nvme.directories.empty()) return nullptr;
  storage::StoreConfig wanted;
  for (const NvmeDirectory& directory : config.nvme.directories) {
    wanted.devices.push_back({directory.path, directory.capacity_bytes});
  }
  for (const TenantConfig& tenant : config.tenants) wanted.tenants.push_back(quota_of(tenant));
  wanted.segment_bytes = config.nvme.segment_bytes;
  wanted.part_bytes = config.nvme.part_bytes;
  wanted.io = kind_of(config.nvme.io);
  wanted.depth = config.nvme.depth;
  wanted.write_bytes_per_day = config.nvme.write_per_day_bytes;
  wanted.cleaning = cleaning;
  if (tune) tune(wanted);
  auto store = storage::BlockStore::open(std::move(wanted));
  if (!store) {
    return ipc::fail(store.error().code, "tiers.nvme: " + store.error().text);
  }
  const storage::StoreStats stats = (*store)->stats();
  for (const storage::DeviceStats& device : stats.devices) {
    log_info("an NVMe directory is open", {{"directory", device.directory.string()},
                                           {"io", device.engine},
                                           {"why", device.engine_why},
                                           {"capacity_bytes", device.capacity_bytes},
                                           {"live_bytes", device.live_bytes}});
  }
  log_info("the block store is open", {{"blocks", stats.blocks},
                                       {"recovered", stats.recovered_blocks},
                                       {"dropped_records", stats.dropped_records},
                                       {"seconds", stats.open_seconds}});
  return std::unique_ptr<NvmeTier>(new NvmeTier(std::move(*store)));
}

ipc::Status NvmeTier::set_quota(const TenantConfig& tenant) {
  return store_->set_tenant(quota_of(tenant));
}

std::vector<storage::BlockStore::HeldBlock> NvmeTier::hold_prefix(storage::NamespaceId scope,
                                                                  const residency::KeyView& keys) {
  std::vector<std::span<const std::byte>> all;
  all.reserve(keys.count);
  for (std::uint32_t i = 0; i < keys.count; ++i) all.push_back(keys[i]);
  auto found = store_->find_and_hold(scope, all);
  if (found) return std::move(*found);
  log_warn("the block store was not asked for blocks", {{"reason", found.error().text}});
  return {};
}

void NvmeTier::write(storage::NamespaceId scope, std::span<const std::byte> key,
                     std::span<const std::byte> frame, std::uint64_t valid_bytes,
                     storage::Reuse reuse, storage::Hold hold, Done done) {
  store_->write(scope, key, frame, valid_bytes, storage::IoClass::write_back, std::move(done),
                reuse, hold);
}

ipc::Status NvmeTier::hold(storage::NamespaceId scope, std::span<const std::byte> key) {
  return store_->hold(scope, key);
}

void NvmeTier::let_go(storage::NamespaceId scope, std::span<const std::byte> key) {
  store_->let_go(scope, key);
}

void NvmeTier::read(storage::NamespaceId scope, std::span<const std::byte> key,
                    std::span<std::byte> frame, storage::IoClass io_class, Done done) {
  const std::span<const std::byte> one[] = {key};
  const auto found = store_->find(scope, one);
  if (!found) return done(std::unexpected(found.error()));
  const std::optional<storage::StoredBlock>& block = found->front();
  if (!block || block->block_bytes > frame.size()) {
    return done(ipc::fail(Errc::not_found, "the block store has no such block any more"));
  }
  store_->read(scope, key, *block, 0, frame.first(block->block_bytes), io_class, std::move(done));
}

void NvmeTier::hurry(storage::NamespaceId scope, std::span<const std::byte> key) {
  store_->hurry(scope, key);
}

}  // namespace sluice::daemon
