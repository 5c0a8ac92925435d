// An array that grows without moving its elements and without a long pause: chunks of a fixed
// number of elements, zero-initialized, kept until the array dies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice::residency {

template <class T>
class ChunkedArray {
 public:
  // Elements [0, count) exist afterwards.
  void ensure(std::uint32_t count) {
    while (chunks_.size() * kChunk < count) chunks_.push_back(std::make_unique<T[]>(kChunk));
  }

  T& operator[](std::uint32_t i) { return chunks_[i / kChunk][i % kChunk]; }
  const T& operator[](std::uint32_t i) const { return chunks_[i / kChunk][i % kChunk]; }

 private:
  static constexpr std::uint32_t kChunk = 4096;
  std::vector<std::unique_ptr<T[]>> chunks_;
};

}  // namespace sluice::residency
