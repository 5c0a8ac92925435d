// The life of a device worker: requests from the daemon, one after the other, until it hangs up.
//
// Thread-safety: one thread.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "daemon/device_worker/backend.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::device_worker {

// How a worker is started: PROGRAM --socket FD --parent PID --device DEVICE.
struct Arguments {
  ipc::Fd socket;
  std::string device;  // an ordinal or "GPU-..."
};
// Also sees to it that the process ends with the daemon that started it. Errors: invalid_argument,
// daemon_away (it is gone already).
ipc::Result<Arguments> take_arguments(int argc, const char* const* argv);

// Told of each request before it is served, and of each answer before it is sent.
struct ServeHooks {
  std::function<void(wire::Body request)> before;
  std::function<void(wire::Body request)> after;
};

// Returns when the daemon has hung up. Errors: peer_violation, io_error; or the backend's, when it
// is not usable any more: the daemon was told, and the process must end.
ipc::Status serve(const ipc::Fd& socket, Backend& backend, const ServeHooks& hooks = {});

}  // namespace sluice::device_worker
