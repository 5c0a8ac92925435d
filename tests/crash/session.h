// A client of the daemon that is about to be killed: calls that fail for its death, and pages that
// are compared with what they must be.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "client/sluice.hpp"
#include "tests/crash/board.h"
#include "tests/crash/content.h"

namespace sluice::crash {

// The daemon is gone, or what a session of before was is over.
struct Over {
  std::string why;
};
// It cannot be done now: no memory, no slot, too many.
struct Refused {
  std::string why;
};
// Anything else: nothing that a death explains.
struct Broken {
  std::string what;
  bool wrong_bytes = false;
};

// The value, or what its absence means.
template <class T>
T get(client::Result<T> result, const char* call);
[[noreturn]] void raise(const client::Error& error, const char* call);

struct Engine {  // of whom
  std::uint32_t number = 0;
  std::uint32_t tenant = 0;
  sluice_executor executor = SLUICE_EXECUTOR_DAEMON;
  std::string socket;
};

// A cache that is open, with an actor.
class OpenCache {
 public:
  OpenCache(client::Client& client, const Engine& engine, std::uint32_t model);

  std::uint32_t model() const { return model_; }
  client::Cache& cache() { return cache_; }
  client::Actor& actor() { return actor_; }
  const sluice_cache_info& info() const { return info_; }
  std::span<std::byte> slot(std::int32_t number) const;

  struct Opened {
    client::Sequence sequence;
    std::uint32_t matched = 0;
  };
  // The chain's blocks that are known, of the first `blocks`.
  Opened open_chain(BlockName chain, std::uint32_t blocks);
  client::Sequence open_empty();

 private:
  std::uint32_t model_;
  std::string name_;
  client::Cache cache_;
  client::Actor actor_;
  sluice_cache_info info_;
  sluice_arena_view arena_;
};

// Resolves all pages of the first `blocks` blocks of a chain, compares what has a slot, and goes on
// comparing, in the same step, until `hold` says that it is enough. Throws Broken for a wrong byte.
struct Looked {
  std::uint64_t pages = 0;
  std::uint64_t lost = 0;
};
Looked look_at(OpenCache& cache, const client::Sequence& sequence, BlockName chain,
               std::uint32_t blocks, std::uint64_t wait_us, const std::function<bool()>& hold);

template <class T>
T get(client::Result<T> result, const char* call) {
  if (!result) raise(result.error(), call);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace sluice::crash
