// A bounded number of equal pieces of aligned memory, told to the engine once.
//
// Thread-safety: the device's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "storage/file.h"

namespace sluice::storage {

class Staging {
 public:
  // piece_bytes is a multiple of kIoAlign.
  Staging(IoEngine& engine, std::uint64_t piece_bytes, std::uint32_t pieces)
      : engine_(engine),
        memory_(allocate_aligned(piece_bytes * pieces)),
        piece_bytes_(piece_bytes) {
    if (!memory_) return;
    for (std::uint32_t i = 0; i < pieces; ++i) free_.push_back(memory_.get() + i * piece_bytes);
    // Only a hint: without it requests cost a little more.
    static_cast<void>(engine.register_memory({memory_.get(), piece_bytes * pieces}));
  }
  ~Staging() {
    if (memory_) engine_.unregister_memory(memory_.get());
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  bool empty() const { return free_.empty(); }
  std::uint64_t piece_bytes() const { return piece_bytes_; }
  // It is not empty().
  std::byte* take() {
    std::byte* piece = free_.back();
    free_.pop_back();
    return piece;
  }
  void give_back(std::byte* piece) { free_.push_back(piece); }

 private:
  IoEngine& engine_;
  AlignedMemory memory_;
  std::uint64_t piece_bytes_;
  std::vector<std::byte*> free_;
};

}  // namespace sluice::storage
