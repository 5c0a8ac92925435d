#include "daemon/descriptor_store.h"

#include <utility>

namespace sluice::daemon {

ipc::Status check_put(std::string_view name, int fd) {
  if (!keeper::is_valid_name(name)) {
    return ipc::fail(ipc::Errc::invalid_argument,
                     "the name of a kept descriptor has 1 to " +
                         std::to_string(DescriptorStore::kMaxNameBytes) +
                         " characters of [A-Za-z0-9._-], not \"" + std::string(name) + "\"");
  }
  if (fd < 0) {
    return ipc::fail(ipc::Errc::invalid_argument,
                     "no descriptor to keep as " + std::string(name) + ": it is negative");
  }
  return {};
}

ipc::Result<DescriptorStorePtr> open_descriptor_store(const std::string& socket_path,
                                                      const std::string& program,
                                                      const KeeperOptions& options) {
  auto store = open_systemd_store();
  if (store || store.error().code != ipc::Errc::not_supported) return store;
  return open_keeper(socket_path, program, options);
}

}  // namespace sluice::daemon
