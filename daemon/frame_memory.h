// The DRAM extents of a cache. Its arenas share them: a frame has the same number, and the same
// bytes, for all devices.
//
// Extents come and go; they are made in the order of their indices, without holes, because clients
// map them in that order. The descriptor of one that was given back stays, so that holders of old
// mappings see zeros and a later grant of the same index reaches them.
//
// Thread-safety: what changes extents ("worker") one call at a time; the rest from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "daemon/device.h"
#include "daemon/residency/types.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/mapping.h"

namespace sluice::daemon {

class FrameMemory {
 public:
  // Addresses, and no memory yet. Errors: no_memory.
  static ipc::Result<std::unique_ptr<FrameMemory>> create(const residency::CacheShape& sizes);

  // With the extents of a daemon of before, from index 0 on; all of them have memory, or had it
  // once. Errors: no_memory, invalid_argument (one is not of the right size).
  static ipc::Result<std::unique_ptr<FrameMemory>> adopt(const residency::CacheShape& sizes,
                                                         Device& device,
                                                         std::vector<ipc::Fd> extents);

  // ---- worker

  // Makes extent `extent` with memory of `device`'s choice, or takes memory for it again after a
  // release. A new one is given to `keep` before anybody can learn of it: another file of the same
  // index, in a later life of the daemon, would not do for who has mapped this one. Errors:
  // no_memory, limit_reached, io_error.
  ipc::Status grant(
      Device& device, std::uint32_t extent, const std::function<void(int fd)>& keep = [](int) {});
  // Gives the memory back to the node.
  void release(std::uint32_t extent);
  // Frees the last extent, whoever has a descriptor of it. False: there was none left.
  bool free_piece(Device& device);

  // ---- any thread

  std::uint64_t extent_bytes() const { return extent_bytes_; }
  // One past the highest extent that was ever made.
  std::uint32_t extents() const { return extents_.load(std::memory_order_acquire); }
  // Their descriptors, which stay open as long as this object.
  const std::vector<ipc::Fd>& fds() const { return fds_; }
  std::byte* data() const { return range_.data(); }
  // Frames below this number may be read. Written with release.
  const std::uint32_t* ready() const { return &ready_; }

 private:
  FrameMemory() = default;

  std::uint64_t extent_bytes_ = 0;
  std::uint32_t frames_per_extent_ = 0;
  ipc::ReservedRange range_;
  std::vector<ipc::Fd> fds_;  // of its final size from the start: never moves
  std::uint32_t ready_ = 0;
  std::atomic<std::uint32_t> extents_{0};
};

}  // namespace sluice::daemon
