#include "client/cuda/cuda_cache.h"

#include <cstring>
#include <string>

#include "client/cache.h"
#include "client/client.h"
#include "client/cuda/cuda_actor.h"
#include "kernels/cuda/launch.h"
#include "kernels/frame_log.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;

namespace {

ipc::Result<int> count_devices() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return count;
  (void)cudaGetLastError();
  return fail(Errc::not_supported,
              std::string("there is no CUDA device that this process can use (") +
                  (status == cudaSuccess ? "none is visible" : cudaGetErrorString(status)) +
                  "): check the driver and CUDA_VISIBLE_DEVICES, or open the cache with "
                  "device_type 0");
}

}  // namespace

ipc::Result<std::unique_ptr<DeviceCache>> DeviceCache::open(const Client& client,
                                                            std::int32_t ordinal) {
  const auto count = count_devices();
  if (!count) return std::unexpected(count.error());
  if (ordinal < 0 || ordinal >= *count) {
    return fail(Errc::invalid_argument, "cache_desc.device_id is " + std::to_string(ordinal) +
                                            "; this process sees " + std::to_string(*count) +
                                            " CUDA devices");
  }
  cudaDeviceProp properties{};
  if (auto ok = cuda::check(cudaGetDeviceProperties(&properties, ordinal), "asking for the device");
      !ok) {
    return std::unexpected(ok.error());
  }
  int same_address = 0;
  if (auto ok =
          cuda::check(cudaDeviceGetAttribute(&same_address,
                                             cudaDevAttrCanUseHostPointerForRegisteredMem, ordinal),
                      "asking for the device");
      !ok) {
    return std::unexpected(ok.error());
  }
  if (same_address == 0) {
    return fail(Errc::not_supported,
                std::string("the device ") + properties.name +
                    " cannot use registered host memory at its own address, which the cuda backend "
                    "needs: open the cache with device_type 0");
  }
  DeviceUuid uuid{};
  static_assert(sizeof properties.uuid == std::tuple_size_v<DeviceUuid>);
  std::memcpy(uuid.data(), &properties.uuid, uuid.size());
  return std::make_unique<cuda::CudaCache>(client, ordinal, uuid);
}

}  // namespace sluice::client::internal

namespace sluice::client::internal::cuda {

CudaCache::~CudaCache() {
  if (!client_.in_owner()) {
    (void)state_.release();  // the parent's: nothing of CUDA may be called in a forked child
    return;
  }
  if (state_->context.handle() == nullptr) return;
  const CurrentBesideCaptures current(state_->context);
  state_->works.reset();
  state_->pinner.reset();
  state_->rows.reset();
  state_->node_table = {};
  state_->device_table = {};
  state_->arena = {};
}

ipc::Status CudaCache::reserve_arena(std::uint64_t bytes) {
  auto context = Context::open(ordinal_);
  if (!context) return std::unexpected(context.error());
  state_->context = std::move(*context);
  const CurrentBesideCaptures current(state_->context);
  auto arena = VirtualRange::reserve(state_->context, bytes);
  if (!arena) return std::unexpected(arena.error());
  state_->arena = std::move(*arena);
  return {};
}

ipc::Status CudaCache::map_arena_extent(std::uint64_t offset, int fd, std::uint64_t bytes) {
  const CurrentBesideCaptures current(state_->context);
  return state_->arena.map(offset, fd, bytes, "an HBM extent");
}

ipc::Status CudaCache::attach_table(const kernels::TableSizes& sizes, int device_fd,
                                    std::uint64_t device_bytes, std::span<std::byte> node_part) {
  const CurrentBesideCaptures current(state_->context);
  auto range = VirtualRange::reserve(state_->context, device_bytes);
  if (!range) return std::unexpected(range.error());
  if (auto ok = range->map(0, device_fd, device_bytes, "the device's part of the hot table"); !ok) {
    return ok;
  }
  auto node =
      Registration::make(node_part.data(), node_part.size(), "the node's part of the hot table", 0);
  if (!node) return std::unexpected(node.error());
  if (auto ok = check(static_cast<cudaError_t>(kernels::cuda::load()), "loading the kernels");
      !ok) {
    return ok;
  }
  auto works = BlockWorks::make(client_, state_->context, sizes.pages_per_block);
  if (!works) return std::unexpected(works.error());
  table_ = kernels::view_split_table(range->data(), node_part.data(), sizes);
  state_->device_table = std::move(*range);
  state_->node_table = std::move(*node);
  state_->works = std::move(*works);
  device_table_bytes_ = device_bytes;
  node_table_bytes_ = node_part.size();
  return {};
}

ipc::Status CudaCache::start_pinning(std::byte* frames, std::uint64_t extent_bytes,
                                     std::uint32_t frames_per_extent, std::uint32_t most_extents) {
  const CurrentBesideCaptures current(state_->context);
  auto pinner =
      Pinner::make(state_->context, frames, extent_bytes, frames_per_extent, most_extents,
                   node_table_bytes_, [this](std::int64_t bytes) { client_.note_pinned(bytes); });
  if (!pinner) return std::unexpected(pinner.error());
  state_->pinner = std::move(*pinner);
  extent_bytes_ = extent_bytes;
  return {};
}

std::uint64_t CudaCache::device_bytes() const {
  const std::uint64_t pinned = node_table_bytes_ + state_->pinner->pinned() * extent_bytes_;
  return device_table_bytes_ + state_->rows->device_bytes() + state_->pinner->device_bytes() +
         pinned / ipc::kPinnedPerHbmByte;
}

// The device's own copy of the entry may be older than the original, or newer.
ipc::Status CudaCache::expose_frame(std::uint32_t block, std::uint32_t frame) {
  constexpr const char* kWhat = "making a frame known to the device";
  const CurrentBesideCaptures current(context());
  auto stream = OwnStream::make();
  if (!stream) return std::unexpected(stream.error());
  std::uint64_t* const at = &table_.frame_of[block];
  const auto copy = [&](void* to, const void* from) {
    const cudaError_t copied =
        cudaMemcpyAsync(to, from, sizeof(std::uint64_t), cudaMemcpyDefault, stream->get());
    if (auto ok = check(copied, kWhat); !ok) return ok;
    return check(cudaStreamSynchronize(stream->get()), kWhat);
  };
  std::uint64_t entry = 0;
  if (auto ok = copy(&entry, at); !ok) return ok;
  const std::uint32_t version = kernels::version_in(entry);
  const std::uint32_t original =
      kernels::version_in(kernels::load_acquire(&table_.frame_original[block]));
  const bool is_behind = static_cast<std::int32_t>(original - version) > 0;
  entry = kernels::make_frame_entry(frame, is_behind ? original : version);
  return copy(at, &entry);
}

ipc::Result<std::uint32_t> CudaCache::add_row(std::span<const std::uint32_t> ids) {
  const CurrentBesideCaptures current(state_->context);
  return state_->rows->add(ids);
}

ipc::Status CudaCache::update_row(std::uint32_t row, std::span<const std::uint32_t> ids,
                                  std::size_t first_changed) {
  const CurrentBesideCaptures current(state_->context);
  return state_->rows->update(row, ids, first_changed);
}

void CudaCache::remove_row(std::uint32_t row) {
  if (!client_.in_owner()) return;
  const CurrentBesideCaptures current(state_->context);
  state_->rows->remove(row);
}

ipc::Result<std::unique_ptr<Actor>> CudaCache::make_actor(Cache& cache, std::uint32_t index) {
  return CudaActor::make(cache, *this, index);
}

// ---- counters

CudaCache::Forecasts CudaCache::forecasts_of(std::uint32_t actor) const {
  const auto* const line = reinterpret_cast<const kernels::ActorLine*>(
      table_.mirrors + std::size_t{actor} * kernels::kActorBytes);
  return {kernels::load_relaxed(&line->counters.forecast_issued),
          kernels::load_relaxed(&line->counters.forecast_used),
          kernels::load_relaxed(&line->counters.forecast_dropped)};
}

void CudaCache::count(std::uint32_t actor, Forecasts& counted, CacheStats& stats) const {
  const Forecasts now = forecasts_of(actor);
  // From shared memory: whatever it says, counts only grow.
  const auto add = [](std::atomic<std::uint64_t>& to, std::uint64_t& before, std::uint64_t after) {
    if (after > before) to.fetch_add(after - before, std::memory_order_relaxed);
    before = after;
  };
  add(stats.forecast_issued, counted.issued, now.issued);
  add(stats.forecast_used, counted.used, now.used);
  add(stats.forecast_dropped, counted.dropped, now.dropped);
}

void CudaCache::begin_counting(std::uint32_t actor) {
  const std::lock_guard lock(counting_mutex_);
  counted_[actor] = forecasts_of(actor);
}

void CudaCache::end_counting(std::uint32_t actor, CacheStats& stats) {
  const std::lock_guard lock(counting_mutex_);
  const auto at = counted_.find(actor);
  if (at == counted_.end()) return;
  count(actor, at->second, stats);
  counted_.erase(at);
}

void CudaCache::count_into(CacheStats& stats, std::uint64_t page_bytes) {
  const std::lock_guard lock(counting_mutex_);
  for (auto& [actor, counted] : counted_) count(actor, counted, stats);
  stats.forecast_wasted_bytes.store(
      kernels::load_relaxed(&table_.host_header->forecast_wasted) * page_bytes,
      std::memory_order_relaxed);
}

}  // namespace sluice::client::internal::cuda
