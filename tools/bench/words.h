// The ceiling of a look-up: an array of 64-bit words, as many as there are pages.
#pragma once

#include <cstdint>
#include <span>

#include "ipc/error.h"
#include "ipc/mapping.h"

namespace sluice::tools {

class Words {
 public:
  enum class Memory : std::uint8_t {
    plain,      // what an engine's own array has: the kernel's usual pages
    of_tables,  // what hot tables have: huge pages where there are any
  };
  // Errors: no_memory.
  static ipc::Result<Words> make(std::uint32_t count, Memory kind);

  // A load and a compare-exchange per index: stamps the word with `stamp`, as a look-up must.
  void stamp(std::span<const std::uint32_t> indices, std::uint64_t stamp);

  // A load and an addition per index.
  std::uint64_t sum(std::span<const std::uint32_t> indices) const;

 private:
  ipc::Mapping memory_;
  std::uint64_t* words_ = nullptr;
};

}  // namespace sluice::tools
