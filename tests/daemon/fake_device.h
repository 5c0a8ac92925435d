// A device worker without a device: a program that speaks the worker's protocol, with memfds for
// HBM and the CPU's functions for kernels, and a way for a test to be in its way.
//
// Both map one control block from a file; the worker finds it by an environment variable.
// Thread-safety: atomics.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "daemon/device_worker/protocol.h"

namespace sluice::test {

inline constexpr const char* kFakeDeviceVariable = "SLUICE_FAKE_DEVICE";
inline constexpr const char* kFakeMpsDirectory = "/nowhere/nvidia-mps";
inline constexpr std::uint64_t kFakeGranularity = std::uint64_t{2} << 20;
inline constexpr std::uint64_t kFakeHbmBytes = std::uint64_t{256} << 20;
inline constexpr std::uint32_t kFakeGpus = 2;
inline constexpr device_worker::Uuid kFakeUuid = {0xfa, 0x4e, 1, 2,  3,  4,  5,  6,
                                                  7,    8,    9, 10, 11, 12, 13, 14};
// No device of any machine: buses end at ff.
inline std::string fake_pci_bus_id(std::uint32_t gpu) {
  return "fa4e:0" + std::to_string(gpu) + ":00.0";
}
constexpr device_worker::Uuid fake_uuid(std::uint32_t gpu) {
  device_worker::Uuid uuid = kFakeUuid;
  uuid.back() += static_cast<std::uint8_t>(gpu);
  return uuid;
}

using Request = device_worker::wire::Body;

struct FakeDeviceControl {
  static constexpr int kRequests = 32;  // more than there are kinds

  std::atomic<std::uint32_t> started{0};                   // workers
  std::atomic<std::uint32_t> pid{0};                       // of the last one
  std::atomic<std::uint32_t> under_mps{0};                 // workers that were told of a server
  std::atomic<std::uint32_t> asked[kRequests] = {};        // by kind of request
  std::atomic<std::uint32_t> deaths[kRequests] = {};       // so many workers die when asked for it
  std::atomic<std::uint32_t> late_deaths[kRequests] = {};  // or when it is done, before they say so
  std::atomic<std::uint32_t> hangs[kRequests] = {};        // so many workers wait for ever
  std::atomic<std::uint32_t> held[kRequests] = {};         // all wait while this is not 0
  std::atomic<std::uint32_t> errors[kRequests] = {};       // so many get an error of the GPU

  std::atomic<std::uint32_t> lost{0};                   // so many workers get no context
  std::atomic<std::uint32_t> asked_of[kFakeGpus] = {};  // by GPU, whatever for
  std::atomic<std::uint32_t> held_gpu{~0U};             // the workers of this one wait

  std::atomic<std::uint32_t> nonsense[kRequests] = {};  // so many say what no worker says

  std::atomic<std::uint32_t>& of(std::atomic<std::uint32_t> (&counts)[kRequests], Request kind) {
    return counts[static_cast<int>(kind)];
  }
};

// The test's end: makes the file, and says to workers to come where it is.
class FakeDevice {
 public:
  FakeDevice();
  ~FakeDevice();
  FakeDevice(const FakeDevice&) = delete;
  FakeDevice& operator=(const FakeDevice&) = delete;

  FakeDeviceControl* operator->() const { return control_; }

  // The program, beside the test's own.
  static std::string program();

 private:
  std::string file_;
  FakeDeviceControl* control_ = nullptr;
};

FakeDeviceControl* map_fake_device(const std::string& file);

}  // namespace sluice::test
