// How a daemon comes to what one of before left.
//
// Thread-safety: at the start, one thread.
#pragma once

#include <memory>
#include <vector>

#include "daemon/config.h"
#include "daemon/device.h"
#include "daemon/kept_state.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::daemon {

// Where what is to outlive this daemon is kept: systemd's store, else the keeper beside the socket,
// which is started if there is none; nowhere, if the configuration does not ask for it. When it
// returns, the daemon of before is gone, if that was kept here, too. Errors: those of open_keeper
// and open_systemd_store.
ipc::Result<std::unique_ptr<KeptState>> open_kept(const Config& config, const Devices& devices);

// Ends whoever still works on a device for a daemon of before. Errors: io_error (one does not die).
ipc::Status end_workers(const std::vector<ipc::Fd>& workers);

}  // namespace sluice::daemon
