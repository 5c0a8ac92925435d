#include "daemon/device_worker/cuda_arena.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "daemon/device_worker/cuda_memory.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "kernels/cuda/launch.h"
#include "kernels/page_store.h"

namespace sluice::device_worker {

using ipc::Errc;
using ipc::fail;
using kernels::cuda::ResolveBatch;

namespace {

// What kernels read and write of a request, in device memory: the lists, then a block's number and
// its frame.
struct Places {
  static constexpr std::size_t kNumbers = (ListMemory::kBytes + 15) / 16 * 16;
  static constexpr std::size_t kBlock = kNumbers;
  static constexpr std::size_t kFrame = kNumbers + 4;
  static constexpr std::size_t kBytes = kNumbers + 16;
};

class OwnStream {
 public:
  OwnStream() = default;
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  cudaError_t make() { return cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaArena final : public Arena {
 public:
  CudaArena(int device, const kernels::HotTable& table, const ArenaShape& shape,
            std::function<ipc::Error(ipc::Error)> judge)
      : device_(device), table_(table), shape_(shape), judge_(std::move(judge)) {}

  ~CudaArena() override {
    (void)cudaDeviceSynchronize();
    for (std::byte* const extent : pinned_) (void)cudaHostUnregister(extent);
  }

  ipc::Status prepare(const ipc::Fd& lists) {
    int same_address = 0;
    if (auto ok = done(cudaDeviceGetAttribute(
                           &same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, device_),
                       "asking for the device");
        !ok) {
      return ok;
    }
    if (same_address == 0) {
      return fail(Errc::not_supported,
                  "this GPU cannot use registered host memory at its own address");
    }
    if (auto ok = done(stream_.make(), "a CUDA stream"); !ok) return ok;
    auto mapped = PinnedMapping::map(lists, ListMemory::kBytes, "memory for lists");
    if (!mapped) return std::unexpected(std::move(mapped.error()));
    lists_ = std::move(*mapped);
    auto range = DeviceRange::reserve(device_, shape_.arena_bytes());
    if (!range) return std::unexpected(std::move(range.error()));
    arena_ = std::move(*range);
    auto frames = ipc::ReservedRange::reserve(shape_.frames_bytes(), "the frames of a cache");
    if (!frames) return std::unexpected(std::move(frames.error()));
    frames_ = std::move(*frames);
    for (const auto& [buffer, bytes] :
         {std::pair{&device_lists_, Places::kBytes},
          std::pair{&frames_ready_, sizeof(std::uint32_t)},
          std::pair{&resolve_scratch_, kernels::cuda::resolve_scratch_bytes(1, kMaxListItems, 0)},
          std::pair{&forecast_scratch_, kernels::cuda::kForecastScratchBytes}}) {
      auto made = DeviceBuffer::make_zeroed(bytes, "memory for lists");
      if (!made) return std::unexpected(std::move(made.error()));
      *buffer = std::move(*made);
    }
    store_.arena = static_cast<std::byte*>(arena_.data());
    store_.frames = frames_.data();
    store_.page_bytes = shape_.page_bytes;
    store_.frame_stride = shape_.frame_stride;
    store_.frames_ready = frames_ready_.at<std::uint32_t>();
    return done(kernels::cuda::load(), "loading the kernels");
  }

  const ArenaShape& shape() const override { return shape_; }

  std::uint32_t mapped(ipc::Tier tier) const override {
    return tier == ipc::Tier::hbm ? slot_extents_ : static_cast<std::uint32_t>(pinned_.size());
  }

  ipc::Status map(ipc::Tier tier, const ipc::Fd& extent) override {
    return judged(tier == ipc::Tier::hbm ? map_slots(extent) : pin_frames(extent));
  }

  ipc::Status enter_step(std::uint32_t actor) override {
    auto entered = run("the begin of a step",
                       [&] { return kernels::cuda::enter_step(table_, actor, stream_.get()); });
    if (entered) entered_.insert(actor);
    return entered;
  }

  ipc::Status leave_step(std::uint32_t actor) override {
    return run("the end of a step",
               [&] { return kernels::cuda::leave_step(table_, actor, stream_.get()); });
  }

  ipc::Status resolve(std::uint32_t actor, std::uint32_t items) override {
    if (auto ok = take_items(items); !ok) return ok;
    return run(
        "a resolve",
        [&]() -> kernels::cuda::Status {
          // A worker that began this step may have died over a resolve of it.
          if (!entered_.contains(actor)) {
            if (const auto failed = kernels::cuda::share_step(table_, actor, stream_.get())) {
              return failed;
            }
            entered_.insert(actor);
          }
          return kernels::cuda::resolve(table_, store_, actor, batch(items), {},
                                        resolve_scratch_.data(), stream_.get());
        },
        items);
  }

  ipc::Status forecast(std::uint32_t actor, std::uint32_t items, std::uint32_t min_age,
                       std::uint64_t budget_bytes) override {
    if (auto ok = take_items(items); !ok) return ok;
    kernels::cuda::ForecastGoal goal;
    goal.budget_bytes = budget_bytes;
    goal.min_age = min_age;
    return run(
        "a forecast",
        [&] {
          const cudaStream_t stream = stream_.get();
          if (const auto entered = kernels::cuda::enter_step(table_, actor, stream); entered != 0) {
            return entered;
          }
          const auto enqueued = kernels::cuda::forecast(table_, store_, actor, batch(items), goal,
                                                        forecast_scratch_.data(), stream);
          const auto left = kernels::cuda::leave_step(table_, actor, stream);
          return enqueued != 0 ? enqueued : left;
        },
        items);
  }

  ipc::Status claim_pins(std::uint32_t actor, std::uint32_t block) override {
    if (auto ok = take_numbers(block, 0); !ok) return ok;
    return run(
        "a claim of pinned slots",
        [&] {
          return kernels::cuda::claim_pins(table_, table_.sizes.slots, actor,
                                           number(Places::kBlock), 1, slots(), stream_.get());
        },
        table_.sizes.pages_per_block);
  }

  // After a restart of the daemon: two small copies for each page.
  ipc::Status find_pins(std::uint32_t block) override {
    const ListMemory host{lists_.on_host()};
    for (std::uint32_t i = 0; i < table_.sizes.pages_per_block; ++i) {
      const kernels::Page page = kernels::page_number(table_, block, i);
      auto stored = copied(&table_.slot_of[page], "the hint of a page");
      if (!stored) return std::unexpected(std::move(stored.error()));
      // As kernels::slot_hint reads it.
      const auto slot = static_cast<kernels::Slot>(~*stored);
      host.slots()[i] = kernels::kNoSlot;
      if (!kernels::is_slot(table_, slot)) continue;
      auto word = copied(&table_.words[slot], "the word of a slot");
      if (!word) return std::unexpected(std::move(word.error()));
      if (kernels::page_of(*word) == page && kernels::is_pinned(*word)) host.slots()[i] = slot;
    }
    return {};
  }

  ipc::Status seal_pins(std::uint32_t actor, std::uint32_t block) override {
    if (auto ok = take_slots(block, 0); !ok) return ok;
    return run("the seal of pinned slots", [&] {
      return kernels::cuda::seal_pins(table_, actor, number(Places::kBlock), 1, slots(),
                                      stream_.get());
    });
  }

  ipc::Status copy_block(std::uint32_t frame, bool to_frame) override {
    if (auto ok = take_slots(0, frame); !ok) return ok;
    return run("a copy of a block", [&] {
      return to_frame ? kernels::cuda::copy_to_frames(table_, store_, frames_.data(), slots(),
                                                      number(Places::kFrame), 1, stream_.get())
                      : kernels::cuda::copy_to_slots(table_, store_, slots(),
                                                     number(Places::kFrame), 1, stream_.get());
    });
  }

 private:
  ipc::Status judged(ipc::Status status) const {
    if (status) return status;
    return std::unexpected(judge_(std::move(status.error())));
  }
  ipc::Status done(int status, const char* what) const {
    if (status == cudaSuccess) return {};
    return std::unexpected(judge_(cuda_error(status, what)));
  }

  ipc::Status map_slots(const ipc::Fd& extent) {
    if (auto mapped = arena_.append(extent, shape_.slot_extent_bytes); !mapped) return mapped;
    ++slot_extents_;
    const std::uint64_t whole = slot_extents_ * shape_.slot_extent_bytes / shape_.page_bytes;
    store_.slots = static_cast<std::uint32_t>(std::min<std::uint64_t>(whole, table_.sizes.slots));
    return {};
  }

  ipc::Status pin_frames(const ipc::Fd& extent) {
    constexpr const char* kWhat = "a DRAM extent";
    const std::uint64_t bytes = shape_.frame_extent_bytes;
    if (auto ok = ipc::check_memfd(extent.get(), bytes, kWhat); !ok) return ok;
    const std::uint64_t offset = pinned_.size() * bytes;
    if (auto mapped =
            frames_.map_at(offset, extent.get(), 0, bytes, ipc::Access::read_write, kWhat);
        !mapped) {
      return mapped;
    }
    std::byte* const address = frames_.data() + offset;
    const cudaError_t pinned =
        cudaHostRegister(address, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
    if (pinned != cudaSuccess) return std::unexpected(pin_error(pinned, kWhat, bytes, offset));
    pinned_.push_back(address);
    const auto ready = static_cast<std::uint32_t>(pinned_.size() * shape_.frames_per_extent);
    return done(cudaMemcpy(frames_ready_.data(), &ready, sizeof(ready), cudaMemcpyHostToDevice),
                "saying that a DRAM extent is pinned");
  }

  ResolveBatch batch(std::uint32_t items) const {
    ResolveBatch batch;
    batch.items = device_lists_.at<std::int32_t>();
    batch.slots = slots();
    batch.outcomes = device_lists_.at<kernels::Outcome>(ListMemory::kOutcomes);
    batch.lists = 1;
    batch.item_stride = items;
    batch.kind = kernels::cuda::ItemKind::page;
    return batch;
  }

  kernels::Slot* slots() const { return device_lists_.at<kernels::Slot>(ListMemory::kSlots); }
  std::uint32_t* number(std::size_t place) const { return device_lists_.at<std::uint32_t>(place); }

  ipc::Status to_device(std::size_t offset, const void* from, std::size_t bytes) {
    return done(cudaMemcpyAsync(device_lists_.at<std::byte>(offset), from, bytes,
                                cudaMemcpyHostToDevice, stream_.get()),
                "lists for the GPU");
  }

  ipc::Status take_items(std::uint32_t items) {
    return to_device(0, lists_.on_host(), items * sizeof(std::int32_t));
  }

  ipc::Status take_numbers(std::uint32_t block, std::uint32_t frame) {
    numbers_ = {block, frame};
    return to_device(Places::kBlock, numbers_.data(), sizeof(numbers_));
  }

  ipc::Status take_slots(std::uint32_t block, std::uint32_t frame) {
    const std::size_t pages = table_.sizes.pages_per_block;
    const ListMemory host{lists_.on_host()};
    for (std::size_t i = 0; i < pages; ++i) {
      if (host.slots()[i] >= 0 && static_cast<std::uint32_t>(host.slots()[i]) < store_.slots) {
        continue;
      }
      return fail(Errc::peer_violation, "slot " + std::to_string(host.slots()[i]) +
                                            " of an arena of " + std::to_string(store_.slots));
    }
    if (auto ok = take_numbers(block, frame); !ok) return ok;
    return to_device(ListMemory::kSlots, host.slots(), pages * sizeof(kernels::Slot));
  }

  template <class T>
  ipc::Result<T> copied(const T* from, const char* what) {
    T value{};
    if (auto ok = done(cudaMemcpy(&value, from, sizeof(T), cudaMemcpyDeviceToHost), what); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return value;
  }

  // Has `enqueue` launch its kernels, and waits; then `results` slots and outcomes are with the
  // lists.
  template <class Enqueue>
  ipc::Status run(const char* what, Enqueue&& enqueue, std::uint32_t results = 0) {
    if (auto ok = done(std::forward<Enqueue>(enqueue)(), what); !ok) return ok;
    if (results > 0) {
      for (const auto& [offset, bytes] :
           {std::pair{ListMemory::kSlots, results * sizeof(kernels::Slot)},
            std::pair{ListMemory::kOutcomes, results * sizeof(kernels::Outcome)}}) {
        if (auto ok =
                done(cudaMemcpyAsync(lists_.on_host() + offset, device_lists_.at<std::byte>(offset),
                                     bytes, cudaMemcpyDeviceToHost, stream_.get()),
                     what);
            !ok) {
          return ok;
        }
      }
    }
    return done(cudaStreamSynchronize(stream_.get()), what);
  }

  const int device_;
  const kernels::HotTable table_;
  const ArenaShape shape_;
  const std::function<ipc::Error(ipc::Error)> judge_;
  OwnStream stream_;
  PinnedMapping lists_;
  DeviceRange arena_;
  std::uint32_t slot_extents_ = 0;
  ipc::ReservedRange frames_;
  std::vector<std::byte*> pinned_;  // extents, in order
  DeviceBuffer device_lists_;
  DeviceBuffer frames_ready_;
  DeviceBuffer resolve_scratch_;
  DeviceBuffer forecast_scratch_;
  kernels::PageStore store_;
  std::unordered_set<std::uint32_t> entered_;  // actors, by us, or whose step we share
  std::array<std::uint32_t, 2> numbers_{};     // read until the stream has passed
};

}  // namespace

ipc::Result<std::unique_ptr<Arena>> make_cuda_arena(int device, const kernels::HotTable& table,
                                                    const ArenaShape& shape, const ipc::Fd& lists,
                                                    std::function<ipc::Error(ipc::Error)> judge) {
  auto arena = std::make_unique<CudaArena>(device, table, shape, std::move(judge));
  if (auto ok = arena->prepare(lists); !ok) return std::unexpected(std::move(ok.error()));
  return arena;
}

}  // namespace sluice::device_worker
