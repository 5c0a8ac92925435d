#include "client/resume.h"

#include "client/cache.h"
#include "client/client.h"

namespace sluice::client::internal {

ipc::Status resume_all(Client& client, Link& link) {
  for (Cache* const cache : client.caches()) {
    if (auto ok = cache->resume(link); !ok) return ok;
  }
  auto done =
      link.control().call([](auto& builder) { return ipc::wire::CreateResumeDone(builder); },
                          ipc::deadline_in(kResumeTimeout));
  if (!done) return std::unexpected(done.error());
  for (Cache* const cache : client.caches()) {
    if (auto ok = cache->tell_closed_actors(link); !ok) return ok;
    cache->adjust_stock(link);
  }
  return {};
}

}  // namespace sluice::client::internal
