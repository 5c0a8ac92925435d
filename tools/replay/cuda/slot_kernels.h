// Kernels that write payload into slots and compare slots with it.
//
// Everything is enqueued in `stream`, a cudaStream_t; pages and results lie in device memory.
// Returns a cudaError_t.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tools/replay/payload_words.h"
#include "tools/replay/slot_page.h"

namespace sluice::tools::cuda {

// Zeroed `different`, and all ones in `first`, before a comparison.
struct Compared {
  unsigned long long different;  // pages
  unsigned long long first;      // page that differs << 32 | offset of its first such byte; or ones
};

int write_slots(const PayloadShape& shape, std::byte* arena, const SlotPage* pages,
                std::uint32_t count, void* stream);
int compare_slots(const PayloadShape& shape, const std::byte* arena, const SlotPage* pages,
                  std::uint32_t count, Compared* result, void* stream);

}  // namespace sluice::tools::cuda
