// The cache that the engines of a test program open, and the private daemon that has it: one
// tenant or a few with the same shape of cache, as little HBM as the test wants, DRAM to spare or
// not.
//
// Thread-safety: one thread per client.
#pragma once

#include <cstdint>
#include <string>

#include "client/sluice.hpp"
#include "ipc/error.h"
#include "tools/common/spawn.h"
#include "tools/replay/payload_words.h"

namespace sluice::test::engines {

inline constexpr std::uint64_t kTimeoutUs = 20'000'000;  // of a client's waits

// A block has a page per layer.
struct CacheShape {
  static constexpr std::uint32_t kPages = 8;
  static constexpr std::uint32_t kHeads = 2;
  static constexpr std::uint32_t kPlanes = 2;
  static constexpr std::uint32_t kBlockTokens = 16;
  static constexpr std::uint32_t kElementBytes = 2;

  std::uint32_t head_dim = 64;
  std::uint64_t hbm_bytes = 0;  // of a tenant
  std::uint64_t dram_bytes = 0;

  constexpr std::uint64_t page_bytes() const {
    return std::uint64_t{kHeads} * kPlanes * kBlockTokens * head_dim * kElementBytes;
  }
  constexpr std::uint64_t block_bytes() const { return page_bytes() * kPages; }
  constexpr tools::PayloadShape payload() const {
    return {head_dim * kElementBytes, kBlockTokens, kHeads * kPlanes, kPages};
  }
};

std::string tenant_name(std::uint32_t tenant);

// `gpu`: its UUID; empty: the host backend. Errors: as SpawnedDaemon::start.
ipc::Result<tools::SpawnedDaemon> start_daemon(const CacheShape& shape, std::uint32_t tenants,
                                               const std::string& gpu);

client::Result<client::Client> connect(const std::string& socket, const char* name);

// With the direct executor.
client::Result<client::Cache> open_cache(client::Client& client, const CacheShape& shape,
                                         bool cuda);

}  // namespace sluice::test::engines
