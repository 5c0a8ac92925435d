// One admin request: its arguments, and whom it may see.
//
// Thread-safety: the control thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "daemon/config.h"
#include "daemon/coordinator.h"
#include "daemon/server.h"
#include "ipc/error.h"
#include "ipc/ids.h"

namespace sluice::daemon {

class AdminRequest {
 public:
  AdminRequest(const Config& config, Coordinator& coordinator, const AdminScope& scope,
               nlohmann::json arguments);

  bool sees(ipc::TenantId tenant) const;
  bool everything() const { return scope_.everything; }

  // Reads the selectors that all verbs share. Errors: invalid_argument, not_found,
  // permission_denied.
  ipc::Status select();

  // An argument, or what stands for one that is not there. Errors: invalid_argument.
  ipc::Result<std::string> text(const char* key) const;
  ipc::Result<std::uint64_t> number(const char* key, std::uint64_t otherwise) const;
  ipc::Result<bool> flag(const char* key) const;

  std::optional<ipc::TenantId> only_tenant() const { return only_tenant_; }
  const std::string& tenant_name(ipc::TenantId tenant) const {
    return config_.tenants[tenant.value].name;
  }
  Coordinator& coordinator() const { return coordinator_; }

 private:
  const Config& config_;
  Coordinator& coordinator_;
  const AdminScope& scope_;
  nlohmann::json arguments_;
  std::optional<ipc::TenantId> only_tenant_;
};

// An answer without fields yet.
nlohmann::json document(const char* schema);

}  // namespace sluice::daemon
