// The files that an engine has registered: a descriptor for each IoFile.
//
// Thread-safety: none.
#pragma once

#include <vector>

#include "storage/io_engine.h"

namespace sluice::storage {

class IoFiles {
 public:
  // Errors: invalid_argument (no descriptor), limit_reached (kMaxIoFiles).
  Result<IoFile> add(int fd);
  void remove(IoFile file);
  // Of a file that is registered.
  int descriptor(IoFile file) const;

 private:
  static constexpr int kNone = -1;

  std::vector<int> descriptors_;  // by index
  std::vector<std::uint32_t> free_;
};

}  // namespace sluice::storage
