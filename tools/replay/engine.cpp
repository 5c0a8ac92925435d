#include "tools/replay/engine.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "tools/common/spawn.h"

namespace sluice::tools {
namespace {

// On a machine that has little time for us, an arena of some GiB takes longer than the default of
// 10 s.
constexpr std::uint64_t kClientTimeoutUs = 30'000'000;
// The kernel pins 25 GiB/s and more; many engines do so at once when they begin.
constexpr std::uint64_t kPinTimeoutUs = 120'000'000;

constexpr std::int32_t kHostMemory = 1;  // DLPack's numbers
constexpr std::int32_t kCudaMemory = 2;

using client::Error;
using client::Result;

std::unexpected<Error> wrong(std::string text) {
  return std::unexpected(Error{SLUICE_INTERNAL, std::move(text)});
}

sluice_cache_desc cache_desc(const EngineJob& job) {
  const CacheShape& shape = job.plan->shape;
  const Options& options = *job.options;
  sluice_cache_desc desc{};
  desc.struct_size = sizeof desc;
  desc.shard_count = 1;
  desc.model = shape.model.c_str();
  desc.kind = SLUICE_CACHE_ATTENTION;
  desc.executor =
      options.executor == Executor::daemon ? SLUICE_EXECUTOR_DAEMON : SLUICE_EXECUTOR_DIRECT;
  desc.layers = shape.layers;
  desc.kv_heads = shape.kv_heads;
  desc.head_dim = shape.head_dim;
  desc.block_tokens = shape.block_tokens;
  desc.dtype_bytes = shape.dtype_bytes;
  desc.planes = shape.planes;
  desc.page_kind = shape.page_kind;
  if (options.backend == Backend::cuda) {
    desc.device_type = kCudaMemory;
    desc.device_id = static_cast<std::int32_t>(job.device.ordinal);
    desc.device_index = job.device.index;
  }
  desc.hbm_bytes = job.plan->tenants[job.engine % options.tenants].hbm_bytes;
  return desc;
}

// The daemon and this program must mean the same bytes before any of them is compared.
client::Status check_geometry(const EngineJob& job, const client::Cache& cache) {
  const PayloadShape& payload = job.plan->shape.payload;
  const auto info = in_call("sluice_cache_get_info", cache.info());
  if (!info) return std::unexpected(info.error());
  if (info->page_bytes != payload.page_bytes() ||
      info->pages_per_block != payload.pages_per_block ||
      info->block_bytes != payload.block_bytes()) {
    return wrong("the cache has " + std::to_string(info->pages_per_block) + " pages of " +
                 std::to_string(info->page_bytes) + " bytes a block, expected " +
                 std::to_string(payload.pages_per_block) + " of " +
                 std::to_string(payload.page_bytes()));
  }
  return {};
}

Result<std::unique_ptr<SlotMemory>> open_slots(const EngineJob& job,
                                               const sluice_arena_view& arena) {
  const bool cuda = job.options->backend == Backend::cuda;
  if (arena.device_type != (cuda ? kCudaMemory : kHostMemory)) {
    return wrong("the arena lies on DLPack device " + std::to_string(arena.device_type) +
                 ", where --backend " + to_string(job.options->backend) +
                 " cannot compare its bytes");
  }
  const PayloadShape& shape = job.plan->shape.payload;
  if (!cuda) return make_host_slots(shape, arena);
  return in_call("the engine's side of the GPU", make_cuda_slots(shape, arena));
}

}  // namespace

client::Status EngineLink::wait_pinned() {
  return in_call("sluice_cache_wait_pinned", cache.wait_pinned(kPinTimeoutUs));
}

Result<EngineLink> open_link(const EngineJob& job) {
  const std::string name = "sluice-replay e" + std::to_string(job.engine);
  sluice_connect_desc connect = SLUICE_CONNECT_DESC_INIT;
  connect.socket_path = job.socket.c_str();
  connect.timeout_us = kClientTimeoutUs;
  connect.client_name = name.c_str();
  auto client = in_call("sluice_connect", client::Client::connect(connect));
  if (!client) return std::unexpected(client.error());
  const auto info = in_call("sluice_client_get_info", client->info());
  if (!info) return std::unexpected(info.error());
  EngineBoard& board = job.mine();
  board.session.store(info->session);
  std::memcpy(board.tenant, info->tenant, sizeof board.tenant - 1);

  const sluice_cache_desc desc = cache_desc(job);
  auto cache = in_call("sluice_cache_open", client->open_cache(desc));
  if (!cache) return std::unexpected(cache.error());
  if (auto status = check_geometry(job, *cache); !status) return std::unexpected(status.error());
  const auto arena = in_call("sluice_cache_arena", cache->arena());
  if (!arena) return std::unexpected(arena.error());
  auto slots = open_slots(job, *arena);
  if (!slots) return std::unexpected(slots.error());
  auto actor = in_call("sluice_actor_open", cache->open_actor());
  if (!actor) return std::unexpected(actor.error());
  auto forecaster = in_call("sluice_actor_open", cache->open_actor());
  if (!forecaster) return std::unexpected(forecaster.error());
  if (job.options->backend == Backend::cuda && job.options->executor == Executor::direct) {
    const sluice_stream stream{SLUICE_STREAM_CUDA, 0, (*slots)->stream()};
    if (auto s = in_call("sluice_actor_set_stream", actor->set_stream(&stream)); !s) {
      return std::unexpected(s.error());
    }
  }
  board.slots.store(arena->slots);
  return EngineLink{std::move(*client),       std::move(*cache),      std::move(*slots),
                    std::move(*actor),        std::move(*forecaster), *arena,
                    std::string(board.tenant)};
}

namespace {

// After a failure: whether the daemon was started anew meanwhile, or is about to be, without what
// the engine had there.
bool began_anew(const EngineJob& job, std::uint32_t seen) {
  constexpr std::chrono::seconds kPatience{60};
  if (job.options->restart != Restart::cold || seen >= job.options->kill_daemon_at.size()) {
    return false;
  }
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (job.board->cold_restarts().load() <= seen) {
    if (job.board->stopping() || std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  while (!accepts_connections(job.socket)) {
    if (job.board->stopping() || std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

client::Status run_over_one_connection(const Trace& trace, const EngineJob& job,
                                       EngineProgress& progress) {
  auto link = open_link(job);
  if (!link) return std::unexpected(link.error());
  if (auto s = link->wait_pinned(); !s) return s;
  if (const auto* sparse = std::get_if<SparseTrace>(&trace)) {
    return run_sparse_engine(*sparse, job, *link, progress);
  }
  return run_prefix_engine(std::get<PrefixTrace>(trace), job, *link, progress);
}

}  // namespace

int engine_main(const Trace& trace, const EngineJob& job) {
  EngineBoard& board = job.mine();
  EngineProgress progress;
  std::uint32_t seen = 0;
  client::Status status = run_over_one_connection(trace, job, progress);
  while (!status && began_anew(job, seen)) {
    seen = job.board->cold_restarts().load();
    status = run_over_one_connection(trace, job, progress);
  }
  if (!status) board.fail_with(status.error().text);
  board.finished.store(1);
  job.board->leave(job.engine);
  return status ? 0 : 1;
}

}  // namespace sluice::tools
