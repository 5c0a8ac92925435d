// Work that an actor enqueued in a stream of a GPU, of which its host wants to know when it is
// done.
//
// Thread-safety: one thread at a time.
#pragma once

#include <memory>

#include "ipc/error.h"

namespace sluice::client::internal {

class Enqueued {
 public:
  virtual ~Enqueued() = default;
  // Errors of both: io_error, context_lost, device_lost. Then nothing of it runs any more.
  virtual ipc::Result<bool> passed() const = 0;
  virtual ipc::Status wait() const = 0;
};

// Null: it is done.
using Pending = std::shared_ptr<const Enqueued>;

inline ipc::Result<bool> passed(const Pending& pending) {
  return pending == nullptr ? ipc::Result<bool>(true) : pending->passed();
}
inline ipc::Status wait_for(const Pending& pending) {
  return pending == nullptr ? ipc::Status() : pending->wait();
}

}  // namespace sluice::client::internal
