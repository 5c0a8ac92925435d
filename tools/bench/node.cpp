#include "tools/bench/node.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "ipc/memfd.h"
#include "tools/common/size.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr const char* kTenant = "bench";
// Left to the machine, and to tables.
constexpr std::uint64_t kMemoryToSpare = std::uint64_t{1} << 30;
constexpr std::uint32_t kBlocksPerExtend = 1024;
constexpr int kPingsPerRound = 500;

std::uint64_t whole_extents(std::uint64_t bytes, std::uint64_t extent) {
  return (bytes + extent - 1) / extent * extent;
}

// The daemon keeps a stock of free frames and rounds to extents: a little more than what is asked
// for.
std::uint64_t with_slack(std::uint64_t bytes, std::uint64_t extent) {
  constexpr std::uint64_t kSlackFraction = 16;
  return whole_extents(bytes + bytes / kSlackFraction, extent) + 2 * extent;
}

std::string shrink_to_memory(CacheSpec& spec) {
  const std::uint64_t available = ipc::available_memory_bytes();
  const std::uint64_t fixed = kMemoryToSpare + spec.hbm_bytes();
  const std::uint64_t frames =
      available > fixed ? (available - fixed) / spec.frame_stride() * 7 / 8 : 0;
  if (frames >= spec.blocks) return {};
  std::string note = human_count(frames) + " blocks instead of " + human_count(spec.blocks) + ": " +
                     human_bytes(static_cast<double>(available)) + " of memory are available";
  spec.blocks = static_cast<std::uint32_t>(frames);
  return note;
}

ipc::Result<SpawnedDaemon> spawn(const Setting& setting, const CacheSpec& spec) {
  DaemonSpec daemon;
  daemon.program = setting.sluiced.empty() ? beside_this_program("sluiced") : setting.sluiced;
  const std::uint64_t dram = spec.blocks * spec.frame_stride();
  daemon.hbm_extent_bytes = spawn_extent_bytes(spec.hbm_bytes(), spec.page_bytes());
  daemon.dram_extent_bytes = spawn_extent_bytes(dram, spec.frame_stride());
  daemon.tenants.push_back({kTenant, with_slack(spec.hbm_bytes(), daemon.hbm_extent_bytes),
                            with_slack(dram, daemon.dram_extent_bytes)});
  return SpawnedDaemon::start(daemon);
}

std::string fresh_name(const char* name) {
  const auto now = std::chrono::system_clock::now().time_since_epoch().count();
  return std::string("sluice-bench/") + name + "/" + std::to_string(::getpid()) + "." +
         std::to_string(now);
}

}  // namespace

ipc::Error to_ipc(client::Error error) {
  return {static_cast<Errc>(error.code), std::move(error.text)};
}

ipc::Error to_ipc(sluice_status status, const sluice_error& error) {
  return {static_cast<Errc>(status), error.text};
}

Key key_of(std::uint64_t n) {
  Key key;
  std::uint64_t state = n * 4;
  for (std::size_t at = 0; at < key.size(); at += sizeof(state)) {
    // splitmix64: keys look like hashes.
    std::uint64_t word = (++state) * 0x9E3779B97F4A7C15U;
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9U;
    word = (word ^ (word >> 27)) * 0x94D049BB133111EBU;
    word ^= word >> 31;
    std::memcpy(key.data() + at, &word, sizeof(word));
  }
  return key;
}

ipc::Result<Node> Node::open(const Setting& setting, CacheSpec& spec) {
  Node node;
  if (setting.scale != 1) node.note_ = "scaled by " + std::to_string(setting.scale);
  std::string socket = setting.socket;
  if (socket.empty()) {
    const std::string shrunk = shrink_to_memory(spec);
    if (!shrunk.empty()) node.note_ += (node.note_.empty() ? "" : "; ") + shrunk;
    if (spec.blocks == 0) {
      return fail(Errc::no_memory, "not enough memory for " + std::string(spec.name) +
                                       "; free some, or use --scale");
    }
    auto daemon = spawn(setting, spec);
    if (!daemon) return std::unexpected(std::move(daemon.error()));
    node.daemon_.emplace(std::move(*daemon));
    socket = node.daemon_->tenant_socket(kTenant);
  }
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  where.socket_path = socket.c_str();
  where.client_name = "sluice-bench";
  auto client = to_ipc(client::Client::connect(where));
  if (!client) return std::unexpected(std::move(client.error()));
  node.client_.emplace(std::move(*client));
  return node;
}

ipc::Result<client::Cache> Node::open_cache(const CacheSpec& spec, sluice_executor executor) {
  const std::string name = fresh_name(spec.name);
  sluice_cache_desc cache{};
  cache.struct_size = sizeof(cache);
  cache.shard_count = 1;
  cache.planes = 2;
  cache.model = name.c_str();
  cache.executor = executor;
  cache.layers = spec.layers;
  cache.kv_heads = 1;
  cache.head_dim = spec.head_dim;
  cache.block_tokens = spec.block_tokens;
  cache.dtype_bytes = 2;
  cache.page_kind = SLUICE_PAGE_LAYER;
  cache.hbm_bytes = spec.hbm_bytes();
  return to_ipc(client_->open_cache(cache));
}

ipc::Status append_sealed(client::Sequence& sequence, std::uint64_t first, std::uint32_t count) {
  for (std::uint32_t done = 0; done < count;) {
    const std::uint32_t some = std::min(count - done, kBlocksPerExtend);
    auto block = to_ipc(sequence.extend(some));
    if (!block) return std::unexpected(std::move(block.error()));
    for (std::uint32_t i = 0; i < some; ++i) {
      const Key key = key_of(first + done + i);
      auto sealed = to_ipc(sequence.seal(*block + i, key));
      if (!sealed) return std::unexpected(std::move(sealed.error()));
    }
    done += some;
  }
  return {};
}

ipc::Result<client::Sequence> open_known(client::Cache& cache, const std::vector<Key>& keys) {
  auto opened = to_ipc(cache.open_sequence({keys.data(), sizeof(Key), 0, keys.size()}));
  if (!opened) return std::unexpected(std::move(opened.error()));
  if (opened->matched_blocks != keys.size()) {
    return fail(
        Errc::wrong_state,
        "only " + std::to_string(opened->matched_blocks) + " of " + std::to_string(keys.size()) +
            " blocks are still known: the daemon's DRAM is too small for this benchmark; give "
            "the tenant more, or use --scale");
  }
  return std::move(opened->sequence);
}

ipc::Result<double> ping_ns(client::Client& client) {
  sluice_error error{};
  const Stopwatch watch;
  for (int i = 0; i < kPingsPerRound; ++i) {
    const sluice_status status = sluice_ping(client.get(), &error);
    if (status != SLUICE_OK) return std::unexpected(to_ipc(status, error));
  }
  return watch.nanoseconds() / kPingsPerRound;
}

}  // namespace sluice::tools
