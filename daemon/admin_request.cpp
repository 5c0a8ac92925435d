#include "daemon/admin_request.h"

#include <utility>

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using nlohmann::json;

namespace {

std::unexpected<ipc::Error> wrong(const char* key, const char* expected) {
  return fail(Errc::invalid_argument, std::string("argument \"") + key + "\" must be " + expected);
}

}  // namespace

AdminRequest::AdminRequest(const Config& config, Coordinator& coordinator, const AdminScope& scope,
                           json arguments)
    : config_(config), coordinator_(coordinator), scope_(scope), arguments_(std::move(arguments)) {}

bool AdminRequest::sees(ipc::TenantId tenant) const {
  return (scope_.everything || scope_.tenant == tenant) &&
         (!only_tenant_ || *only_tenant_ == tenant);
}

ipc::Status AdminRequest::select() {
  auto name = text("tenant");
  if (!name) return std::unexpected(name.error());
  if (name->empty()) return {};
  for (std::uint32_t i = 0; i < config_.tenants.size(); ++i) {
    if (config_.tenants[i].name != *name) continue;
    only_tenant_ = ipc::TenantId{i};
    if (!scope_.everything && scope_.tenant != *only_tenant_) {
      return fail(Errc::permission_denied, "you may see your own tenant only, not " + *name);
    }
    return {};
  }
  return fail(Errc::not_found, "no tenant is named " + *name);
}

ipc::Result<std::string> AdminRequest::text(const char* key) const {
  if (!arguments_.contains(key)) return std::string();
  if (!arguments_[key].is_string()) return wrong(key, "a string");
  return arguments_[key].get<std::string>();
}

ipc::Result<std::uint64_t> AdminRequest::number(const char* key, std::uint64_t otherwise) const {
  if (!arguments_.contains(key)) return otherwise;
  if (!arguments_[key].is_number_unsigned()) return wrong(key, "a number of 0 or more");
  return arguments_[key].get<std::uint64_t>();
}

ipc::Result<bool> AdminRequest::flag(const char* key) const {
  if (!arguments_.contains(key)) return false;
  if (!arguments_[key].is_boolean()) return wrong(key, "true or false");
  return arguments_[key].get<bool>();
}

json document(const char* schema) { return {{"schema", schema}, {"version", 1}}; }

}  // namespace sluice::daemon
