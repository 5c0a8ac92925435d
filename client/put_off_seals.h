// Seals of a sequence that the daemon has not confirmed, in the order in which they were asked for.
//
// Promised: the caller was told that it is done, since the daemon is away; it is once there is one.
// Uncertain: the daemon died over it, and may have done it.
//
// Thread-safety: see sequence.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::client::internal {

struct Seal {
  std::uint32_t index = 0;
  std::vector<std::byte> key;
  std::uint64_t valid_bytes = 0;
  bool promised = false;
  bool uncertain = false;

  bool says_the_same(const Seal& other) const {
    return key == other.key && valid_bytes == other.valid_bytes;
  }
};

class PutOffSeals {
 public:
  bool empty() const { return seals_.empty(); }
  std::span<const Seal> all() const { return seals_; }

  const Seal* find(std::uint32_t index) const {
    const auto at = std::ranges::find(seals_, index, &Seal::index);
    return at == seals_.end() ? nullptr : &*at;
  }
  // In the place of one of the same block.
  void put(const Seal& seal) {
    const auto at = std::ranges::find(seals_, seal.index, &Seal::index);
    if (at == seals_.end()) {
      seals_.push_back(seal);
    } else {
      *at = seal;
    }
  }
  void drop(std::uint32_t index) {
    std::erase_if(seals_, [&](const Seal& seal) { return seal.index == index; });
  }
  // Of the blocks from `count` on.
  void cut(std::uint32_t count) {
    std::erase_if(seals_, [&](const Seal& seal) { return seal.index >= count; });
  }
  // The first that the caller counts as done; null: none.
  const Seal* next() const {
    const auto at = std::ranges::find(seals_, true, &Seal::promised);
    return at == seals_.end() ? nullptr : &*at;
  }
  // For copies of the blocks, about which nobody was asked yet.
  PutOffSeals of_copies() const {
    PutOffSeals copies;
    for (Seal seal : seals_) {
      seal.uncertain = false;
      if (seal.promised) copies.put(seal);
    }
    return copies;
  }
  std::uint32_t promised() const {
    return static_cast<std::uint32_t>(std::ranges::count(seals_, true, &Seal::promised));
  }

 private:
  std::vector<Seal> seals_;
};

}  // namespace sluice::client::internal
