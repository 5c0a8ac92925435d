#include "client/cache.h"

#include <algorithm>
#include <string>

#include "ipc/memfd.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

namespace {

// What a daemon may promise, so that products of its numbers stay below 2^63.
constexpr std::uint64_t kMaxRangeBytes = std::uint64_t{1} << 46;

ipc::Status check_product(const char* what, std::uint64_t count, std::uint64_t bytes) {
  if (bytes != 0 && count <= kMaxRangeBytes / bytes) return {};
  return fail(Errc::peer_violation, std::string("the daemon promised ") + std::to_string(count) +
                                        " " + what + " of " + std::to_string(bytes) + " bytes");
}

}  // namespace

ipc::Result<std::unique_ptr<Cache>> Cache::open(Client& client, const CacheOptions& options) {
  if (auto ok = client.check(); !ok) return std::unexpected(ok.error());
  auto geometry = ipc::geometry_of(options.layout);
  if (!geometry) return std::unexpected(geometry.error());
  auto reply = client.control().call(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto model = builder.CreateString(options.model);
        const auto salt = builder.CreateString(options.salt);
        const ipc::Layout& l = options.layout;
        const auto layout =
            wire::CreateLayoutSpec(builder, l.layers, l.kv_heads, l.head_dim, l.block_tokens,
                                   l.dtype_bytes, l.planes, static_cast<std::uint8_t>(l.page_kind));
        wire::OpenCacheBuilder open(builder);
        open.add_model(model);
        open.add_salt(salt);
        open.add_shard_index(options.shard_index);
        open.add_shard_count(options.shard_count);
        open.add_kind(options.kind);
        open.add_layout(layout);
        open.add_executor(options.executor);
        open.add_hbm_bytes(options.hbm_bytes);
        return open.Finish();
      },
      client.deadline());
  if (!reply) return std::unexpected(reply.error());
  auto opened = reply->as<wire::CacheOpened>();
  if (!opened) return std::unexpected(opened.error());
  std::unique_ptr<Cache> cache(new Cache(client));
  cache->geometry_ = *geometry;
  if (auto ok = cache->accept(**opened, reply->frame.fds); !ok) {
    (void)cache->close();
    return std::unexpected(ok.error());
  }
  return cache;
}

ipc::Status Cache::accept(const wire::CacheOpened& opened, std::vector<ipc::Fd>& fds) {
  handle_ = opened.cache();
  executor_ = opened.executor();
  created_ = opened.created();
  table_bytes_ = opened.table_bytes();
  frame_extent_bytes_ = opened.frame_extent_bytes();
  frames_per_extent_ = opened.frames_per_extent();
  max_frame_extents_ = opened.max_frame_extents();
  sizes_.slots = opened.slots();
  sizes_.blocks = opened.max_blocks();
  sizes_.pages_per_block = geometry_.pages_per_block;
  sizes_.actors = opened.table_actors();
  sizes_.log_capacity = opened.table_log_capacity();
  sizes_.hint_capacity = opened.table_hint_capacity();

  const std::uint64_t arena_bytes = opened.slot_extents() * opened.slot_extent_bytes();
  for (const auto& ok :
       {check_product("HBM extents", opened.slot_extents(), opened.slot_extent_bytes()),
        check_product("DRAM extents", max_frame_extents_, frame_extent_bytes_),
        check_product("slots", sizes_.slots, geometry_.page_bytes)}) {
    if (!ok) return ok;
  }
  if (std::uint64_t{sizes_.slots} * geometry_.page_bytes > arena_bytes ||
      std::uint64_t{frames_per_extent_} * geometry_.frame_stride != frame_extent_bytes_) {
    return fail(Errc::peer_violation, "the daemon's extents do not fit the layout of the cache");
  }
  if (auto ok = map_arena(opened.slot_extents(), opened.slot_extent_bytes()); !ok) return ok;
  auto frames = ipc::ReservedRange::reserve(max_frame_extents_ * frame_extent_bytes_,
                                            "addresses for the cache's DRAM extents");
  if (!frames) return std::unexpected(frames.error());
  frames_ = std::move(*frames);
  extent_ready_.assign(max_frame_extents_, 0);
  if (executor_ == wire::Executor::direct) {
    if (fds.size() != 1) {
      return fail(Errc::peer_violation, "the daemon sent no hot table for executor direct");
    }
    if (auto ok = attach_table(fds[0].get()); !ok) return ok;
  }
  return map_frame_extents(opened.frame_extents());
}

ipc::Status Cache::map_arena(std::uint32_t extents, std::uint64_t extent_bytes) {
  auto arena =
      ipc::ReservedRange::reserve(extents * extent_bytes, "addresses for the cache's arena");
  if (!arena) return std::unexpected(arena.error());
  arena_ = std::move(*arena);
  auto mapped = fetch(ipc::Tier::hbm, 0, extents, extents, extent_bytes, arena_);
  if (!mapped) return std::unexpected(mapped.error());
  return {};
}

ipc::Status Cache::attach_table(int fd) {
  if (auto ok = ipc::check_memfd(fd, table_bytes_, "the hot table"); !ok) return ok;
  if (kernels::check_sizes(sizes_) != kernels::SizesError::none ||
      kernels::table_bytes(sizes_) != table_bytes_) {
    return fail(Errc::peer_violation, "the daemon's hot table does not have the size it should");
  }
  auto memory = ipc::Mapping::map(fd, 0, table_bytes_, ipc::Access::read_write, "the hot table");
  if (!memory) return std::unexpected(memory.error());
  table_memory_ = std::move(*memory);
  table_ = kernels::view_table(table_memory_.data(), sizes_);
  store_.arena = arena_.data();
  store_.page_bytes = geometry_.page_bytes;
  store_.frames = frames_.data();
  store_.frame_stride = geometry_.frame_stride;
  store_.frames_per_extent = frames_per_extent_;
  store_.extent_ready = extent_ready_.data();
  store_.slots = sizes_.slots;
  store_.frame_limit = max_frame_extents_ * frames_per_extent_;
  return {};
}

ipc::Result<std::uint32_t> Cache::fetch(ipc::Tier tier, std::uint32_t first, std::uint32_t until,
                                        std::uint32_t most, std::uint64_t extent_bytes,
                                        ipc::ReservedRange& range) {
  while (first < until) {
    auto reply = client_.control().call(
        [&](auto& builder) {
          return wire::CreateFetchExtents(builder, handle_, static_cast<std::uint8_t>(tier), first);
        },
        client_.deadline());
    if (!reply) return std::unexpected(reply.error());
    auto extents = reply->as<wire::ExtentFds>();
    if (!extents) return std::unexpected(extents.error());
    const auto& fds = reply->frame.fds;
    if (fds.empty() || fds.size() != (*extents)->count() || fds.size() > most - first) {
      return fail(Errc::peer_violation, "the daemon sent " + std::to_string(fds.size()) +
                                            " extents; expected 1 to " +
                                            std::to_string(most - first));
    }
    for (const ipc::Fd& fd : fds) {
      const char* what = tier == ipc::Tier::hbm ? "an HBM extent" : "a DRAM extent";
      if (auto ok = ipc::check_memfd(fd.get(), extent_bytes, what); !ok) {
        return std::unexpected(ok.error());
      }
      if (auto ok = range.map_at(first * extent_bytes, fd.get(), 0, extent_bytes,
                                 ipc::Access::read_write, what);
          !ok) {
        return std::unexpected(ok.error());
      }
      ++first;
    }
  }
  return first;
}

ipc::Status Cache::map_frame_extents(std::uint32_t count) {
  if (count <= mapped_.load(std::memory_order_acquire)) return {};
  if (count > max_frame_extents_) {
    return fail(Errc::peer_violation, "the daemon has " + std::to_string(count) +
                                          " DRAM extents of this cache; at most " +
                                          std::to_string(max_frame_extents_) + " were promised");
  }
  const std::lock_guard lock(grow_);
  const std::uint32_t mapped = mapped_.load(std::memory_order_relaxed);
  if (count <= mapped) return {};
  // Another session may have made the cache grow beyond `count` since we learned of it.
  auto now =
      fetch(ipc::Tier::dram, mapped, count, max_frame_extents_, frame_extent_bytes_, frames_);
  if (!now) return std::unexpected(now.error());
  for (std::uint32_t i = mapped; i < *now; ++i) {
    // Read by resolves of other threads: the mapping comes before the mark.
    std::atomic_ref(extent_ready_[i]).store(1, std::memory_order_release);
  }
  mapped_.store(*now, std::memory_order_release);
  return {};
}

std::byte* Cache::frame(std::uint32_t frame) const {
  if (frame / frames_per_extent_ >= mapped_.load(std::memory_order_acquire)) return nullptr;
  return frames_.data() + frame * geometry_.frame_stride;
}

ipc::Status Cache::close() {
  if (auto ok = client_.check(); !ok) return ok;
  if (users_.load() != 0) {
    return fail(Errc::wrong_state, "the cache has " + std::to_string(users_.load()) +
                                       " sequences and actors open; release them first");
  }
  auto reply = client_.control().call(
      [&](auto& builder) { return wire::CreateCloseCache(builder, handle_); }, client_.deadline());
  if (!reply) return std::unexpected(reply.error());
  return {};
}

}  // namespace sluice::client::internal
