// The daemon: everything together, from a configuration to a clean exit.
//
// Thread-safety: run() on one thread.
#pragma once

#include <memory>
#include <string>

#include "daemon/config.h"
#include "daemon/descriptor_store.h"
#include "daemon/device.h"
#include "ipc/error.h"

namespace sluice::daemon {

class Daemon {
 public:
  // Binds the sockets; after this clients can connect as soon as run() runs. `config_path` is read
  // again on SIGHUP; empty: nothing to read. Memory comes from `devices`; what is to outlive the
  // daemon goes into `store`, if there is one, and what one of before left there is taken over
  // (kept_open.h). Errors: address_in_use, bad_config, no_memory, io_error.
  static ipc::Result<std::unique_ptr<Daemon>> create(Config config, std::string config_path,
                                                     Devices devices,
                                                     DescriptorStorePtr store = nullptr);
  ~Daemon();

  // Serves until SIGTERM or SIGINT.
  void run();

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::daemon
