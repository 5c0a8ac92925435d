// A short-lived process that uses CUDA for one that does not: a context costs HBM, and CUDA does
// not survive a fork.
//
// Thread-safety: one thread, in a process that has no CUDA context and no other threads.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>

#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::tools::cuda {

class Child {
 public:
  // Tells the parent, and returns when it is let go.
  using Say = std::function<void(const std::string&)>;
  using Work = std::function<ipc::Status(const Say&)>;

  // Returns when the child has said something. Errors: those of `work`; io_error.
  static ipc::Result<Child> start(const Work& work);
  Child(Child&& other) noexcept;
  Child& operator=(Child&&) = delete;
  ~Child();  // let_go()

  const std::string& said() const { return said_; }
  // The child's work goes on; waits for its end.
  void let_go();

 private:
  Child() = default;
  pid_t pid_ = -1;
  ipc::Fd held_by_;  // the child reads the other end
  std::string said_;
};

}  // namespace sluice::tools::cuda
