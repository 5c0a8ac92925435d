// The ceiling of a look-up: an array of 64-bit words, as many as there are pages, in the kind of
// memory that hot tables have.
#pragma once

#include <cstdint>
#include <span>

#include "ipc/error.h"
#include "ipc/mapping.h"

namespace sluice::tools {

class Words {
 public:
  // Errors: no_memory.
  static ipc::Result<Words> make(std::uint32_t count);

  // A load and a compare-exchange per index: stamps the word with `stamp`, as a look-up must.
  void stamp(std::span<const std::uint32_t> indices, std::uint64_t stamp);

  // A load and an addition per index.
  std::uint64_t sum(std::span<const std::uint32_t> indices) const;

 private:
  ipc::Mapping memory_;
  std::uint64_t* words_ = nullptr;
};

}  // namespace sluice::tools
