// What is in a store that nobody runs: its blocks one by one, and sums of them.
//
// What the index knows is told as it says; names are read from the records' headers, one page each.
// check.h says whether it is all true. One thread; nothing is changed.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "storage/store_image.h"

namespace sluice::storage {

struct ListedBlock {
  const IndexEntry& entry;
  const DeviceImage* device = nullptr;  // null: it was not given
  std::optional<Namespace> scope;       // nullopt: its header cannot be read
  std::string key;
  std::string why_not;  // then: why
};

// In the order of devices, segments and offsets. `take`: whether to go on.
// Errors: data_lost (there is no index to go by: check the store).
Status list_blocks(const StoreImage& image, const std::function<bool(const ListedBlock&)>& take);

inline constexpr std::size_t kFillClasses = 10;

struct DeviceUsage {
  std::filesystem::path directory;
  std::uint64_t segment_bytes = 0;
  std::uint64_t segments = 0;       // files
  std::uint64_t segments_used = 0;  // that hold records, dead or alive
  std::uint64_t blocks = 0;
  std::uint64_t live_bytes = 0;  // of their records
  std::uint64_t dead_bytes = 0;  // written, and of no block any more
  // Segments in use by the part of them that is alive: below 10%, below 20% ... the last with 100%.
  std::array<std::uint64_t, kFillClasses> fill{};
};

struct ScopeUsage {
  Namespace scope;
  std::uint64_t blocks = 0;
  std::uint64_t live_bytes = 0;
  std::uint64_t valid_bytes = 0;  // of the payload, as written
};

struct TenantUsage {
  std::string name;
  std::uint64_t blocks = 0;
  std::uint64_t live_bytes = 0;
};

struct Usage {
  std::vector<DeviceUsage> devices;
  std::vector<TenantUsage> tenants;    // by name
  std::vector<ScopeUsage> namespaces;  // by tenant, model and so on
  std::uint64_t unread_blocks = 0;     // whose header cannot be read: in no namespace
  std::uint64_t other_blocks = 0;      // of devices that were not given
};

// `progress`: after each block, how many are done of how many. Errors: as list_blocks().
using OnUsage = std::function<void(std::uint64_t done, std::uint64_t all)>;
Result<Usage> usage_of(const StoreImage& image, const OnUsage& progress = {});

}  // namespace sluice::storage
