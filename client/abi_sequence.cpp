// The C ABI: sequences, and writing their blocks.
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "client/abi_checks.h"
#include "client/abi_handles.h"

namespace ipc = sluice::ipc;
using ipc::Errc;
using ipc::fail;
using namespace sluice::client::internal;  // NOLINT(google-build-using-namespace): this file is its
                                           // C face

namespace {

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

}  // namespace

extern "C" {

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
    out->to_be_sealed = sequence->impl->to_be_sealed();
    out->reserved = 0;
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

sluice_status sluice_block_store(sluice_sequence* sequence, uint32_t block, sluice_actor* actor,
                                 sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (actor == nullptr) return null_argument("actor");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    return sequence->impl->store(block, actor->impl.get());
  });
}

sluice_status sluice_block_stored(sluice_sequence* sequence, uint32_t block, uint32_t* stored,
                                  sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (sequence == nullptr) return null_argument("sequence");
    if (stored == nullptr) return null_argument("stored");
    if (auto ok = sequence->impl->cache().client().check(); !ok) return ok;
    const auto is_stored = sequence->impl->stored(block);
    if (!is_stored) return std::unexpected(is_stored.error());
    *stored = *is_stored ? 1 : 0;
    return {};
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

}  // extern "C"
