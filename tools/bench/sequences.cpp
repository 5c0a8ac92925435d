#include <algorithm>
#include <array>
#include <utility>

#include "tools/bench/benchmark.h"
#include "tools/bench/node.h"

namespace sluice::tools {
namespace {

constexpr std::uint32_t kPrefixBlocks = 128;
constexpr std::uint32_t kKnownBlocks = 1'000'000;
constexpr std::uint32_t kLeastBlocks = 4 * kPrefixBlocks;
constexpr std::uint32_t kSequencesPerRound = 100;

constexpr std::uint32_t kExtendBlocks = 64;
constexpr std::uint32_t kExtendSequences = 8;        // per round
constexpr std::uint32_t kExtendCacheBlocks = 16384;  // the tenant's limit

constexpr double kNsPerSecond = 1e9;

// The smallest block that there is: a page of 64 bytes in a frame of 4 KiB.
CacheSpec small_blocks(const char* name, std::uint32_t blocks) {
  return {.name = name,
          .layers = 1,
          .head_dim = 1,
          .block_tokens = 16,
          .blocks = blocks,
          .slots = 1024};
}

// Opens and releases sequences over known blocks; sequences per second.
class Opener {
 public:
  Opener(client::Cache& cache, std::uint32_t known) : cache_(cache), known_(known) {}

  ipc::Result<double> scattered() {
    for (auto& keys : drawn_) {
      for (Key& key : keys) key = key_of(below(random_, known_));
    }
    return round();
  }

  ipc::Result<double> whole_prefixes() {
    for (auto& keys : drawn_) {
      const std::uint64_t first =
          std::uint64_t{below(random_, known_ / kPrefixBlocks)} * kPrefixBlocks;
      for (std::uint32_t i = 0; i < kPrefixBlocks; ++i) keys[i] = key_of(first + i);
    }
    return round();
  }

 private:
  ipc::Result<double> round() {
    const Stopwatch watch;
    for (const auto& keys : drawn_) {
      auto sequence = open_known(cache_, keys);
      if (!sequence) return std::unexpected(std::move(sequence.error()));
      if (auto ok = to_ipc(sequence->release()); !ok) return std::unexpected(std::move(ok.error()));
    }
    return kSequencesPerRound / watch.seconds();
  }

  client::Cache& cache_;
  std::uint32_t known_;
  Random random_{kSeed};
  std::vector<std::vector<Key>> drawn_{kSequencesPerRound, std::vector<Key>(kPrefixBlocks)};
};

// New sequences of kExtendBlocks blocks that get new names; blocks per second.
class Sealer {
 public:
  explicit Sealer(client::Cache& cache) : cache_(cache) {}

  ipc::Result<double> round() {
    const Stopwatch watch;
    for (std::uint32_t i = 0; i < kExtendSequences; ++i) {
      auto opened = to_ipc(cache_.open_sequence({nullptr, sizeof(Key), 0, 0}));
      if (!opened) return std::unexpected(std::move(opened.error()));
      if (auto ok = append_sealed(opened->sequence, next_, kExtendBlocks); !ok) {
        return std::unexpected(std::move(ok.error()));
      }
      next_ += kExtendBlocks;
      if (auto ok = to_ipc(opened->sequence.release()); !ok) {
        return std::unexpected(std::move(ok.error()));
      }
    }
    return kExtendSequences * kExtendBlocks / watch.seconds();
  }

 private:
  client::Cache& cache_;
  std::uint64_t next_ = 0;
};

// How often per second `round_trips` of sluice_ping fit.
ipc::Result<double> per_round_trips(client::Client& client, double round_trips) {
  auto ping = ping_ns(client);
  if (!ping) return ping;
  return kNsPerSecond / (*ping * round_trips);
}

}  // namespace

ipc::Result<Figures> open_sequence(const Setting& setting) {
  CacheSpec spec = small_blocks(
      "open", std::max(static_cast<std::uint32_t>(kKnownBlocks * setting.scale), kLeastBlocks));
  auto node = Node::open(setting, spec);
  if (!node) return std::unexpected(std::move(node.error()));
  auto cache = node->open_cache(spec, SLUICE_EXECUTOR_DAEMON);
  if (!cache) return std::unexpected(std::move(cache.error()));
  {
    auto opened = to_ipc(cache->open_sequence({nullptr, sizeof(Key), 0, 0}));
    if (!opened) return std::unexpected(std::move(opened.error()));
    if (auto ok = append_sealed(opened->sequence, 0, spec.blocks); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  Opener opener(*cache, spec.blocks);
  const std::array<RoundFunction, 3> sides = {
      [&] { return opener.scattered(); },
      [&] { return per_round_trips(node->client(), 2); },
      [&] { return opener.whole_prefixes(); },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0], (*series)[1], {{"whole_prefixes", (*series)[2]}}, node->note()};
}

ipc::Result<Figures> extend_seal(const Setting& setting) {
  CacheSpec spec = small_blocks("seal", kExtendCacheBlocks);
  auto node = Node::open(setting, spec);
  if (!node) return std::unexpected(std::move(node.error()));
  auto cache = node->open_cache(spec, SLUICE_EXECUTOR_DAEMON);
  if (!cache) return std::unexpected(std::move(cache.error()));
  Sealer sealer(*cache);
  // Open, extend, release, and a seal per block.
  constexpr double kRoundTripsPerBlock = (3.0 + kExtendBlocks) / kExtendBlocks;
  const std::array<RoundFunction, 2> sides = {
      [&] { return sealer.round(); },
      [&] { return per_round_trips(node->client(), kRoundTripsPerBlock); },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0], (*series)[1], {}, setting.scale == 1 ? "" : "not scaled"};
}

}  // namespace sluice::tools
