#include "client/cache.h"

#include <algorithm>
#include <string>

#include "ipc/memfd.h"
#include "kernels/frame_log.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

namespace {

// What a daemon may promise, so that products of its numbers stay below 2^63.
constexpr std::uint64_t kMaxRangeBytes = std::uint64_t{1} << 46;

// The items of a resolve on a GPU are signed.
constexpr std::uint64_t kMaxDevicePages = (std::uint64_t{1} << 31) - 1;

ipc::Status check_product(const char* what, std::uint64_t count, std::uint64_t bytes) {
  if (bytes != 0 && count <= kMaxRangeBytes / bytes) return {};
  return fail(Errc::peer_violation, std::string("the daemon promised ") + std::to_string(count) +
                                        " " + what + " of " + std::to_string(bytes) + " bytes");
}

}  // namespace

// When the daemon dies meanwhile, all of it is made anew.
ipc::Result<std::unique_ptr<Cache>> Cache::open(Client& client, const CacheOptions& options) {
  if (auto ok = client.check(); !ok) return std::unexpected(ok.error());
  return client.ask(client.deadline(), [&](Link& link) { return open_on(link, client, options); });
}

ipc::Result<std::unique_ptr<Cache>> Cache::open_on(Link& link, Client& client,
                                                   const CacheOptions& options) {
  auto geometry = ipc::geometry_of(options.layout);
  if (!geometry) return std::unexpected(geometry.error());
  std::unique_ptr<Cache> cache(new Cache(client));
  cache->geometry_ = *geometry;
  cache->layout_ = options.layout;
  cache->options_ = options;
  if (options.cuda_device) {
    auto device = DeviceCache::open(client, *options.cuda_device);
    if (!device) return std::unexpected(device.error());
    cache->device_ = std::move(*device);
  }
  auto reply = cache->request_open(link, client.deadline());
  if (!reply) return std::unexpected(reply.error());
  auto opened = reply->as<wire::CacheOpened>();
  if (!opened) return std::unexpected(opened.error());
  if (auto ok = cache->accept(link, **opened, reply->frame.fds); !ok) {
    cache->device_.reset();
    (void)cache->close_on(link);
    return std::unexpected(ok.error());
  }
  const std::uint32_t outage_ms = client.welcome().outage_ms;
  if (client.gate().resumable() && outage_ms > 0 && cache->executor_ == wire::Executor::direct) {
    cache->stock_ =
        std::make_unique<Stock>(*cache, blocks_for_outage(outage_ms, cache->layout_.block_tokens));
  }
  client.add(*cache);
  cache->registered_ = true;
  return cache;
}

ipc::Result<Reply> Cache::request_open(Link& link, ipc::Deadline deadline) const {
  return link.control().call(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto model = builder.CreateString(options_.model);
        const auto salt = builder.CreateString(options_.salt);
        const ipc::Layout& l = options_.layout;
        const auto layout =
            wire::CreateLayoutSpec(builder, l.layers, l.kv_heads, l.head_dim, l.block_tokens,
                                   l.dtype_bytes, l.planes, static_cast<std::uint8_t>(l.page_kind));
        flatbuffers::Offset<flatbuffers::Vector<std::uint8_t>> uuid;
        if (device_ != nullptr) {
          uuid = builder.CreateVector(device_->uuid().data(), device_->uuid().size());
        }
        wire::OpenCacheBuilder open(builder);
        open.add_model(model);
        open.add_salt(salt);
        open.add_shard_index(options_.shard_index);
        open.add_shard_count(options_.shard_count);
        open.add_kind(options_.kind);
        open.add_layout(layout);
        open.add_executor(options_.executor);
        open.add_hbm_bytes(options_.hbm_bytes);
        if (device_ != nullptr) {
          open.add_device_type(kDeviceCuda);
          open.add_device_id(device_->ordinal());
          open.add_device_uuid(uuid);
          open.add_device_index(options_.device_index);
        }
        return open.Finish();
      },
      deadline);
}

Cache::~Cache() {
  if (!registered_ || !client_.in_owner()) return;
  const Gate::Stay stay = client_.gate().hold();
  client_.remove(*this);
}

ipc::Status Cache::accept(Link& link, const wire::CacheOpened& opened, std::vector<ipc::Fd>& fds) {
  handle_ = opened.cache();
  incarnation_ = opened.incarnation();
  slot_extents_ = opened.slot_extents();
  slot_extent_bytes_ = opened.slot_extent_bytes();
  device_table_bytes_ = opened.device_table_bytes();
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
  if (executor_ != options_.executor) {
    return fail(Errc::peer_violation, "the daemon opened the cache for another executor");
  }
  if (auto ok = map_arena(link, opened.slot_extents(), opened.slot_extent_bytes()); !ok) return ok;
  auto frames = ipc::ReservedRange::reserve(max_frame_extents_ * frame_extent_bytes_,
                                            "addresses for the cache's DRAM extents");
  if (!frames) return std::unexpected(frames.error());
  frames_ = std::move(*frames);
  if (resolver() != nullptr) {
    if (auto ok = attach_split_table(opened, fds); !ok) return ok;
  } else if (executor_ == wire::Executor::direct) {
    if (fds.size() != 1) {
      return fail(Errc::peer_violation, "the daemon sent no hot table for executor direct");
    }
    if (auto ok = attach_table(fds[0].get()); !ok) return ok;
  }
  return map_frame_extents(link, opened.frame_extents());
}

ipc::Status Cache::map_arena(Link& link, std::uint32_t extents, std::uint64_t extent_bytes) {
  if (device_ != nullptr) {
    if (auto ok = device_->reserve_arena(extents * extent_bytes); !ok) return ok;
    auto mapped = fetch(link, ipc::Tier::hbm, 0, extents, extents,
                        [&](std::uint32_t extent, int fd) -> ipc::Status {
                          return device_->map_arena_extent(extent * extent_bytes, fd, extent_bytes);
                        });
    if (!mapped) return std::unexpected(mapped.error());
    return {};
  }
  auto arena =
      ipc::ReservedRange::reserve(extents * extent_bytes, "addresses for the cache's arena");
  if (!arena) return std::unexpected(arena.error());
  arena_ = std::move(*arena);
  auto mapped = fetch(link, ipc::Tier::hbm, 0, extents, extents, [&](std::uint32_t extent, int fd) {
    return map_extent(arena_, extent, fd, extent_bytes, "an HBM extent");
  });
  if (!mapped) return std::unexpected(mapped.error());
  return {};
}

ipc::Status Cache::map_table(int fd, std::uint64_t bytes) {
  if (auto ok = ipc::check_memfd(fd, table_bytes_, "the hot table"); !ok) return ok;
  if (bytes != table_bytes_) {
    return fail(Errc::peer_violation, "the daemon's hot table does not have the size it should");
  }
  auto memory = ipc::Mapping::map(fd, 0, table_bytes_, ipc::Access::read_write, "the hot table");
  if (!memory) return std::unexpected(memory.error());
  table_memory_ = std::move(*memory);
  return {};
}

void Cache::fill_store(const std::uint32_t* frames_ready) {
  store_.arena = arena();
  store_.page_bytes = geometry_.page_bytes;
  store_.frames = frames_.data();
  store_.frame_stride = geometry_.frame_stride;
  store_.frames_ready = frames_ready;
  store_.slots = sizes_.slots;
}

ipc::Status Cache::attach_table(int fd) {
  const bool sizes_ok = kernels::check_sizes(sizes_) == kernels::SizesError::none;
  if (auto ok = map_table(fd, sizes_ok ? kernels::table_bytes(sizes_) : 0); !ok) return ok;
  table_ = kernels::view_table(table_memory_.data(), sizes_);
  fill_store(&frames_ready_);
  return {};
}

ipc::Status Cache::attach_split_table(const wire::CacheOpened& opened,
                                      const std::vector<ipc::Fd>& fds) {
  if (fds.size() != 2) {
    return fail(Errc::peer_violation, "the daemon sent " + std::to_string(fds.size()) +
                                          " descriptors of the hot table; on a GPU it has 2 parts");
  }
  const bool sizes_ok = kernels::check_sizes(sizes_) == kernels::SizesError::none;
  const kernels::SplitOffsets offsets =
      sizes_ok ? kernels::split_offsets_of(sizes_) : kernels::SplitOffsets{};
  if (sizes_ok && sizes_.pages() > kMaxDevicePages) {
    return fail(Errc::not_supported,
                "the cache has " + std::to_string(sizes_.pages()) + " pages; on a GPU at most " +
                    std::to_string(kMaxDevicePages) + ": give its tenant less DRAM");
  }
  if (auto ok = map_table(fds[0].get(), offsets.host_end); !ok) return ok;
  if (opened.device_table_bytes() != offsets.device_end ||
      opened.device_table_extent_bytes() < offsets.device_end ||
      opened.device_table_extent_bytes() > kMaxRangeBytes) {
    return fail(Errc::peer_violation,
                "the device's part of the hot table does not have the size it should");
  }
  if (auto ok = device_->attach_table(sizes_, fds[1].get(), opened.device_table_extent_bytes(),
                                      table_memory_.bytes());
      !ok) {
    return ok;
  }
  if (auto ok = device_->start_pinning(frames_.data(), frame_extent_bytes_, frames_per_extent_,
                                       max_frame_extents_);
      !ok) {
    return ok;
  }
  table_ = device_->table();
  fill_store(device_->frames_ready());
  return {};
}

ipc::Status Cache::map_extent(ipc::ReservedRange& range, std::uint32_t extent, int fd,
                              std::uint64_t extent_bytes, const char* what) {
  if (auto ok = ipc::check_memfd(fd, extent_bytes, what); !ok) return ok;
  return range.map_at(extent * extent_bytes, fd, 0, extent_bytes, ipc::Access::read_write, what);
}

template <class Map>
ipc::Result<std::uint32_t> Cache::fetch(Link& link, ipc::Tier tier, std::uint32_t first,
                                        std::uint32_t until, std::uint32_t most, Map&& map) {
  while (first < until) {
    auto reply = link.control().call(
        [&](auto& builder) {
          return wire::CreateFetchExtents(builder, handle_, static_cast<std::uint8_t>(tier), first);
        },
        client_.deadline());
    if (!reply) return std::unexpected(reply.error());
    auto extents = reply->template as<wire::ExtentFds>();
    if (!extents) return std::unexpected(extents.error());
    const auto& fds = reply->frame.fds;
    if (fds.empty() || fds.size() != (*extents)->count() || fds.size() > most - first) {
      return fail(Errc::peer_violation, "the daemon sent " + std::to_string(fds.size()) +
                                            " extents; expected 1 to " +
                                            std::to_string(most - first));
    }
    for (const ipc::Fd& fd : fds) {
      if (auto ok = map(first, fd.get()); !ok) return std::unexpected(ok.error());
      ++first;
    }
  }
  return first;
}

ipc::Status Cache::map_frame_extents(Link& link, std::uint32_t count) {
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
  auto now = fetch(link, ipc::Tier::dram, mapped, count, max_frame_extents_,
                   [&](std::uint32_t extent, int fd) {
                     return map_extent(frames_, extent, fd, frame_extent_bytes_, "a DRAM extent");
                   });
  if (!now) return std::unexpected(now.error());
  // Read by resolves of other threads: the mapping comes before the number.
  std::atomic_ref(frames_ready_).store(*now * frames_per_extent_, std::memory_order_release);
  mapped_.store(*now, std::memory_order_release);
  if (resolver() != nullptr) device_->pin(*now);
  return {};
}

ipc::Status Cache::check_pinning() {
  if (resolver() == nullptr) return {};
  ipc::Status status = device_->pin_status();
  if (!status) device_->retry_pinning();
  return status;
}

kernels::Frame Cache::frame_of(std::uint32_t block) const {
  if (device_ == nullptr) return kernels::frame_of(table(), block);
  return kernels::frame_in(kernels::load_relaxed(&device_->table().frame_original[block]));
}

std::uint32_t Cache::extents_with(std::uint32_t block) const {
  const kernels::Frame frame = frame_of(block);
  return frame >= kernels::kLostFrame ? 0 : extent_of(frame) + 1;
}

ipc::Status Cache::map_extents_of(std::span<const std::uint32_t> blocks) {
  std::uint32_t extents = 0;
  for (const std::uint32_t block : blocks) extents = std::max(extents, extents_with(block));
  return map_if_connected(extents);
}

ipc::Status Cache::map_all_extents() {
  std::uint32_t extents = 0;
  for (std::uint32_t block = 0; block < max_blocks(); ++block) {
    extents = std::max(extents, extents_with(block));
  }
  return map_if_connected(extents);
}

ipc::Status Cache::expose_frame(std::uint32_t block, std::uint32_t frame) {
  if (device_ != nullptr) return device_->expose_frame(block, frame);
  kernels::expose_frame(table(), block, frame);
  return {};
}

ipc::Status Cache::wait_pinned_frame(std::uint32_t frame, ipc::Deadline deadline) {
  if (resolver() == nullptr) return {};
  return device_->wait_pinned(frame / frames_per_extent_ + 1, deadline);
}

std::byte* Cache::frame(std::uint32_t frame) const {
  if (frame / frames_per_extent_ >= mapped_.load(std::memory_order_acquire)) return nullptr;
  return frames_.data() + frame * geometry_.frame_stride;
}

ipc::Status Cache::map_if_connected(std::uint32_t count) {
  if (count <= mapped_.load(std::memory_order_acquire)) return {};
  auto stay = client_.gate().enter(ipc::Clock::now(), Gate::Needs::nothing);
  if (!stay || stay->link() == nullptr) return {};
  auto mapped = map_frame_extents(*stay->link(), count);
  if (!mapped && client_.lost(*stay->link(), mapped.error())) return {};
  return mapped;
}

// A cache that a resume does not find open is closed by it; so one that is closed while the daemon
// is away, or dies over it, is closed.
ipc::Status Cache::close() {
  if (auto ok = client_.check(); !ok) return ok;
  if (users_.load() != 0) {
    return fail(Errc::wrong_state, "the cache has " + std::to_string(users_.load()) +
                                       " sequences and actors open; release them first");
  }
  device_.reset();  // so that what it imported is back before the daemon counts it as free
  auto stay = client_.gate().enter(client_.deadline(), Gate::Needs::nothing);
  if (!stay) return std::unexpected(stay.error());
  client_.remove(*this);
  registered_ = false;
  if (stay->link() == nullptr || is_lost()) return {};
  if (stock_ != nullptr) stock_->release(*stay->link());
  auto closed = close_on(*stay->link());
  if (!closed && client_.lost(*stay->link(), closed.error())) return {};
  return closed;
}

ipc::Status Cache::close_on(Link& link) const {
  auto reply = link.control().call(
      [&](auto& builder) { return wire::CreateCloseCache(builder, handle_); }, client_.deadline());
  if (!reply) return std::unexpected(reply.error());
  return {};
}

void Cache::collect_stats() {
  if (resolver() == nullptr || !client_.in_owner()) return;
  device_->count_into(stats_, geometry_.page_bytes);
}

}  // namespace sluice::client::internal
