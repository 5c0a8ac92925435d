#include "ipc/protocol.h"

#include <algorithm>
#include <string>

namespace sluice::ipc {

Result<Agreed> negotiate(const ProtocolOffer& ours, const ProtocolOffer& theirs) {
  if (ours.major != theirs.major) {
    const char* older = theirs.major < ours.major ? "the peer" : "this side";
    return fail(Errc::version_mismatch, "the peer speaks protocol " + std::to_string(theirs.major) +
                                            "." + std::to_string(theirs.minor) + ", this side " +
                                            std::to_string(ours.major) + "." +
                                            std::to_string(ours.minor) + "; upgrade " + older);
  }
  return Agreed{std::min(ours.minor, theirs.minor), ours.features & theirs.features};
}

}  // namespace sluice::ipc
