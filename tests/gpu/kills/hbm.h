// How much of a GPU's memory is in use, by whomever; asked without a CUDA context of this process,
// which forks: of the driver's management library, or else by a process for each answer.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <string>

#include "ipc/error.h"

namespace sluice::test::kills {

// Makes a CUDA context in this process.
bool make_context();

class HbmMeter {
 public:
  // The GPU with ordinal 0, whose UUID is `uuid`.
  explicit HbmMeter(const std::string& uuid);

  // Errors: io_error. A process that asks counts its own context, each time the same.
  ipc::Result<std::uint64_t> used() const;

  const char* source() const { return device_ != nullptr ? "nvml" : "a process"; }

 private:
  struct Memory {  // nvmlMemory_t
    unsigned long long total, free, used;
  };
  using GetMemory = int (*)(void*, Memory*);

  GetMemory get_memory_ = nullptr;
  void* device_ = nullptr;
};

}  // namespace sluice::test::kills
