// What is said to a daemon that has come back, before anybody else asks it anything: the caches are
// opened again, their sequences adopted, and what was closed meanwhile is closed there, too.
//
// The client's view counts. What the daemon did for a request whose answer was lost, and the client
// does not name here, the daemon gives up; so such a request can be made again.
#pragma once

#include <chrono>

#include "client/link.h"
#include "ipc/error.h"

namespace sluice::client::internal {

class Client;

// Of each request of a resume; not the client's own timeout, which may be short.
inline constexpr std::chrono::seconds kResumeTimeout{10};

// Nobody is inside the gate. A cache or a sequence that the daemon no longer has as it was is lost,
// which its calls say from then on; that is no error here. Errors: the link broke.
ipc::Status resume_all(Client& client, Link& link);

}  // namespace sluice::client::internal
