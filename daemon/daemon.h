// The daemon: everything together, from a configuration to a clean exit.
//
// Thread-safety: run() on one thread.
#pragma once

#include <memory>
#include <string>

#include "daemon/config.h"
#include "daemon/descriptor_store.h"
#include "daemon/device.h"
#include "daemon/nvme_tier.h"
#include "ipc/error.h"

namespace sluice::daemon {

// What a daemon is made of, beside its configuration.
struct DaemonParts {
  Devices devices;           // where memory comes from
  DescriptorStorePtr store;  // what is to outlive the daemon goes there; null: nothing does
  StoreTuning tune_store;    // for tests: changes what the block store is opened with
};

class Daemon {
 public:
  // Binds the sockets; after this clients can connect as soon as run() runs. `config_path` is read
  // again on SIGHUP; empty: nothing to read. What a daemon of before left in
  // parts.store is taken over (kept_open.h). Errors: address_in_use, bad_config, no_memory,
  // io_error.
  static ipc::Result<std::unique_ptr<Daemon>> create(Config config, std::string config_path,
                                                     DaemonParts parts);
  ~Daemon();

  // Serves until SIGTERM or SIGINT.
  void run();

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice::daemon
