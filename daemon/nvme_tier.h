// The tier behind DRAM: the block store, and what it calls things.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "daemon/config.h"
#include "daemon/residency/types.h"
#include "ipc/error.h"
#include "storage/block_store.h"

namespace sluice::daemon {

// The scope of a cache's keys on disk. Whatever must agree for a block to have the same meaning is
// in it: `layout` and `shard` as texts such as "layers=32 kv_heads=8 head_dim=128 ...".
storage::Namespace scope_of(const std::string& tenant, const residency::CacheSpec& spec);

// Changes what the store is opened with; for tests.
using StoreTuning = std::function<void(storage::StoreConfig&)>;

class NvmeTier {
 public:
  // Opens the store and says what it found. Null if none is configured. With Cleaning::when_asked
  // nothing is dropped until clean_as_needed(). Errors: those of storage::BlockStore::open, naming
  // tiers.nvme.
  static ipc::Result<std::unique_ptr<NvmeTier>> open(
      const Config& config, const StoreTuning& tune = {},
      storage::Cleaning cleaning = storage::Cleaning::as_needed);

  storage::BlockStore& store() { return *store_; }
  const storage::BlockStore& store() const { return *store_; }

  void clean_as_needed() { store_->clean_as_needed(); }
  // What the tenant may have from now on; see BlockStore::set_tenant, also for its errors.
  ipc::Status set_quota(const TenantConfig& tenant);

  // Those of `keys`, from the first on, that the store has one after the other; it holds them.
  std::vector<storage::BlockStore::HeldBlock> hold_prefix(storage::NamespaceId scope,
                                                          const residency::KeyView& keys);

  using Done = std::move_only_function<void(ipc::Status)>;
  void write(storage::NamespaceId scope, std::span<const std::byte> key,
             std::span<const std::byte> frame, std::uint64_t valid_bytes, storage::Reuse reuse,
             storage::Hold hold, Done done);
  // See storage::BlockStore. A block that cannot be held any more is lost when it is read.
  ipc::Status hold(storage::NamespaceId scope, std::span<const std::byte> key);
  void let_go(storage::NamespaceId scope, std::span<const std::byte> key);
  // The whole block, into its frame. not_found and data_lost: it is gone.
  void read(storage::NamespaceId scope, std::span<const std::byte> key, std::span<std::byte> frame,
            storage::IoClass io_class, Done done);
  // A read of the block that waits as a forecast is a must-have from now on.
  void hurry(storage::NamespaceId scope, std::span<const std::byte> key);

 private:
  explicit NvmeTier(std::unique_ptr<storage::BlockStore> store);
  std::unique_ptr<storage::BlockStore> store_;
};

}  // namespace sluice::daemon
