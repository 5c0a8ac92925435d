#include "tools/bench/cuda/gpu_node.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "ipc/layout.h"
#include "tools/bench/gpu_words.h"
#include "tools/bench/measure.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr const char* kTenant = "bench";
constexpr std::uint32_t kBlocksPerExtend = 1024;
constexpr std::uint64_t kClientTimeoutUs = 120'000'000;  // memory of tens of GiB is made meanwhile
constexpr double kPinTimeoutUs = 120'000'000;
constexpr std::uint64_t kPinLookUs = 200'000;
constexpr std::uint64_t kDramExtentBytes = std::uint64_t{256} << 20;
constexpr std::uint64_t kSmallDram = std::uint64_t{4} << 30;
constexpr std::uint64_t kSpareFraction = 16;  // the daemon keeps a stock of free frames
constexpr std::uint64_t kSpareExtents = 8;
constexpr unsigned kMostFillers = 16;

ipc::Error at(const char* call, ipc::Error error) {
  error.text = std::string(call) + ": " + std::move(error.text);
  return error;
}

template <class T>
ipc::Result<T> named(const char* call, client::Result<T> result) {
  auto ours = to_ipc(std::move(result));
  if (!ours) return std::unexpected(at(call, std::move(ours.error())));
  return ours;
}

std::uint32_t page_kind_of(const PageShape& shape) {
  if (shape.kind == ListItems::rows) return SLUICE_PAGE_ROW;
  return shape.lists_per_sequence > 1 ? SLUICE_PAGE_HEAD : SLUICE_PAGE_LAYER;
}

}  // namespace

DaemonSpec daemon_for(const GpuNodeSpec& spec) {
  DaemonSpec daemon;
  daemon.program = spec.sluiced.empty() ? beside_this_program("sluiced") : spec.sluiced;
  daemon.cuda = true;
  daemon.gpu = spec.gpu;
  daemon.worker_idle = spec.worker_idle;
  if (spec.executor == SLUICE_EXECUTOR_DAEMON) daemon.mps_pipe_directory = mps_pipe_directory();
  daemon.hbm_extent_bytes =
      spec.hbm_extent_bytes != 0
          ? spec.hbm_extent_bytes
          : ipc::extent_bytes_for(spec.shape.page_bytes(), kDeviceExtentAlignment, 0);
  const std::uint64_t stride = spec.shape.frame_stride();
  const std::uint64_t blocks = std::uint64_t{spec.sequences} * spec.blocks_per_sequence;
  const std::uint64_t need = std::max(spec.dram_bytes, blocks * stride);
  daemon.dram_extent_bytes = ipc::extent_bytes_for(
      stride, ipc::kFrameAlignment, need < kSmallDram ? kDramExtentBytes / 16 : kDramExtentBytes);
  const std::uint64_t extent = daemon.dram_extent_bytes;
  const std::uint64_t dram =
      spec.dram_bytes != 0
          ? (spec.dram_bytes + extent - 1) / extent * extent
          : (need + need / kSpareFraction + extent - 1) / extent * extent + kSpareExtents * extent;
  daemon.tenants.push_back({kTenant, spec.slots * spec.shape.page_bytes(), dram});
  return daemon;
}

ipc::Result<GpuNode> GpuNode::open(const GpuNodeSpec& spec) {
  auto daemon = SpawnedDaemon::start(daemon_for(spec));
  if (!daemon) return std::unexpected(at("starting sluiced", std::move(daemon.error())));
  auto node = connect(spec, daemon->tenant_socket(kTenant));
  if (!node) {
    if (const auto death = daemon->death()) return fail(Errc::daemon_away, *death);
    return node;
  }
  node->daemon_.emplace(std::move(*daemon));
  return node;
}

ipc::Result<GpuNode> GpuNode::connect(const GpuNodeSpec& spec, const std::string& socket) {
  GpuNode node;
  node.spec_ = spec;
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  where.socket_path = socket.c_str();
  where.client_name = "sluice-bench";
  where.timeout_us = kClientTimeoutUs;
  auto client = named("sluice_connect", client::Client::connect(where));
  if (!client) return std::unexpected(std::move(client.error()));
  node.client_.emplace(std::move(*client));
  if (auto ok = node.open_cache(); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = node.prefill(); !ok) return std::unexpected(std::move(ok.error()));
  return node;
}

ipc::Status GpuNode::open_cache() {
  const PageShape& shape = spec_.shape;
  sluice_cache_desc desc = SLUICE_CACHE_DESC_INIT;
  desc.model = "sluice-bench/gpu";
  desc.executor = static_cast<std::uint32_t>(spec_.executor);
  desc.layers = shape.layers;
  desc.kv_heads = shape.kv_heads;
  desc.head_dim = shape.head_dim;
  desc.block_tokens = shape.block_tokens;
  desc.dtype_bytes = shape.dtype_bytes;
  desc.planes = shape.planes;
  desc.page_kind = page_kind_of(shape);
  desc.device_type = 2;
  desc.device_id = 0;
  desc.hbm_bytes = spec_.slots * shape.page_bytes();
  auto cache = named("sluice_cache_open", client_->open_cache(desc));
  if (!cache) return std::unexpected(std::move(cache.error()));
  cache_.emplace(std::move(*cache));
  if (auto ok = check(cudaSetDevice(0), "cudaSetDevice"); !ok) return ok;
  // What waits for pages waits for this: it has room before what runs beside it.
  constexpr int kHighest = -100;  // the most that the device has
  auto stream = Stream::make(kHighest);
  if (!stream) return std::unexpected(std::move(stream.error()));
  stream_ = std::move(*stream);
  auto actor = named("sluice_actor_open", cache_->open_actor());
  if (!actor) return std::unexpected(std::move(actor.error()));
  actor_.emplace(std::move(*actor));
  if (is_direct()) {
    const sluice_stream ours{SLUICE_STREAM_CUDA, 0, stream_.get()};
    auto set = named("sluice_actor_set_stream", actor_->set_stream(&ours));
    if (!set) return std::unexpected(std::move(set.error()));
  }
  auto arena = named("sluice_cache_arena", cache_->arena());
  if (!arena) return std::unexpected(std::move(arena.error()));
  arena_ = *arena;
  if (arena_.page_bytes != shape.page_bytes()) {
    return fail(Errc::internal, "sluice_cache_arena: pages of " +
                                    std::to_string(arena_.page_bytes) + " B; expected " +
                                    std::to_string(shape.page_bytes()));
  }
  return {};
}

// All frames are written at once, by many threads, before the first block is sealed.
ipc::Status GpuNode::prefill() {
  if (auto ok = extend_sequences(); !ok) return ok;
  if (spec_.fill) {
    if (auto ok = fill_frames(); !ok) return ok;
  }
  if (auto ok = seal_sequences(); !ok) return ok;
  if (is_direct()) {
    if (auto ok = wait_pinned(); !ok) return ok;
  }
  auto info = named("sluice_cache_get_info", cache_->info());
  if (!info) return std::unexpected(std::move(info.error()));
  info_ = *info;
  return {};
}

ipc::Status GpuNode::extend_sequences() {
  const std::uint32_t blocks = spec_.blocks_per_sequence;
  const std::uint64_t all = std::uint64_t{spec_.sequences} * blocks;
  frames_.reserve(all);
  for (std::uint32_t s = 0; s < spec_.sequences; ++s) {
    if (auto ok = tell("taking memory", frames_.size(), all); !ok) return ok;
    auto opened =
        named("sluice_sequence_open", cache_->open_sequence({nullptr, sizeof(Key), 0, 0}));
    if (!opened) return std::unexpected(std::move(opened.error()));
    sequences_.push_back(std::move(opened->sequence));
    for (std::uint32_t done = 0; done < blocks;) {
      const std::uint32_t some = std::min(blocks - done, kBlocksPerExtend);
      auto first = named("sluice_sequence_extend", sequences_[s].extend(some));
      if (!first) return std::unexpected(std::move(first.error()));
      done += some;
    }
    for (std::uint32_t b = 0; b < blocks; ++b) {
      auto frame = named("sluice_block_map", sequences_[s].map(b));
      if (!frame) return std::unexpected(std::move(frame.error()));
      frames_.push_back(reinterpret_cast<std::uint64_t>(frame->data()));
    }
  }
  return {};
}

ipc::Status GpuNode::seal_sequences() {
  const std::uint32_t blocks = spec_.blocks_per_sequence;
  std::vector<std::uint32_t> rows;
  for (std::uint32_t s = 0; s < spec_.sequences; ++s) {
    if (auto ok = tell("sealing", s, spec_.sequences); !ok) return ok;
    for (std::uint32_t b = 0; b < blocks; ++b) {
      const Key key = key_of(std::uint64_t{s} * blocks + b);
      auto sealed = named("sluice_seal", sequences_[s].seal(b, key));
      if (!sealed) return std::unexpected(std::move(sealed.error()));
    }
    if (!is_direct()) continue;
    auto row = named("sluice_sequence_row", sequences_[s].row());
    if (!row) return std::unexpected(std::move(row.error()));
    rows.push_back(*row);
  }
  auto on_device = DeviceArray<std::uint32_t>::of(rows, "rows of sequences");
  if (!on_device) return std::unexpected(std::move(on_device.error()));
  rows_ = std::move(*on_device);
  return {};
}

ipc::Status GpuNode::wait_pinned() {
  const Stopwatch watch;
  for (;;) {
    auto pinned = named("sluice_cache_wait_pinned", cache_->wait_pinned(kPinLookUs));
    if (pinned) return {};
    if (pinned.error().code != Errc::timed_out) return pinned;
    if (watch.seconds() * 1e6 >= kPinTimeoutUs) return pinned;
    auto info = named("sluice_cache_get_info", cache_->info());
    if (!info) return std::unexpected(std::move(info.error()));
    if (auto ok = tell("pinning", info->pinned_frame_extents, info->frame_extents); !ok) return ok;
  }
}

ipc::Status GpuNode::ping() { return named("sluice_ping", client_->ping()); }

// This thread fills too, and tells how far all are.
ipc::Status GpuNode::fill_frames() {
  const std::uint32_t pages = spec_.shape.pages_per_block();
  const std::size_t words = spec_.shape.block_bytes() / sizeof(std::uint64_t);
  const unsigned fillers = std::clamp(std::thread::hardware_concurrency(), 1u, kMostFillers);
  std::atomic<std::uint64_t> next = 0;
  const auto fill_next = [&] {
    const std::uint64_t n = next.fetch_add(1, std::memory_order_relaxed);
    if (n >= frames_.size()) return false;
    spec_.fill_block(n, pages, {reinterpret_cast<std::uint64_t*>(frames_[n]), words});
    return true;
  };
  std::vector<std::thread> threads;
  for (unsigned t = 1; t < fillers; ++t) {
    threads.emplace_back([&] {
      while (fill_next()) continue;
    });
  }
  ipc::Status told;
  do {
    const std::uint64_t done = std::min<std::uint64_t>(next.load(), frames_.size());
    told = tell("filling", done, frames_.size());
    if (!told) next = frames_.size();
  } while (fill_next());
  for (std::thread& thread : threads) thread.join();
  return told;
}

void fill_bench_words(std::uint64_t n, std::uint32_t pages, std::span<std::uint64_t> words) {
  const std::size_t of_page = words.size() / pages;
  for (std::uint32_t page = 0; page < pages; ++page) {
    for (std::size_t w = 0; w < of_page; ++w) {
      words[page * of_page + w] = bench_word(n * pages + page, static_cast<std::uint32_t>(w));
    }
  }
}

}  // namespace sluice::tools::cuda
