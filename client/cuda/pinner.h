// Registers the DRAM extents of a cache with the device, one after another in a thread of its own:
// the kernel needs 20 to 40 ms per GiB, which no step should wait for.
//
// How many frames are registered stands in device memory; kernels take a page of a frame that is
// not as absent. After an error the thread stops until retry().
//
// Thread-safety: any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "client/cuda/driver.h"
#include "client/cuda/memory.h"
#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal::cuda {

class Pinner {
 public:
  // Told of bytes that are registered, or not any more (negative); by any thread.
  using Told = std::function<void(std::int64_t bytes)>;

  // `frames`: where extents are mapped; it and `context` outlive the object. `registered`: bytes
  // that the cache has registered beside.
  static ipc::Result<std::unique_ptr<Pinner>> make(const Context& context, std::byte* frames,
                                                   std::uint64_t extent_bytes,
                                                   std::uint32_t frames_per_extent,
                                                   std::uint32_t most_extents,
                                                   std::uint64_t registered, Told told);
  // Stops, and unregisters everything; no kernel may read the extents any more.
  ~Pinner();

  // In device memory.
  const std::uint32_t* frames_ready() const { return frames_ready_.at<std::uint32_t>(); }
  std::uint64_t device_bytes() const { return frames_ready_.size(); }

  // So many extents are mapped now.
  void pin(std::uint32_t extents);
  std::uint32_t pinned() const;
  ipc::Status status() const;
  void retry();
  // Errors: timed_out, and why pinning stopped.
  ipc::Status wait(std::uint32_t extents, ipc::Deadline deadline);

 private:
  Pinner(const Context& context, std::byte* frames, std::uint64_t extent_bytes,
         std::uint32_t frames_per_extent, std::uint64_t registered, Told told)
      : context_(context),
        frames_(frames),
        extent_bytes_(extent_bytes),
        frames_per_extent_(frames_per_extent),
        registered_(registered),
        told_(std::move(told)) {}
  void run();
  ipc::Result<Registration> register_extent(std::uint32_t extent) const;

  const Context& context_;
  std::byte* const frames_;
  const std::uint64_t extent_bytes_;
  const std::uint32_t frames_per_extent_;
  const std::uint64_t registered_;
  const Told told_;
  OwnStream stream_;
  DeviceBuffer frames_ready_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Registration> extents_;  // in order; only the thread adds to it
  std::uint32_t wanted_ = 0;
  std::uint32_t done_ = 0;
  ipc::Error failure_{ipc::Errc::ok, {}};
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace sluice::client::internal::cuda
