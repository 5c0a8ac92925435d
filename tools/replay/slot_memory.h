// The bytes of slots, as an engine writes and compares them: in host memory by the CPU, on a GPU by
// kernels in the stream of the engine's actor.
//
// Slots are those of the arena; the caller has checked them. Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/sluice.hpp"
#include "tools/replay/payload_words.h"
#include "tools/replay/slot_page.h"

namespace sluice::tools {

struct Difference {
  std::size_t index = 0;     // of the pages that were compared
  std::uint64_t offset = 0;  // of the first byte that differs, in the page
};

struct Comparison {
  std::uint64_t different = 0;     // pages
  std::vector<Difference> places;  // of some of them, the first one among these
};

class SlotMemory {
 public:
  virtual ~SlotMemory() = default;

  virtual client::Status write(std::span<const SlotPage> pages) = 0;
  // Sets `out`. The pages begin with token 0.
  virtual client::Status compare(std::span<const SlotPage> pages, Comparison& out) = 0;

  // Waits until what was written is there, also for other processes.
  virtual client::Status settle() { return {}; }

  // On a GPU: the cudaStream_t that writes and comparisons run in.
  virtual void* stream() const { return nullptr; }
};

std::unique_ptr<SlotMemory> make_host_slots(const PayloadShape& shape,
                                            const sluice_arena_view& arena);

// Errors: SLUICE_NOT_SUPPORTED (this build has no CUDA), SLUICE_IO_ERROR (CUDA's words).
client::Result<std::unique_ptr<SlotMemory>> make_cuda_slots(const PayloadShape& shape,
                                                            const sluice_arena_view& arena);

}  // namespace sluice::tools
