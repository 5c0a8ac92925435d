// A split table with an arena and frames of known bytes, and an actor with a stream, for tests of
// kernels on a GPU.
//
// Thread-safety: none.
#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/frame_log.h"
#include "kernels/resolve.h"

#define CUDA_OK(call)                                                  \
  do {                                                                 \
    const int status_ = static_cast<int>(call);                        \
    ASSERT_EQ(status_, 0) << #call << ": " << cuda::describe(status_); \
  } while (0)

namespace sluice::kernels {

struct Shape {
  std::uint32_t slots = 1024;
  std::uint32_t blocks = 64;
  std::uint32_t pages_per_block = 16;
  std::uint64_t page_bytes = 656;
  std::uint32_t log_capacity = 256;
};

// The byte that page `page` of frame `frame` has at `at`.
inline std::byte byte_of(Frame frame, std::uint32_t page, std::uint64_t at) {
  return static_cast<std::byte>((frame * 131u + page * 31u + at * 7u + (at >> 8)) & 0xFF);
}

// Device memory of a test, freed with it.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t count) : count_(count) {
    EXPECT_EQ(
        cudaMalloc(reinterpret_cast<void**>(&data_), std::max<std::size_t>(count, 1) * sizeof(T)),
        cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0, std::max<std::size_t>(count, 1) * sizeof(T)), cudaSuccess);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { set(values); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void set(const std::vector<T>& values) {
    ASSERT_LE(values.size(), count_);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  std::vector<T> get() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }
  T* data() const { return data_; }
  std::size_t size() const { return count_; }

 private:
  T* data_ = nullptr;
  std::size_t count_;
};

// A table with an arena and frames; block b lies in frame b unless a test says otherwise.
class World {
 public:
  explicit World(const Shape& shape)
      : shape_(shape),
        sizes_{shape.slots, shape.blocks, shape.pages_per_block, 4, shape.log_capacity, 64},
        device_part_(split_offsets_of(sizes_).device_end),
        arena_(shape.slots * shape.page_bytes),
        ready_(std::vector<std::uint32_t>{shape.blocks}),
        current_(shape.blocks, 0) {
    const std::uint64_t host_bytes = split_offsets_of(sizes_).host_end;
    EXPECT_EQ(cudaHostAlloc(&host_part_, host_bytes, cudaHostAllocMapped), cudaSuccess);
    std::memset(host_part_, 0, host_bytes);
    stride_ = (shape.page_bytes * shape.pages_per_block + 4095) / 4096 * 4096;
    EXPECT_EQ(cudaHostAlloc(&frames_, stride_ * shape.blocks, cudaHostAllocMapped), cudaSuccess);
    for (Frame frame = 0; frame < shape.blocks; ++frame) fill_frame(frame, frame);
    table_ = view_split_table(device_part_.data(), host_part_, sizes_);
    daemons_ = view_host_part(host_part_, sizes_);
    store_.arena = reinterpret_cast<std::byte*>(arena_.data());
    store_.frames = static_cast<std::byte*>(frames_);
    store_.page_bytes = shape.page_bytes;
    store_.frame_stride = stride_;
    store_.slots = shape.slots;
    store_.frames_ready = ready_.data();
    writer_.current = current_.data();
    EXPECT_EQ(cuda::format(table_, nullptr), 0);
    for (Block block = 0; block < shape.blocks; ++block) set_frame(block, block);
  }
  ~World() {
    cudaDeviceSynchronize();
    cudaFreeHost(host_part_);
    cudaFreeHost(frames_);
  }

  // The frame holds the bytes of the block that is called `content`.
  void fill_frame(Frame frame, Frame content) {
    auto* const at = static_cast<std::byte*>(frames_) + frame * stride_;
    for (std::uint32_t page = 0; page < shape_.pages_per_block; ++page) {
      for (std::uint64_t i = 0; i < shape_.page_bytes; ++i) {
        at[page * shape_.page_bytes + i] = byte_of(content, page, i);
      }
    }
  }
  void set_frame(Block block, Frame frame) {
    append_log(daemons_, writer_, block, frame);
    apply_log(daemons_);
  }

  Page page(Block block, std::uint32_t in_block) const {
    return page_number(table_, block, in_block);
  }

  // Whether the slot holds page `in_block` of the content.
  bool holds(Slot slot, Frame content, std::uint32_t in_block) const {
    std::vector<std::byte> bytes(shape_.page_bytes);
    EXPECT_EQ(
        cudaMemcpy(bytes.data(), slot_bytes(store_, slot), bytes.size(), cudaMemcpyDeviceToHost),
        cudaSuccess);
    for (std::uint64_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] != byte_of(content, in_block, i)) return false;
    }
    return true;
  }
  // How many of the pages have a slot that does not hold their bytes.
  std::size_t wrong(const std::vector<std::int32_t>& pages,
                    const std::vector<std::int32_t>& slots) {
    const std::vector<std::uint8_t> all = arena_.get();
    std::size_t count = 0;
    for (std::size_t i = 0; i < pages.size(); ++i) {
      if (pages[i] < 0 || slots[i] < 0) continue;
      if (static_cast<std::uint32_t>(slots[i]) >= shape_.slots) {
        ++count;
        continue;
      }
      const auto page = static_cast<Page>(pages[i]);
      const Block block = block_of(table_, page);
      const std::uint32_t in_block = page_in_block(table_, page);
      const auto* const at = &all[static_cast<std::size_t>(slots[i]) * shape_.page_bytes];
      for (std::uint64_t j = 0; j < shape_.page_bytes; ++j) {
        if (static_cast<std::byte>(at[j]) != byte_of(block, in_block, j)) {
          ++count;
          break;
        }
      }
    }
    return count;
  }

  ActorCounters counters(std::uint32_t actor) const {
    ActorCounters counters;
    EXPECT_EQ(cudaMemcpy(&counters, &actor_line(table_, actor)->counters, sizeof counters,
                         cudaMemcpyDeviceToHost),
              cudaSuccess);
    return counters;
  }
  std::vector<Word> words() const {
    std::vector<Word> words(shape_.slots);
    EXPECT_EQ(cudaMemcpy(words.data(), table_.words, words.size() * 8, cudaMemcpyDeviceToHost),
              cudaSuccess);
    return words;
  }

  const Shape shape_;
  const TableSizes sizes_;
  std::uint64_t stride_ = 0;
  DeviceArray<std::uint8_t> device_part_;
  DeviceArray<std::uint8_t> arena_;
  DeviceArray<std::uint32_t> ready_;
  void* host_part_ = nullptr;
  void* frames_ = nullptr;
  std::vector<std::uint64_t> current_;
  FrameLogWriter writer_;
  HotTable table_;
  HotTable daemons_;
  PageStore store_;
};

// One actor with a stream, and room for its lists.
class User {
 public:
  User(World& world, std::uint32_t actor, std::uint32_t lists, std::uint32_t stride)
      : world_(world),
        actor_(actor),
        items(std::size_t{lists} * stride),
        slots(std::size_t{lists} * stride),
        outcomes(std::size_t{lists} * stride),
        none(1),
        scratch_(cuda::resolve_scratch_bytes(lists, stride, 1)) {
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    batch.items = items.data();
    batch.slots = slots.data();
    batch.outcomes = outcomes.data();
    batch.without_slot = none.data();
    batch.lists = lists;
    batch.item_stride = stride;
  }
  ~User() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }

  void enter() { ASSERT_EQ(cuda::enter_step(world_.table_, actor_, stream_), 0); }
  void leave() { ASSERT_EQ(cuda::leave_step(world_.table_, actor_, stream_), 0); }
  void launch() {
    ASSERT_EQ(cuda::resolve(world_.table_, world_.store_, actor_, batch, arrangement,
                            scratch_.data(), stream_),
              0);
  }
  void finish() {
    const cudaError_t error = cudaStreamSynchronize(stream_);
    ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  }
  // A whole resolve of these pages, in a step.
  std::vector<std::int32_t> resolve(const std::vector<std::int32_t>& pages) {
    items.set(pages);
    slots.set(std::vector<std::int32_t>(slots.size(), -2));
    launch();
    finish();
    return slots.get();
  }
  std::vector<std::int32_t> step(const std::vector<std::int32_t>& pages) {
    enter();
    auto found = resolve(pages);
    leave();
    finish();
    return found;
  }

 private:
  World& world_;
  std::uint32_t actor_;
  cudaStream_t stream_ = nullptr;

 public:
  DeviceArray<std::int32_t> items;
  DeviceArray<std::int32_t> slots;
  DeviceArray<Outcome> outcomes;
  DeviceArray<std::uint32_t> none;
  cuda::ResolveBatch batch;
  cuda::Arrangement arrangement;
  cudaStream_t stream() const { return stream_; }
  DeviceArray<std::uint8_t> scratch_;
};

inline Step step_of_actor(const World& world, std::uint32_t actor) {
  ActorLine line;
  EXPECT_EQ(cudaMemcpy(&line, actor_line(world.table_, actor), sizeof line, cudaMemcpyDeviceToHost),
            cudaSuccess);
  return line.step & kStepMask;
}

// The page's fill into the slot was begun and not ended.
inline void pose_unfinished(const World& world, std::int32_t page, Slot slot, Step step) {
  const Word word = make_word(static_cast<Page>(page), step, false, false);
  const std::uint32_t hint = ~static_cast<std::uint32_t>(slot);
  CUDA_OK(cudaMemcpy(&world.table_.words[slot], &word, sizeof word, cudaMemcpyHostToDevice));
  CUDA_OK(cudaMemcpy(&world.table_.slot_of[page], &hint, sizeof hint, cudaMemcpyHostToDevice));
}

inline std::vector<std::int32_t> random_pages(std::mt19937& random, std::uint32_t pages,
                                              std::size_t count) {
  std::vector<std::int32_t> all(pages);
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(count);
  return all;
}

}  // namespace sluice::kernels
