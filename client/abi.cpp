// The C ABI: checks what a caller passes, calls the library, and turns results into statuses.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "client/actor.h"
#include "client/cache.h"
#include "client/client.h"
#include "client/sequence.h"
#include "client/sluice.h"

namespace ipc = sluice::ipc;
namespace wire = sluice::ipc::wire;
using ipc::Errc;
using ipc::Error;
using ipc::fail;
using namespace sluice::client::internal;  // NOLINT(google-build-using-namespace): this file is its
                                           // C face

struct sluice_client {
  std::unique_ptr<Client> impl;
};
struct sluice_cache {
  sluice_client* client;
  std::unique_ptr<Cache> impl;
};
struct sluice_sequence {
  std::unique_ptr<Sequence> impl;
};
struct sluice_actor {
  std::unique_ptr<Actor> impl;
};
struct sluice_plan {
  std::unique_ptr<Plan> impl;
};
struct sluice_op {
  Actor* actor;
  std::unique_ptr<Operation> impl;
};

static_assert(SLUICE_INTERNAL == static_cast<int>(ipc::kLastErrc));
static_assert(SLUICE_DAEMON_AWAY == static_cast<int>(Errc::daemon_away));
static_assert(SLUICE_EXECUTOR_DIRECT == static_cast<int>(wire::Executor::direct));
static_assert(sizeof(sluice_plan_desc) == 128 && sizeof(sluice_cache_info) == 88,
              "these structs are part of the ABI");
static_assert(SLUICE_PAGE_BLOCK == static_cast<int>(ipc::PageKind::block));

namespace {

// So that a deadline fits into the clock.
constexpr std::uint64_t kMostTimeoutUs = std::uint64_t{1} << 50;

sluice_status report(const Error& error, sluice_error* out) {
  if (out != nullptr) {
    out->code = static_cast<int32_t>(error.code);
    std::snprintf(out->text, sizeof(out->text), "%s", error.text.c_str());
  }
  return static_cast<sluice_status>(error.code);
}

sluice_status done(sluice_error* out) {
  if (out != nullptr) {
    out->code = SLUICE_OK;
    out->text[0] = '\0';
  }
  return SLUICE_OK;
}

// Runs `body`, which returns an ipc::Status; memory that is gone becomes an error like any other.
template <class Body>
sluice_status guarded(sluice_error* error, Body&& body) {
  try {
    const ipc::Status status = body();
    return status ? done(error) : report(status.error(), error);
  } catch (const std::bad_alloc&) {
    return report({Errc::no_memory, "this process is out of memory"}, error);
  } catch (const std::exception& unexpected) {
    return report({Errc::internal, unexpected.what()}, error);
  }
}

std::unexpected<Error> null_argument(const char* name) {
  return fail(Errc::invalid_argument, std::string(name) + " is NULL");
}

// A struct of the caller: its size must be one that this library knows.
template <class Struct>
ipc::Status check_struct(const Struct* value, const char* name) {
  if (value == nullptr) return null_argument(name);
  if (value->struct_size != sizeof(Struct)) {
    return fail(Errc::invalid_argument,
                std::string(name) + ".struct_size is " + std::to_string(value->struct_size) +
                    "; this library expects " + std::to_string(sizeof(Struct)) +
                    " (set it to sizeof, and build against the header of this version)");
  }
  return {};
}

template <std::size_t kCount>
ipc::Status check_zero(const std::uint64_t (&reserved)[kCount], std::uint32_t flags,
                       const char* name) {
  if (flags != 0) {
    return fail(Errc::invalid_argument, std::string(name) + ".flags has unknown bits");
  }
  if (std::any_of(std::begin(reserved), std::end(reserved), [](auto word) { return word != 0; })) {
    return fail(Errc::invalid_argument, std::string(name) + ".reserved must be zero");
  }
  return {};
}

ipc::Status check_text(const char* text, std::size_t most, const char* name) {
  if (text != nullptr && strnlen(text, most + 1) > most) {
    return fail(Errc::invalid_argument,
                std::string(name) + " is longer than " + std::to_string(most) + " bytes");
  }
  return {};
}

std::string text_or_empty(const char* text) { return text == nullptr ? std::string() : text; }

ipc::Result<ConnectOptions> connect_options(const sluice_connect_desc* desc) {
  ConnectOptions options;
  if (desc == nullptr) return options;
  if (auto ok = check_struct(desc, "connect_desc"); !ok) return std::unexpected(ok.error());
  if (auto ok = check_zero(desc->reserved, desc->flags, "connect_desc"); !ok) {
    return std::unexpected(ok.error());
  }
  if (desc->spin_us != 0) {
    return fail(Errc::invalid_argument, "connect_desc.spin_us is reserved and must be zero");
  }
  options.socket_path = text_or_empty(desc->socket_path);
  options.client_name = text_or_empty(desc->client_name);
  options.timeout = std::chrono::microseconds(std::min(desc->timeout_us, kMostTimeoutUs));
  return options;
}

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

ipc::Status check_key_bytes(std::uint32_t key_bytes) {
  if (key_bytes >= 1 && key_bytes <= SLUICE_MAX_KEY_BYTES) return {};
  return fail(Errc::invalid_argument, "a key of " + std::to_string(key_bytes) +
                                          " bytes; expected 1 to " +
                                          std::to_string(SLUICE_MAX_KEY_BYTES));
}

ipc::Result<Keys> keys_from(const sluice_keys* keys) {
  if (keys == nullptr || keys->count == 0) return Keys{nullptr, 1, 1, 0};
  if (keys->data == nullptr) return null_argument("keys.data");
  if (auto ok = check_key_bytes(keys->key_bytes); !ok) return std::unexpected(ok.error());
  const std::uint32_t stride = keys->stride == 0 ? keys->key_bytes : keys->stride;
  if (stride < keys->key_bytes) {
    return fail(Errc::invalid_argument, "keys.stride is less than keys.key_bytes");
  }
  return Keys{static_cast<const std::byte*>(keys->data), keys->key_bytes, stride, keys->count};
}

ipc::Result<std::vector<PageList>> lists_from(const sluice_page_list* lists, std::size_t count) {
  if (count > 0 && lists == nullptr) return null_argument("lists");
  std::vector<PageList> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const sluice_page_list& list = lists[i];
    out[i] = {list.sequence == nullptr ? nullptr : list.sequence->impl.get(),
              list.page,
              list.count,
              list.blocks,
              list.slots,
              list.outcomes};
  }
  return out;
}

ipc::Result<StreamRef> stream_from(const sluice_stream* stream) {
  if (stream == nullptr || stream->kind == SLUICE_STREAM_NONE) return StreamRef{};
  if (stream->kind != SLUICE_STREAM_CUDA) {
    return fail(Errc::invalid_argument, "stream.kind is " + std::to_string(stream->kind) +
                                            "; expected 0 (none) or 1 (CUDA)");
  }
  if (stream->reserved != 0) return fail(Errc::invalid_argument, "stream.reserved must be zero");
  return StreamRef{true, stream->handle};
}

ipc::Status check_forecast(const sluice_plan_desc& desc) {
  const bool forecast = (desc.flags & SLUICE_PLAN_FORECAST) != 0;
  if (!forecast && (desc.confidence != 0 || desc.budget_bytes != 0)) {
    return fail(Errc::invalid_argument,
                "plan_desc.confidence and budget_bytes are for SLUICE_PLAN_FORECAST, else zero");
  }
  if (forecast && (desc.flags & SLUICE_PLAN_ADVANCE) != 0) {
    return fail(Errc::invalid_argument,
                "a plan that forecasts cannot advance: begin and end the steps of its actor");
  }
  if (desc.confidence > 100) {
    return fail(Errc::invalid_argument, "plan_desc.confidence is " +
                                            std::to_string(desc.confidence) +
                                            "; expected 0 to 100 per cent");
  }
  return {};
}

ipc::Result<PlanOptions> plan_options(const sluice_plan_desc* desc) {
  if (auto ok = check_struct(desc, "plan_desc"); !ok) return std::unexpected(ok.error());
  constexpr std::uint32_t kFlags = SLUICE_PLAN_ADVANCE | SLUICE_PLAN_FORECAST;
  if (auto ok = check_zero(desc->reserved, desc->flags & ~kFlags, "plan_desc"); !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = check_forecast(*desc); !ok) return std::unexpected(ok.error());
  const bool forecast = (desc->flags & SLUICE_PLAN_FORECAST) != 0;
  if (desc->kind > SLUICE_ITEM_ROW) {
    return fail(Errc::invalid_argument, "plan_desc.kind is " + std::to_string(desc->kind));
  }
  for (const auto& [pointer, name] :
       {std::pair<const void*, const char*>{desc->items, "plan_desc.items"},
        {desc->sequences, "plan_desc.sequences"}}) {
    if (pointer == nullptr) return null_argument(name);
  }
  if (desc->slots == nullptr && !forecast) return null_argument("plan_desc.slots");
  const std::uint32_t per_sequence = desc->lists_per_sequence == 0 ? 1 : desc->lists_per_sequence;
  if (desc->max_lists == 0 || desc->list_capacity == 0 || desc->max_lists % per_sequence != 0) {
    return fail(Errc::invalid_argument,
                "a plan of " + std::to_string(desc->max_lists) + " lists, " +
                    std::to_string(per_sequence) + " per sequence, of " +
                    std::to_string(desc->list_capacity) +
                    " items each; expected at least 1 of each, and whole sequences");
  }
  if (std::uint64_t{desc->max_lists} * desc->list_capacity > SLUICE_MAX_PLAN_ITEMS) {
    return fail(Errc::list_too_long, "a plan of " + std::to_string(desc->max_lists) + " lists of " +
                                         std::to_string(desc->list_capacity) + " items; at most " +
                                         std::to_string(SLUICE_MAX_PLAN_ITEMS) + " items in all");
  }
  PlanOptions options;
  options.kind = desc->kind == SLUICE_ITEM_ROW ? PlanItems::rows : PlanItems::blocks;
  options.advance = (desc->flags & SLUICE_PLAN_ADVANCE) != 0;
  options.forecast = forecast;
  options.confidence = desc->confidence;
  options.budget_bytes = desc->budget_bytes == 0 ? kForecastBudgetBytes : desc->budget_bytes;
  options.max_lists = desc->max_lists;
  options.list_capacity = desc->list_capacity;
  options.lists_per_sequence = per_sequence;
  options.first_page = desc->first_page;
  options.copying_ctas = desc->copying_ctas;
  options.items = desc->items;
  options.counts = desc->counts;
  options.list_count = desc->list_count;
  options.sequences = desc->sequences;
  options.slots = desc->slots;
  options.outcomes = desc->outcomes;
  options.without_slot = desc->without_slot;
  return options;
}

}  // namespace

extern "C" {

uint32_t sluice_abi_version(void) { return SLUICE_ABI_VERSION; }
const char* sluice_version(void) { return SLUICE_VERSION; }

const char* sluice_status_name(int32_t status) {
  const auto code = static_cast<Errc>(static_cast<std::uint16_t>(status));
  return status < 0 || status > static_cast<int32_t>(ipc::kLastErrc) ? "unknown"
                                                                     : ipc::to_string(code).data();
}

// ---- client

sluice_status sluice_connect(const sluice_connect_desc* desc, sluice_client** out,
                             sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto options = connect_options(desc);
    if (!options) return std::unexpected(options.error());
    auto client = Client::connect(*options);
    if (!client) return std::unexpected(client.error());
    *out = new sluice_client{std::move(*client)};
    return {};
  });
}

void sluice_disconnect(sluice_client* client) { delete client; }

sluice_status sluice_client_get_info(sluice_client* client, sluice_client_info* out,
                                     sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (client == nullptr) return null_argument("client");
    if (auto ok = check_struct(out, "client_info"); !ok) return ok;
    Client& impl = *client->impl;
    if (auto ok = impl.check(); !ok) return ok;
    const ipc::Status alive = impl.look();
    const Errc ended = alive ? impl.channel().end_code() : alive.error().code;
    out->session = impl.session();
    out->connected = ended == Errc::ok ? 1 : 0;
    out->end_reason = static_cast<uint32_t>(ended);
    out->request_bytes = impl.channel().request_bytes();
    std::snprintf(out->tenant, sizeof(out->tenant), "%s", impl.tenant().c_str());
    std::snprintf(out->daemon_version, sizeof(out->daemon_version), "%s",
                  impl.daemon_version().c_str());
    return {};
  });
}

sluice_status sluice_ping(sluice_client* client, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (client == nullptr) return null_argument("client");
    Client& impl = *client->impl;
    if (auto ok = impl.check(); !ok) return ok;
    auto answer = impl.channel().call({}, ipc::RequestPiece(), impl.deadline());
    if (!answer) return std::unexpected(answer.error());
    return {};
  });
}

// ---- caches

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
    const DeviceCache* const device = impl.device();
    const ipc::Status pinning = device != nullptr ? device->pin_status() : ipc::Status();
    out->pinned_frame_extents = device != nullptr ? device->pinned() : 0;
    out->pin_status = static_cast<uint32_t>(pinning ? Errc::ok : pinning.error().code);
    out->device_bytes = device != nullptr ? device->device_bytes() : 0;
    return {};
  });
}

sluice_status sluice_cache_wait_pinned(sluice_cache* cache, uint64_t timeout_us,
                                       sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    Cache& impl = *cache->impl;
    if (auto ok = impl.client().check(); !ok) return ok;
    if (impl.device() == nullptr) return {};
    const auto timeout = std::chrono::microseconds(std::min(timeout_us, kMostTimeoutUs));
    impl.device()->retry_pinning();
    return impl.device()->wait_pinned(impl.frame_extents(), ipc::deadline_in(timeout));
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

// ---- sequences

sluice_status sluice_sequence_open(sluice_cache* cache, const sluice_keys* keys,
                                   sluice_sequence** out, uint32_t* matched_blocks,
                                   sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto wanted = keys_from(keys);
    if (!wanted) return std::unexpected(wanted.error());
    if (auto ok = cache->impl->client().check(); !ok) return ok;
    std::uint32_t matched = 0;
    auto sequence = Sequence::open(*cache->impl, *wanted, matched);
    if (!sequence) return std::unexpected(sequence.error());
    if (matched_blocks != nullptr) *matched_blocks = matched;
    *out = new sluice_sequence{std::move(*sequence)};
    return {};
  });
}

sluice_status sluice_sequence_extend(sluice_sequence* sequence, uint32_t count,
                                     uint32_t* first_block, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    auto first = sequence->impl->extend(count);
    if (!first) return std::unexpected(first.error());
    if (first_block != nullptr) *first_block = *first;
    return {};
  });
}

sluice_status sluice_sequence_fork(sluice_sequence* sequence, sluice_actor* actor,
                                   sluice_sequence** out, sluice_error* error) {
  (void)actor;
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    auto child = sequence->impl->fork(actor == nullptr ? nullptr : actor->impl.get());
    if (!child) return std::unexpected(child.error());
    *out = new sluice_sequence{std::move(*child)};
    return {};
  });
}

sluice_status sluice_sequence_truncate(sluice_sequence* sequence, uint32_t blocks,
                                       sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    return sequence->impl->truncate(blocks);
  });
}

sluice_status sluice_sequence_release(sluice_sequence* sequence, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return {};
    const std::unique_ptr<sluice_sequence> gone(sequence);
    if (auto ok = gone->impl->cache().client().check(); !ok) return ok;
    return gone->impl->release();
  });
}

sluice_status sluice_sequence_get_info(sluice_sequence* sequence, sluice_sequence_info* out,
                                       sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (auto ok = check_struct(out, "sequence_info"); !ok) return ok;
    out->blocks = sequence->impl->blocks();
    out->sealed = sequence->impl->sealed();
    return {};
  });
}

sluice_status sluice_sequence_row(sluice_sequence* sequence, uint32_t* row, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (row == nullptr) return null_argument("row");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    auto number = sequence->impl->row();
    if (!number) return std::unexpected(number.error());
    *row = *number;
    return {};
  });
}

// ---- writing blocks

sluice_status sluice_block_map(sluice_sequence* sequence, uint32_t block, void** data,
                               uint64_t* bytes, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (data == nullptr) return null_argument("data");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    auto mapped = sequence->impl->map(block);
    if (!mapped) return std::unexpected(mapped.error());
    *data = mapped->data();
    if (bytes != nullptr) *bytes = mapped->size();
    return {};
  });
}

sluice_status sluice_block_pin(sluice_sequence* sequence, uint32_t block, sluice_actor* actor,
                               int32_t* slots, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (actor == nullptr) return null_argument("actor");
    if (slots == nullptr) return null_argument("slots");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    return sequence->impl->pin(block, *actor->impl, slots);
  });
}

sluice_status sluice_seal(sluice_sequence* sequence, uint32_t block, const void* key,
                          uint32_t key_bytes, uint64_t valid_bytes, sluice_actor* actor,
                          sluice_seal_result* result, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (key == nullptr) return null_argument("key");
    if (auto ok = check_key_bytes(key_bytes); !ok) return ok;
    if (result != nullptr) {
      if (auto ok = check_struct(result, "seal_result"); !ok) return ok;
    }
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    auto deduplicated =
        sequence->impl->seal(block, {static_cast<const std::byte*>(key), key_bytes}, valid_bytes,
                             actor == nullptr ? nullptr : actor->impl.get());
    if (!deduplicated) return std::unexpected(deduplicated.error());
    if (result != nullptr) result->deduplicated = *deduplicated ? 1 : 0;
    return {};
  });
}

// ---- actors and steps

sluice_status sluice_actor_open(sluice_cache* cache, sluice_actor** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto actor = Actor::open(*cache->impl);
    if (!actor) return std::unexpected(actor.error());
    *out = new sluice_actor{std::move(*actor)};
    return {};
  });
}

sluice_status sluice_actor_close(sluice_actor* actor, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return {};
    const std::unique_ptr<sluice_actor> gone(actor);
    return gone->impl->close();
  });
}

sluice_status sluice_step_begin(sluice_actor* actor, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    return actor->impl->begin_step();
  });
}

sluice_status sluice_step_end(sluice_actor* actor, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    return actor->impl->end_step();
  });
}

// ---- resolve

sluice_status sluice_resolve(sluice_actor* actor, const sluice_page_list* lists, size_t list_count,
                             sluice_resolve_counts* counts, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    sluice_resolve_counts found{};
    if (auto ok = actor->impl->resolve(*wanted, found); !ok) return ok;
    if (counts != nullptr) *counts = found;
    return {};
  });
}

sluice_status sluice_resolve_async(sluice_actor* actor, const sluice_page_list* lists,
                                   size_t list_count, sluice_op** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    auto operation = actor->impl->start(*wanted);
    if (!operation) return std::unexpected(operation.error());
    *out = new sluice_op{actor->impl.get(), std::move(*operation)};
    return {};
  });
}

sluice_status sluice_op_wait(sluice_op* op, uint64_t timeout_us, sluice_resolve_counts* counts,
                             sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (op == nullptr) return null_argument("op");
    const auto timeout = std::chrono::microseconds(std::min(timeout_us, kMostTimeoutUs));
    const ipc::Status finished = op->actor->finish(*op->impl, ipc::deadline_in(timeout));
    if (!finished && finished.error().code == Errc::timed_out) return finished;
    if (finished && counts != nullptr) *counts = op->impl->counts;
    delete op;
    return finished;
  });
}

sluice_status sluice_forecast(sluice_actor* actor, const sluice_page_list* lists, size_t list_count,
                              uint64_t deadline_us, uint32_t confidence, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    return actor->impl->forecast(*wanted, deadline_us, confidence);
  });
}

// ---- streams and plans

sluice_status sluice_actor_set_stream(sluice_actor* actor, const sluice_stream* stream,
                                      sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto ref = stream_from(stream);
    if (!ref) return std::unexpected(ref.error());
    return actor->impl->set_stream(*ref);
  });
}

sluice_status sluice_plan_create(sluice_actor* actor, const sluice_plan_desc* desc,
                                 sluice_plan** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto options = plan_options(desc);
    if (!options) return std::unexpected(options.error());
    auto plan = actor->impl->make_plan(*options);
    if (!plan) return std::unexpected(plan.error());
    *out = new sluice_plan{std::move(*plan)};
    return {};
  });
}

sluice_status sluice_plan_launch(sluice_plan* plan, const sluice_stream* stream,
                                 sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (plan == nullptr) return null_argument("plan");
    auto ref = stream_from(stream);
    if (!ref) return std::unexpected(ref.error());
    return plan->impl->launch(*ref);
  });
}

void sluice_plan_destroy(sluice_plan* plan) { delete plan; }

// ---- operators

sluice_status sluice_admin(const sluice_connect_desc* desc, const char* verb,
                           const char* arguments_json, char** reply_json, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (verb == nullptr) return null_argument("verb");
    if (reply_json == nullptr) return null_argument("reply_json");
    *reply_json = nullptr;
    auto options = connect_options(desc);
    if (!options) return std::unexpected(options.error());
    options->admin = true;
    auto client = Client::connect(*options);
    if (!client) return std::unexpected(client.error());
    auto reply = (*client)->control().call(
        [&](auto& builder) {
          return wire::CreateAdminRequestDirect(builder, verb,
                                                arguments_json == nullptr ? "" : arguments_json);
        },
        (*client)->deadline());
    if (!reply) return std::unexpected(reply.error());
    auto body = reply->as<wire::AdminReply>();
    if (!body) return std::unexpected(body.error());
    const std::string json(ipc::text_of((*body)->json()));
    *reply_json = new char[json.size() + 1];
    std::memcpy(*reply_json, json.c_str(), json.size() + 1);
    return {};
  });
}

void sluice_admin_free(char* reply_json) { delete[] reply_json; }

}  // extern "C"
