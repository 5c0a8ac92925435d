#include "daemon/version.h"

namespace sluice::daemon {

const char* const kVersion = SLUICE_VERSION;

}  // namespace sluice::daemon
