#include "tools/sluicectl/exit_codes.h"

namespace sluice::tools {

int exit_code_of(ipc::Errc code) {
  using ipc::Errc;
  switch (code) {
    case Errc::ok:
      return kExitDone;
    case Errc::invalid_argument:
      return kExitUsage;
    case Errc::daemon_away:
      return kExitNotReachable;
    case Errc::unknown_tenant:
    case Errc::permission_denied:
    case Errc::quota_exceeded:
    case Errc::wrong_state:
    case Errc::busy:
    case Errc::shutting_down:
    case Errc::limit_reached:
      return kExitRefused;
    case Errc::not_found:
    case Errc::stale_handle:
      return kExitNoSuchObject;
    case Errc::timed_out:
      return kExitTimedOut;
    default:
      return kExitFailed;
  }
}

}  // namespace sluice::tools
