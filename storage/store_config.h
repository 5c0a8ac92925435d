// What a store's configuration must fulfil.
#pragma once

#include "storage/block_store.h"

namespace sluice::storage {

// Of one device: fewer leave no room for cleaning; more would be too many open files.
inline constexpr std::uint64_t kMinSegments = 4;
inline constexpr std::uint64_t kMaxSegments = kMaxIoFiles;

// Errors: bad_config; the text says which value, and what it may be.
Status check_config(const StoreConfig& config);

// Of one tenant. Errors: bad_config.
Status check_tenant(const TenantConfig& tenant);

// A segment is an open file: raises the process's soft limit of them if that is too low.
// Errors: bad_config (the hard limit is).
Status allow_open_files(const StoreConfig& config);

}  // namespace sluice::storage
