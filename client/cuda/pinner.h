// Registers the DRAM extents of a cache with the device, one after another in a thread of its own:
// the kernel needs 20 to 40 ms per GiB, which no step should wait for.
//
// An extent's mark, in device memory, is set when its registration is complete; kernels take a page
// whose extent is not marked as absent. After an error the thread stops until retry().
//
// Thread-safety: any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "client/cuda/driver.h"
#include "client/cuda/memory.h"
#include "ipc/deadline.h"
#include "ipc/error.h"

namespace sluice::client::internal::cuda {

class Pinner {
 public:
  // `frames`: where extents are mapped; it and `context` outlive the object. `registered`: bytes
  // that the cache has registered beside.
  static ipc::Result<std::unique_ptr<Pinner>> make(const Context& context, std::byte* frames,
                                                   std::uint64_t extent_bytes,
                                                   std::uint32_t most_extents,
                                                   std::uint64_t registered);
  // Stops, and unregisters everything; no kernel may read the extents any more.
  ~Pinner();

  const std::uint8_t* marks() const { return marks_.at<std::uint8_t>(); }
  std::uint64_t device_bytes() const { return marks_.size(); }

  // So many extents are mapped now.
  void pin(std::uint32_t extents);
  std::uint32_t pinned() const;
  ipc::Status status() const;
  void retry();
  // Errors: timed_out, and why pinning stopped.
  ipc::Status wait(std::uint32_t extents, ipc::Deadline deadline);

 private:
  Pinner(const Context& context, std::byte* frames, std::uint64_t extent_bytes,
         std::uint64_t registered)
      : context_(context), frames_(frames), extent_bytes_(extent_bytes), registered_(registered) {}
  void run();
  ipc::Result<Registration> register_extent(std::uint32_t extent) const;

  const Context& context_;
  std::byte* const frames_;
  const std::uint64_t extent_bytes_;
  const std::uint64_t registered_;
  OwnStream stream_;
  DeviceBuffer marks_;

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
