// What tests of libsluice on a GPU share: a cache of a few layers, and an engine with one actor
// that looks into its slots.
//
// Thread-safety: one thread.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "tests/integration/daemon_process.h"

namespace sluice::test {

using client::Actor;
using client::Cache;
using client::Client;
using client::PageList;
using client::Plan;
using client::Sequence;

inline constexpr std::uint64_t kPinTimeoutUs = 20'000'000;
inline constexpr std::uint32_t kLayers = 4;

inline DaemonProcess::Options on_gpu() {
  DaemonProcess::Options options;
  options.extra = "[backend]\nkind = \"cuda\"";
  return options;
}

inline sluice_cache_desc gpu_cache(const char* model,
                                   sluice_executor executor = SLUICE_EXECUTOR_DIRECT) {
  sluice_cache_desc desc = small_cache(model, executor, kLayers);
  desc.device_type = 2;
  return desc;
}

// A token of 64 B is a row; 16 of them, in two layers, make a block.
inline sluice_cache_desc rows_cache() {
  sluice_cache_desc desc = gpu_cache("rows");
  desc.layers = 2;
  desc.kv_heads = 1;
  desc.planes = 1;
  desc.head_dim = 32;
  desc.page_kind = SLUICE_PAGE_ROW;
  return desc;
}

// Memory of the device that the test writes and reads as a vector.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::vector<T> values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(&data_, size_ * sizeof(T)), cudaSuccess);
    set(values);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { (void)cudaFree(data_); }

  T* data() const { return static_cast<T*>(data_); }
  void set(const std::vector<T>& values) {
    EXPECT_EQ(values.size(), size_);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  std::vector<T> get() const {
    std::vector<T> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }

 private:
  void* data_ = nullptr;
  std::size_t size_;
};

struct Engine {
  explicit Engine(const DaemonProcess& daemon, const sluice_cache_desc& desc = gpu_cache("model"))
      : client(daemon.connect('a', 20'000'000)),
        cache(must(client.open_cache(desc))),
        actor(must(cache.open_actor())),
        info(must(cache.info())),
        arena(must(cache.arena())) {
    must(cache.wait_pinned(kPinTimeoutUs));
  }

  std::byte* slot(std::int32_t at) const {
    return static_cast<std::byte*>(arena.base) + static_cast<std::size_t>(at) * arena.page_bytes;
  }
  // The bytes of a slot; all work before is waited for.
  std::vector<std::byte> bytes(std::int32_t at) const {
    std::vector<std::byte> found(arena.page_bytes);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(found.data(), slot(at), found.size(), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return found;
  }
  bool filled(std::int32_t at, int value) const {
    return at >= 0 &&
           bytes(at) == std::vector<std::byte>(arena.page_bytes, static_cast<std::byte>(value));
  }
  void fill(std::int32_t at, int value) const {
    EXPECT_EQ(cudaMemset(slot(at), value, arena.page_bytes), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  std::vector<std::int32_t> resolve(const Sequence& sequence, std::uint32_t page,
                                    const std::vector<std::uint32_t>& blocks,
                                    client::ResolveCounts* counts = nullptr) {
    std::vector<std::int32_t> slots(blocks.size());
    const PageList list{sequence.get(), page,         static_cast<std::uint32_t>(blocks.size()),
                        blocks.data(),  slots.data(), nullptr};
    const auto found = must(actor.resolve({&list, 1}));
    if (counts != nullptr) *counts = found;
    return slots;
  }

  Client client;
  Cache cache;
  Actor actor;
  sluice_cache_info info;
  sluice_arena_view arena;
};

inline std::string key(int i) { return "block-key-" + std::to_string(100 + i); }

inline Cache::Opened open(Engine& engine, int blocks) {
  std::string all;
  for (int i = 0; i < blocks; ++i) all += key(i);
  return must(engine.cache.open_sequence({all.data(), static_cast<std::uint32_t>(key(0).size()), 0,
                                          static_cast<std::size_t>(blocks)}));
}

// Appends sealed blocks up to `blocks`; block i is filled with i + 1.
inline void prefill(Engine& engine, Sequence& sequence, int blocks) {
  const auto have = static_cast<int>(must(sequence.info()).blocks);
  must(sequence.extend(static_cast<std::uint32_t>(blocks - have)));
  must(engine.cache.wait_pinned(kPinTimeoutUs));
  for (int i = have; i < blocks; ++i) {
    const auto frame = must(sequence.map(static_cast<std::uint32_t>(i)));
    std::memset(frame.data(), i + 1, frame.size());
    const std::string name = key(i);
    must(sequence.seal(static_cast<std::uint32_t>(i), std::as_bytes(std::span(name))));
  }
}

inline Sequence prefilled(Engine& engine, int blocks) {
  Sequence sequence = open(engine, 0).sequence;
  prefill(engine, sequence, blocks);
  return sequence;
}

inline std::vector<std::int32_t> pin(Engine& engine, Sequence& sequence, std::uint32_t block) {
  std::vector<std::int32_t> slots(engine.info.pages_per_block);
  must(sequence.pin(block, engine.actor, slots));
  return slots;
}

template <class R>
sluice_status status_of(const R& result) {
  return result ? SLUICE_OK : result.error().code;
}

// Room for lists of a plan, and what the tests put there.
struct PlanLists {
  static constexpr std::uint32_t kLists = 4;
  static constexpr std::uint32_t kCapacity = 8;
  static constexpr std::int32_t kUntouched = -7;

  OnDevice<std::int32_t> items{std::vector<std::int32_t>(kLists * kCapacity, -1)};
  OnDevice<std::uint32_t> counts{std::vector<std::uint32_t>(kLists, 0)};
  OnDevice<std::uint32_t> list_count{{0}};
  OnDevice<std::uint32_t> sequences{std::vector<std::uint32_t>(kLists, 0)};
  OnDevice<std::int32_t> slots{std::vector<std::int32_t>(kLists * kCapacity, kUntouched)};
  OnDevice<std::uint8_t> outcomes{std::vector<std::uint8_t>(kLists * kCapacity, 0xFF)};
  OnDevice<std::uint32_t> without_slot{{0}};

  sluice_plan_desc desc(sluice_item_kind kind, std::uint32_t first_page) const {
    sluice_plan_desc made = SLUICE_PLAN_DESC_INIT;
    made.kind = kind;
    made.max_lists = kLists;
    made.list_capacity = kCapacity;
    made.first_page = first_page;
    made.items = items.data();
    made.counts = counts.data();
    made.list_count = list_count.data();
    made.sequences = sequences.data();
    made.slots = slots.data();
    made.outcomes = outcomes.data();
    made.without_slot = without_slot.data();
    return made;
  }

  void put(const std::vector<std::vector<std::int32_t>>& lists,
           const std::vector<std::uint32_t>& rows) {
    std::vector<std::int32_t> all(kLists * kCapacity, -1);
    std::vector<std::uint32_t> lengths(kLists, 0);
    for (std::size_t l = 0; l < lists.size(); ++l) {
      std::copy(lists[l].begin(), lists[l].end(), all.begin() + static_cast<long>(l * kCapacity));
      lengths[l] = static_cast<std::uint32_t>(lists[l].size());
    }
    std::vector<std::uint32_t> of(kLists, 0);
    std::copy(rows.begin(), rows.end(), of.begin());
    items.set(all);
    counts.set(lengths);
    sequences.set(of);
    list_count.set({static_cast<std::uint32_t>(lists.size())});
    slots.set(std::vector<std::int32_t>(kLists * kCapacity, kUntouched));
    without_slot.set({0});
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  std::int32_t slot(std::uint32_t list, std::uint32_t item) const {
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    return slots.get()[list * kCapacity + item];
  }
};

}  // namespace sluice::test
