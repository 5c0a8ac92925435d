// Where the bytes of pages are, in this process: slots in the arena, blocks in frames.
//
// Both are linear (DESIGN §4). The limits are this process's own: memory beyond them is not mapped
// (not registered, under CUDA), whatever the shared table says. Extents of frames are mapped in
// order, so one number says which frames may be read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/atomic.h"
#include "kernels/words.h"

namespace sluice::kernels {

struct PageStore {
  std::byte* arena = nullptr;
  const std::byte* frames = nullptr;
  std::uint64_t page_bytes = 0;
  std::uint64_t frame_stride = 0;               // bytes from one frame to the next
  std::uint32_t slots = 0;                      // mapped here
  const std::uint32_t* frames_ready = nullptr;  // grows: frames below it may be read
};

SLUICE_HD inline std::byte* slot_bytes(const PageStore& store, Slot slot) {
  return store.arena + static_cast<std::uint64_t>(slot) * store.page_bytes;
}

SLUICE_HD inline const std::byte* frame_bytes(const PageStore& store, Frame frame,
                                              std::uint32_t page_in_block) {
  return store.frames + frame * store.frame_stride + page_in_block * store.page_bytes;
}

// Acquire: what the thread that mapped the extent did before it raised the number is visible.
SLUICE_HD inline bool frame_readable(const PageStore& store, Frame frame) {
  return frame < load_acquire(store.frames_ready);
}

}  // namespace sluice::kernels
