// The C ABI: caches.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "client/abi_checks.h"
#include "client/abi_handles.h"
#include "client/device_cache.h"

namespace ipc = sluice::ipc;
namespace wire = sluice::ipc::wire;
using ipc::Errc;
using ipc::fail;
using namespace sluice::client::internal;  // NOLINT(google-build-using-namespace): this file is its
                                           // C face

namespace {

ipc::Result<CacheOptions> cache_options(const sluice_cache_desc* desc) {
  if (auto ok = check_struct(desc, "cache_desc"); !ok) return std::unexpected(ok.error());
  if (auto ok = check_zero(desc->reserved, desc->flags, "cache_desc"); !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = check_text(desc->model, SLUICE_MAX_MODEL_BYTES, "cache_desc.model"); !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = check_text(desc->salt, SLUICE_MAX_SALT_BYTES, "cache_desc.salt"); !ok) {
    return std::unexpected(ok.error());
  }
  if (desc->model == nullptr || *desc->model == '\0') {
    return fail(Errc::invalid_argument, "cache_desc.model is empty; it names what the keys mean");
  }
  if (desc->kind > SLUICE_CACHE_OPAQUE) {
    return fail(Errc::invalid_argument, "cache_desc.kind is " + std::to_string(desc->kind));
  }
  if (desc->kind != SLUICE_CACHE_ATTENTION) {
    return fail(Errc::not_supported, "only SLUICE_CACHE_ATTENTION is built yet");
  }
  if (desc->executor > SLUICE_EXECUTOR_DIRECT) {
    return fail(Errc::invalid_argument, "cache_desc.executor is " + std::to_string(desc->executor));
  }
  if (desc->page_kind > SLUICE_PAGE_BLOCK) {
    return fail(Errc::invalid_layout, "cache_desc.page_kind is " + std::to_string(desc->page_kind));
  }
  if (desc->device_type != 0 && desc->device_type != kDeviceCuda) {
    return fail(Errc::not_supported, "cache_desc.device_type is " +
                                         std::to_string(desc->device_type) +
                                         "; expected 0 (the host backend) or 2 (CUDA)");
  }
  if (desc->device_type == 0 && desc->device_id != 0) {
    return fail(Errc::invalid_argument,
                "cache_desc.device_id must be 0 on the host backend (device_type 0)");
  }
  if (desc->device_type == 0 && desc->device_index != 0) {
    return fail(Errc::invalid_argument,
                "cache_desc.device_index must be 0 on the host backend (device_type 0)");
  }
  CacheOptions options;
  if (desc->device_type == kDeviceCuda) options.cuda_device = desc->device_id;
  options.device_index = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(desc->device_index, std::numeric_limits<std::uint32_t>::max()));
  options.model = desc->model;
  options.salt = text_or_empty(desc->salt);
  options.shard_index = desc->shard_index;
  options.shard_count = desc->shard_count;
  options.kind = static_cast<wire::CacheKind>(desc->kind);
  options.executor = static_cast<wire::Executor>(desc->executor);
  options.layout = {desc->layers,
                    desc->kv_heads,
                    desc->head_dim,
                    desc->block_tokens,
                    desc->dtype_bytes,
                    desc->planes,
                    static_cast<ipc::PageKind>(desc->page_kind)};
  options.hbm_bytes = desc->hbm_bytes;
  return options;
}

}  // namespace

extern "C" {

sluice_status sluice_cache_open(sluice_client* client, const sluice_cache_desc* desc,
                                sluice_cache** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (client == nullptr) return null_argument("client");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto options = cache_options(desc);
    if (!options) return std::unexpected(options.error());
    auto cache = Cache::open(*client->impl, *options);
    if (!cache) return std::unexpected(cache.error());
    *out = new sluice_cache{client, std::move(*cache)};
    return {};
  });
}

sluice_status sluice_cache_close(sluice_cache* cache, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return {};
    const ipc::Status closed = cache->impl->close();
    if (!closed && closed.error().code == Errc::wrong_state) return closed;
    delete cache;
    return closed;
  });
}

sluice_status sluice_cache_get_info(sluice_cache* cache, sluice_cache_info* out,
                                    sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    if (auto ok = check_struct(out, "cache_info"); !ok) return ok;
    const Cache& impl = *cache->impl;
    if (auto ok = cache->impl->client().check(); !ok) return ok;
    out->created = impl.created() ? 1 : 0;
    out->slots = impl.slots();
    out->page_bytes = impl.geometry().page_bytes;
    out->pages_per_block = impl.geometry().pages_per_block;
    out->max_blocks = impl.max_blocks();
    out->block_bytes = impl.geometry().block_bytes;
    out->frame_stride = impl.geometry().frame_stride;
    out->table_bytes = impl.table_bytes();
    out->max_actors = impl.max_actors();
    out->frame_extents = impl.frame_extents();
    out->frame_extent_bytes = impl.frame_extent_bytes();
    const DeviceCache* const resolver = impl.resolver();
    const ipc::Status pinning = resolver != nullptr ? resolver->pin_status() : ipc::Status();
    out->pinned_frame_extents = resolver != nullptr ? resolver->pinned() : 0;
    out->pin_status = static_cast<uint32_t>(pinning ? Errc::ok : pinning.error().code);
    out->device_bytes = resolver != nullptr ? resolver->device_bytes() : 0;
    return {};
  });
}

sluice_status sluice_cache_wait_pinned(sluice_cache* cache, uint64_t timeout_us,
                                       sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    Cache& impl = *cache->impl;
    if (auto ok = impl.client().check(); !ok) return ok;
    if (impl.resolver() == nullptr) return {};
    impl.resolver()->retry_pinning();
    return impl.resolver()->wait_pinned(impl.frame_extents(), deadline_after(timeout_us));
  });
}

sluice_status sluice_cache_arena(sluice_cache* cache, sluice_arena_view* out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    if (auto ok = check_struct(out, "arena_view"); !ok) return ok;
    const DeviceCache* const device = cache->impl->device();
    out->base = cache->impl->arena();
    out->page_bytes = cache->impl->geometry().page_bytes;
    out->slots = cache->impl->slots();
    out->device_type = device != nullptr ? kDeviceCuda : kDeviceHost;
    out->device_id = device != nullptr ? device->ordinal() : 0;
    return {};
  });
}

sluice_status sluice_cache_get_stats(sluice_cache* cache, sluice_cache_stats* out,
                                     sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    if (auto ok = check_struct(out, "cache_stats"); !ok) return ok;
    if (auto ok = cache->impl->client().check(); !ok) return ok;
    cache->impl->collect_stats();
    const CacheStats& from = cache->impl->stats();
    const auto get = [](const std::atomic<std::uint64_t>& n) {
      return n.load(std::memory_order_relaxed);
    };
    out->hits = get(from.hits);
    out->misses = get(from.misses);
    out->no_slot = get(from.no_slot);
    out->absent = get(from.absent);
    out->bytes_filled = get(from.bytes_filled);
    out->forecast_issued = get(from.forecast_issued);
    out->forecast_used = get(from.forecast_used);
    out->forecast_late = get(from.forecast_late);
    out->forecast_dropped = get(from.forecast_dropped);
    out->forecast_wasted_bytes = get(from.forecast_wasted_bytes);
    out->resolves = get(from.resolves);
    out->blocks_matched = get(from.blocks_matched);
    out->blocks_deduplicated = get(from.blocks_deduplicated);
    return {};
  });
}

}  // extern "C"
