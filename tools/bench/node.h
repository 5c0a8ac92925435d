// What a benchmark works on: a daemon, a client of it, and a cache full of sealed blocks.
//
// Thread-safety: one thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "client/sluice.hpp"
#include "tools/bench/benchmark.h"
#include "tools/common/spawn.h"

namespace sluice::tools {

using Random = std::mt19937_64;
inline constexpr std::uint64_t kSeed = 20;

// A number below `bound`, which is not 0. Cheap, and random enough to choose pages.
inline std::uint32_t below(Random& random, std::uint32_t bound) {
  return static_cast<std::uint32_t>(((random() >> 32) * bound) >> 32);
}

// An error of the library as one of ours: the numbers are the same.
ipc::Error to_ipc(client::Error error);
ipc::Error to_ipc(sluice_status status, const sluice_error& error);

template <class T>
ipc::Result<T> to_ipc(client::Result<T> result) {
  if (!result) return std::unexpected(to_ipc(std::move(result.error())));
  if constexpr (!std::is_void_v<T>)
    return std::move(*result);
  else
    return {};
}

// Name of the n-th block. All keys of a benchmark have this size.
using Key = std::array<std::byte, 32>;
Key key_of(std::uint64_t n);

// A cache's shape and how many blocks it must have room for.
struct CacheSpec {
  const char* name = nullptr;
  std::uint32_t layers = 1;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;  // bytes of a page: head_dim * block_tokens * 4
  std::uint32_t blocks = 0;        // in DRAM
  std::uint32_t slots = 0;         // pages in HBM

  std::uint64_t page_bytes() const { return std::uint64_t{head_dim} * block_tokens * 4; }
  std::uint64_t hbm_bytes() const { return slots * page_bytes(); }
  std::uint64_t frame_stride() const { return (layers * page_bytes() + 4095) / 4096 * 4096; }
};

// A daemon with room for a cache (private, or the setting's), and a client of it. The cache's
// namespace is new, so that it is empty in a daemon that has served before.
class Node {
 public:
  // `spec.blocks` shrinks to what the memory of the machine holds; note() says so. Errors: of the
  // daemon, the connection; no_memory.
  static ipc::Result<Node> open(const Setting& setting, CacheSpec& spec);

  client::Client& client() { return *client_; }
  ipc::Result<client::Cache> open_cache(const CacheSpec& spec, sluice_executor executor);
  const std::string& note() const { return note_; }

 private:
  std::optional<SpawnedDaemon> daemon_;  // outlives the client
  std::optional<client::Client> client_;
  std::string note_;
};

// Seals blocks under the keys of `first`, `first` + 1, ... in a sequence that is empty or goes on.
ipc::Status append_sealed(client::Sequence& sequence, std::uint64_t first, std::uint32_t count);

// Opens a sequence over known blocks. Errors: wrong_state when some are not known any more.
ipc::Result<client::Sequence> open_known(client::Cache& cache, const std::vector<Key>& keys);

// Nanoseconds of a round trip of sluice_ping, from a short round of them.
ipc::Result<double> ping_ns(client::Client& client);

}  // namespace sluice::tools
