// The C++ interface of libsluice: RAII and std::expected over sluice.h, nothing more.
//
// Thread-safety, waits and errors are those of the C calls of the same name; see sluice.h. Objects
// are move-only. A Sequence and an Actor must go before their Cache, a Cache before its Client;
// destructors ignore errors, so call release() or close() where they matter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "client/sluice.h"

namespace sluice::client {

struct Error {
  sluice_status code = SLUICE_INTERNAL;
  std::string text;
};

template <class T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

namespace detail {

template <class Call>
Status checked(Call&& call) {
  sluice_error error{};
  const sluice_status status = call(&error);
  if (status == SLUICE_OK) return {};
  return std::unexpected(Error{status, error.text});
}

template <class T, class Call>
Result<T> made(Call&& call) {
  T value{};
  if (auto status = checked([&](sluice_error* error) { return call(&value, error); }); !status) {
    return std::unexpected(status.error());
  }
  return value;
}

// Wraps a raw object of the C interface into its owner.
template <class Owner, class Raw>
Result<Owner> owned(Result<Raw*> raw) {
  if (!raw) return std::unexpected(raw.error());
  return Owner(*raw);
}

template <class T>
T sized() {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}

}  // namespace detail

// One list of a resolve; see sluice_page_list.
using PageList = sluice_page_list;
using ResolveCounts = sluice_resolve_counts;

// A resolve that was not waited for. Its lists, and what they point to, stay valid and untouched
// until it is over; its actor lives longer. An operation that is dropped is waited for, at most
// kDropWaitUs.
class Operation {
 public:
  static constexpr std::uint64_t kDropWaitUs = 10'000'000;

  explicit Operation(sluice_op* raw) : raw_(raw) {}

  // SLUICE_TIMED_OUT: not over yet; wait again. Anything else ends the operation.
  Result<ResolveCounts> wait(std::uint64_t timeout_us) {
    auto counts = detail::made<ResolveCounts>([&](ResolveCounts* out, sluice_error* e) {
      return sluice_op_wait(raw_.get(), timeout_us, out, e);
    });
    if (counts || counts.error().code != SLUICE_TIMED_OUT) (void)raw_.release();
    return counts;
  }

 private:
  struct Drop {
    void operator()(sluice_op* op) const { sluice_op_wait(op, kDropWaitUs, nullptr, nullptr); }
  };
  std::unique_ptr<sluice_op, Drop> raw_;
};

class Actor {
 public:
  explicit Actor(sluice_actor* raw) : raw_(raw) {}
  sluice_actor* get() const { return raw_.get(); }

  Status begin_step() {
    return detail::checked([&](sluice_error* e) { return sluice_step_begin(get(), e); });
  }
  Status end_step() {
    return detail::checked([&](sluice_error* e) { return sluice_step_end(get(), e); });
  }
  Result<ResolveCounts> resolve(std::span<const PageList> lists) {
    return detail::made<ResolveCounts>([&](ResolveCounts* counts, sluice_error* e) {
      return sluice_resolve(get(), lists.data(), lists.size(), counts, e);
    });
  }
  Result<ResolveCounts> resolve_wait(std::span<const PageList> lists, std::uint64_t wait_us) {
    return detail::made<ResolveCounts>([&](ResolveCounts* counts, sluice_error* e) {
      return sluice_resolve_wait(get(), lists.data(), lists.size(), wait_us, counts, e);
    });
  }
  Result<Operation> resolve_async(std::span<const PageList> lists) {
    auto raw = detail::made<sluice_op*>([&](sluice_op** out, sluice_error* e) {
      return sluice_resolve_async(get(), lists.data(), lists.size(), out, e);
    });
    return detail::owned<Operation>(raw);
  }
  // A CUDA stream for the actor's work, or with nullptr one of its own; see
  // sluice_actor_set_stream.
  Status set_stream(const sluice_stream* stream) {
    return detail::checked(
        [&](sluice_error* e) { return sluice_actor_set_stream(get(), stream, e); });
  }
  // `confidence` in per cent.
  Status forecast(std::span<const PageList> lists, std::uint64_t deadline_us,
                  std::uint32_t confidence) {
    return detail::checked([&](sluice_error* e) {
      return sluice_forecast(get(), lists.data(), lists.size(), deadline_us, confidence, e);
    });
  }

 private:
  struct Close {
    void operator()(sluice_actor* actor) const { sluice_actor_close(actor, nullptr); }
  };
  std::unique_ptr<sluice_actor, Close> raw_;
};

// A prepared resolve on a GPU; see sluice_plan_desc. It goes before its actor.
class Plan {
 public:
  explicit Plan(sluice_plan* raw) : raw_(raw) {}
  sluice_plan* get() const { return raw_.get(); }

  static Result<Plan> create(Actor& actor, const sluice_plan_desc& desc) {
    auto raw = detail::made<sluice_plan*>([&](sluice_plan** out, sluice_error* e) {
      return sluice_plan_create(actor.get(), &desc, out, e);
    });
    return detail::owned<Plan>(raw);
  }
  // In the actor's stream, if `stream` is nullptr.
  Status launch(const sluice_stream* stream = nullptr) {
    return detail::checked([&](sluice_error* e) { return sluice_plan_launch(get(), stream, e); });
  }
  // Returns how many items are ABSENT at the end.
  Result<std::uint64_t> launch_wait(std::uint64_t wait_us, const sluice_stream* stream = nullptr) {
    return detail::made<std::uint64_t>([&](std::uint64_t* absent, sluice_error* e) {
      return sluice_plan_launch_wait(get(), stream, wait_us, absent, e);
    });
  }

 private:
  struct Destroy {
    void operator()(sluice_plan* plan) const { sluice_plan_destroy(plan); }
  };
  std::unique_ptr<sluice_plan, Destroy> raw_;
};

class Sequence {
 public:
  explicit Sequence(sluice_sequence* raw) : raw_(raw) {}
  sluice_sequence* get() const { return raw_.get(); }

  // Appends private blocks; returns the index of the first.
  Result<std::uint32_t> extend(std::uint32_t count) {
    return detail::made<std::uint32_t>([&](std::uint32_t* first, sluice_error* e) {
      return sluice_sequence_extend(get(), count, first, e);
    });
  }
  Result<Sequence> fork(Actor* actor = nullptr) {
    auto raw = detail::made<sluice_sequence*>([&](sluice_sequence** out, sluice_error* e) {
      return sluice_sequence_fork(get(), actor != nullptr ? actor->get() : nullptr, out, e);
    });
    return detail::owned<Sequence>(raw);
  }
  Status truncate(std::uint32_t blocks) {
    return detail::checked(
        [&](sluice_error* e) { return sluice_sequence_truncate(get(), blocks, e); });
  }
  // The frame of a private block, for prefill.
  Result<std::span<std::byte>> map(std::uint32_t block) {
    void* data = nullptr;
    std::uint64_t bytes = 0;
    auto status = detail::checked(
        [&](sluice_error* e) { return sluice_block_map(get(), block, &data, &bytes, e); });
    if (!status) return std::unexpected(status.error());
    return std::span(static_cast<std::byte*>(data), bytes);
  }
  // Pinned slots for the pages of a private block; `slots` has pages_per_block entries.
  Status pin(std::uint32_t block, Actor& actor, std::span<std::int32_t> slots) {
    return detail::checked([&](sluice_error* e) {
      return sluice_block_pin(get(), block, actor.get(), slots.data(), e);
    });
  }
  // Begins to write the pinned slots back, which the seal waits for.
  Status store(std::uint32_t block, Actor& actor) {
    return detail::checked(
        [&](sluice_error* e) { return sluice_block_store(get(), block, actor.get(), e); });
  }
  Result<bool> stored(std::uint32_t block) {
    std::uint32_t flag = 0;
    auto status = detail::checked(
        [&](sluice_error* e) { return sluice_block_stored(get(), block, &flag, e); });
    if (!status) return std::unexpected(status.error());
    return flag != 0;
  }
  // Returns whether the key was known, so that the existing block took this one's place.
  Result<bool> seal(std::uint32_t block, std::span<const std::byte> key, Actor* actor = nullptr,
                    std::uint64_t valid_bytes = 0) {
    auto result = detail::sized<sluice_seal_result>();
    auto status = detail::checked([&](sluice_error* e) {
      return sluice_seal(get(), block, key.data(), static_cast<std::uint32_t>(key.size()),
                         valid_bytes, actor != nullptr ? actor->get() : nullptr, &result, e);
    });
    if (!status) return std::unexpected(status.error());
    return result.deduplicated != 0;
  }
  // The number by which plans name the sequence, on a GPU.
  Result<std::uint32_t> row() const {
    return detail::made<std::uint32_t>([&](std::uint32_t* number, sluice_error* e) {
      return sluice_sequence_row(get(), number, e);
    });
  }
  Result<sluice_sequence_info> info() const {
    auto result = detail::sized<sluice_sequence_info>();
    auto status = detail::checked(
        [&](sluice_error* e) { return sluice_sequence_get_info(get(), &result, e); });
    if (!status) return std::unexpected(status.error());
    return result;
  }
  Status release() {
    return detail::checked(
        [&](sluice_error* e) { return sluice_sequence_release(raw_.release(), e); });
  }

 private:
  struct Release {
    void operator()(sluice_sequence* sequence) const { sluice_sequence_release(sequence, nullptr); }
  };
  std::unique_ptr<sluice_sequence, Release> raw_;
};

class Cache {
 public:
  explicit Cache(sluice_cache* raw) : raw_(raw) {}
  sluice_cache* get() const { return raw_.get(); }

  struct Opened {
    Sequence sequence;
    std::uint32_t matched_blocks;
  };
  Result<Opened> open_sequence(const sluice_keys& keys) {
    sluice_sequence* raw = nullptr;
    std::uint32_t matched = 0;
    auto status = detail::checked(
        [&](sluice_error* e) { return sluice_sequence_open(get(), &keys, &raw, &matched, e); });
    if (!status) return std::unexpected(status.error());
    return Opened{Sequence(raw), matched};
  }
  Result<Actor> open_actor() {
    auto raw = detail::made<sluice_actor*>(
        [&](sluice_actor** out, sluice_error* e) { return sluice_actor_open(get(), out, e); });
    return detail::owned<Actor>(raw);
  }
  Result<sluice_cache_info> info() const {
    auto result = detail::sized<sluice_cache_info>();
    auto status =
        detail::checked([&](sluice_error* e) { return sluice_cache_get_info(get(), &result, e); });
    if (!status) return std::unexpected(status.error());
    return result;
  }
  // Until the GPU can read all DRAM extents that exist now.
  Status wait_pinned(std::uint64_t timeout_us) {
    return detail::checked(
        [&](sluice_error* e) { return sluice_cache_wait_pinned(get(), timeout_us, e); });
  }
  Result<sluice_arena_view> arena() const {
    auto result = detail::sized<sluice_arena_view>();
    auto status =
        detail::checked([&](sluice_error* e) { return sluice_cache_arena(get(), &result, e); });
    if (!status) return std::unexpected(status.error());
    return result;
  }
  Result<sluice_cache_stats> stats() const {
    auto result = detail::sized<sluice_cache_stats>();
    auto status =
        detail::checked([&](sluice_error* e) { return sluice_cache_get_stats(get(), &result, e); });
    if (!status) return std::unexpected(status.error());
    return result;
  }
  // SLUICE_WRONG_STATE: sequences or actors are open; the cache stays, close it again after them.
  Status close() {
    auto status =
        detail::checked([&](sluice_error* e) { return sluice_cache_close(raw_.get(), e); });
    if (status || status.error().code != SLUICE_WRONG_STATE) (void)raw_.release();
    return status;
  }

 private:
  struct Close {
    void operator()(sluice_cache* cache) const { sluice_cache_close(cache, nullptr); }
  };
  std::unique_ptr<sluice_cache, Close> raw_;
};

class Client {
 public:
  explicit Client(sluice_client* raw) : raw_(raw) {}
  sluice_client* get() const { return raw_.get(); }

  static Result<Client> connect(const sluice_connect_desc& desc) {
    auto raw = detail::made<sluice_client*>(
        [&](sluice_client** out, sluice_error* e) { return sluice_connect(&desc, out, e); });
    return detail::owned<Client>(raw);
  }
  Status ping() {
    return detail::checked([&](sluice_error* e) { return sluice_ping(get(), e); });
  }
  Result<Cache> open_cache(const sluice_cache_desc& desc) {
    auto raw = detail::made<sluice_cache*>([&](sluice_cache** out, sluice_error* e) {
      return sluice_cache_open(get(), &desc, out, e);
    });
    return detail::owned<Cache>(raw);
  }
  Result<sluice_client_info> info() const {
    auto result = detail::sized<sluice_client_info>();
    auto status =
        detail::checked([&](sluice_error* e) { return sluice_client_get_info(get(), &result, e); });
    if (!status) return std::unexpected(status.error());
    return result;
  }

 private:
  struct Disconnect {
    void operator()(sluice_client* client) const { sluice_disconnect(client); }
  };
  std::unique_ptr<sluice_client, Disconnect> raw_;
};

}  // namespace sluice::client
