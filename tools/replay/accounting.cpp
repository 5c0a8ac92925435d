#include "tools/replay/accounting.h"

#include <nlohmann/json.hpp>

#include "client/sluice.h"

namespace sluice::tools {

ipc::Result<nlohmann::json> ask_daemon(const std::string& admin_socket, const std::string& verb,
                                       const std::string& arguments) {
  sluice_connect_desc desc = SLUICE_CONNECT_DESC_INIT;
  desc.socket_path = admin_socket.c_str();
  desc.client_name = "sluice-replay";
  char* reply = nullptr;
  sluice_error error{};
  const sluice_status status = sluice_admin(
      &desc, verb.c_str(), arguments.empty() ? nullptr : arguments.c_str(), &reply, &error);
  if (status != SLUICE_OK) {
    return ipc::fail(static_cast<ipc::Errc>(status), "admin request '" + verb + "': " + error.text);
  }
  auto json = nlohmann::json::parse(reply, nullptr, false);
  sluice_admin_free(reply);
  if (json.is_discarded()) {
    return ipc::fail(ipc::Errc::internal, "the reply to '" + verb + "' is not JSON");
  }
  return json;
}

ipc::Result<StoreReport> ask_for_store(const std::string& admin_socket) {
  const auto status = ask_daemon(admin_socket, "status");
  if (!status) return std::unexpected(status.error());
  const auto nvme = status->find("nvme");
  if (nvme == status->end() || !nvme->is_object()) {
    return ipc::fail(ipc::Errc::internal, "the reply to 'status' has no object \"nvme\"");
  }
  StoreReport report;
  for (const auto& device : nvme->value("devices", nlohmann::json::array())) {
    report.written_bytes += device.value("written_bytes", std::uint64_t{0});
    report.read_bytes += device.value("read_bytes", std::uint64_t{0});
    report.engine = device.value("io", "");
  }
  report.displaced_blocks = nvme->value("displaced_blocks", std::uint64_t{0});
  report.promoted_blocks = nvme->value("promoted_blocks", std::uint64_t{0});
  return report;
}

}  // namespace sluice::tools
