#include <algorithm>
#include <bit>
#include <string>

#include "tools/replay/cuda/memory.h"
#include "tools/replay/cuda/slot_kernels.h"
#include "tools/replay/slot_memory.h"

namespace sluice::tools {
namespace {

using client::Error;
using client::Result;
using client::Status;
using cuda::check;

constexpr std::size_t kLeastPages = 1024;

class CudaSlots final : public SlotMemory {
 public:
  CudaSlots(const PayloadShape& shape, const sluice_arena_view& arena)
      : shape_(shape), arena_(arena) {}
  ~CudaSlots() override {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }

  Status open() {
    if (auto s = check(cudaSetDevice(arena_.device_id), "choosing the device"); !s) return s;
    return check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }

  Status write(std::span<const SlotPage> pages) override {
    if (pages.empty()) return {};
    if (auto s = send(pages); !s) return s;
    return check(static_cast<cudaError_t>(
                     cuda::write_slots(shape_, base(), buffer_.device<SlotPage>(kPages),
                                       static_cast<std::uint32_t>(pages.size()), stream_)),
                 "writing slots");
  }

  Status settle() override { return check(cudaStreamSynchronize(stream_), "writing slots"); }

  Status compare(std::span<const SlotPage> pages, Comparison& out) override {
    out.different = 0;
    out.places.clear();
    if (pages.empty()) return {};
    if (auto s = send(pages); !s) return s;
    if (auto s = check(static_cast<cudaError_t>(
                           cuda::compare_slots(shape_, base(), buffer_.device<SlotPage>(kPages),
                                               static_cast<std::uint32_t>(pages.size()),
                                               buffer_.device<cuda::Compared>(), stream_)),
                       "comparing slots");
        !s) {
      return s;
    }
    if (auto s = buffer_.to_host(0, sizeof(cuda::Compared), stream_); !s) return s;
    if (auto s = check(cudaStreamSynchronize(stream_), "comparing slots"); !s) return s;
    const cuda::Compared found = *buffer_.host<cuda::Compared>();
    out.different = found.different;
    if (found.different == 0) return {};
    const std::size_t index = found.first >> 32;
    if (index >= pages.size()) {
      return std::unexpected(Error{SLUICE_INTERNAL, "the comparison on the device names page " +
                                                        std::to_string(index) + " of " +
                                                        std::to_string(pages.size())});
    }
    out.places.push_back({index, found.first & 0xFFFFFFFFu});
    return {};
  }

  void* stream() const override { return stream_; }

 private:
  static constexpr std::size_t kPages = 64;  // where they begin in the buffer, after the result

  std::byte* base() const { return static_cast<std::byte*>(arena_.base); }

  // A write is not waited for, so the pages of the one before may still be on their way.
  Status send(std::span<const SlotPage> pages) {
    if (auto s = check(cudaStreamSynchronize(stream_), "the work before"); !s) return s;
    const std::size_t bytes = kPages + pages.size() * sizeof(SlotPage);
    if (bytes > buffer_.size()) {
      const std::size_t room = std::bit_ceil(std::max(pages.size(), kLeastPages));
      if (auto s = buffer_.resize(kPages + room * sizeof(SlotPage)); !s) return s;
    }
    *buffer_.host<cuda::Compared>() = {0, ~0ull};
    std::copy(pages.begin(), pages.end(), buffer_.host<SlotPage>(kPages));
    return buffer_.to_device(0, bytes, stream_);
  }

  const PayloadShape shape_;
  const sluice_arena_view arena_;
  cudaStream_t stream_ = nullptr;
  cuda::PairedBuffer buffer_;
};

}  // namespace

Result<std::unique_ptr<SlotMemory>> make_cuda_slots(const PayloadShape& shape,
                                                    const sluice_arena_view& arena) {
  auto slots = std::make_unique<CudaSlots>(shape, arena);
  if (auto s = slots->open(); !s) return std::unexpected(s.error());
  return slots;
}

}  // namespace sluice::tools
