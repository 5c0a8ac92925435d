// A disk that has the space of so many files.
#pragma once

namespace sluice::storage {

// While it lives, files beyond `files` get no space (ENOSPC); those whose space was given back
// count no more. One at a time.
class SmallDisk {
 public:
  explicit SmallDisk(int files);
  ~SmallDisk();
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;
};

}  // namespace sluice::storage
