// The rows of a cache's sequences in device memory: for each, the attached ids of its blocks, as
// the kernels of a plan read them.
//
// An array of ids grows by doubling; the one before stays as it was until the row is removed, since
// a launch under way may read it. Arrays come from chunks that live as long as the object, because
// freeing device memory waits for the whole device.
//
// Thread-safety: any thread, with the context current.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <vector>

#include "client/cuda/memory.h"
#include "ipc/error.h"
#include "kernels/cuda/launch.h"

namespace sluice::client::internal::cuda {

class SequenceRows {
 public:
  using Ids = std::span<const std::uint32_t>;

  // The table, made when it is first asked for: it takes 1 MiB. Errors: no_memory, io_error.
  ipc::Result<const kernels::cuda::SequenceRow*> table();

  // Errors: limit_reached, no_memory, io_error.
  ipc::Result<std::uint32_t> add(Ids ids);
  ipc::Status update(std::uint32_t row, Ids ids, std::size_t first_changed);
  void remove(std::uint32_t row);

  std::uint64_t device_bytes() const;

 private:
  static constexpr std::uint32_t kLeastIds = 64;  // of an array
  static constexpr std::uint32_t kSizes = 26;     // arrays of kLeastIds << size ids
  static constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

  struct Array {
    std::uint32_t* ids = nullptr;
    std::uint32_t size = 0;
  };
  struct Row {
    std::vector<Array> arrays;  // the last one is in use
  };

  ipc::Status make_table();
  ipc::Result<Array> allocate(std::size_t ids);
  ipc::Status write(std::uint32_t row, Ids ids, std::size_t first_changed);
  ipc::Status copy(void* to, const void* from, std::size_t bytes);
  ipc::Status wait();
  void give_back(std::uint32_t row);

  mutable std::mutex mutex_;
  OwnStream stream_;
  DeviceBuffer table_;
  std::vector<Row> rows_;
  std::vector<std::uint32_t> free_rows_;
  std::vector<DeviceBuffer> chunks_;
  std::size_t chunk_left_ = 0;  // bytes of the last chunk that nobody has
  std::array<std::vector<std::uint32_t*>, kSizes> free_arrays_;
};

}  // namespace sluice::client::internal::cuda
