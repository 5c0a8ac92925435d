// A file descriptor that is closed when its owner goes.
//
// Thread-safety: as a pointer.
#pragma once

#include <utility>

#include "ipc/error.h"

namespace sluice::ipc {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int number) : number_(number) {}
  Fd(Fd&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.number_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }
  int release() { return std::exchange(number_, -1); }
  // Closes what was held.
  void reset(int number = -1);

 private:
  int number_ = -1;
};

// A second descriptor of the same open file, closed on exec. Errors: limit_reached (no free
// descriptor).
Result<Fd> duplicate(int fd);

}  // namespace sluice::ipc
