// How a daemon comes to what one of before left.
//
// Thread-safety: at the start, one thread.
#pragma once

#include <memory>
#include <vector>

#include "daemon/config.h"
#include "daemon/descriptor_store.h"
#include "daemon/device.h"
#include "daemon/kept_state.h"
#include "ipc/error.h"
#include "ipc/fd.h"

namespace sluice::daemon {

// The folder of the socket, where it is not there yet: for root for all to enter, otherwise the
// user's own, which nobody else may have made.
ipc::Status make_socket_folder(const Config& config);

// Where what is to outlive this daemon is held: systemd's store, else the keeper beside the socket,
// which is started if there is none; null if the configuration does not ask for it. Before any
// process is started. When it returns, a daemon of before that
// was held there, too, is gone. Errors: those of open_descriptor_store.
ipc::Result<DescriptorStorePtr> open_store(const Config& config);

// What is kept in it is of use for daemons of the same version, extents and devices.
std::unique_ptr<KeptState> keep_in(DescriptorStorePtr store, const Config& config,
                                   const Devices& devices);

// Ends whoever still works on a device for a daemon of before. Errors: io_error (one does not die).
ipc::Status end_workers(const std::vector<ipc::Fd>& workers);

}  // namespace sluice::daemon
