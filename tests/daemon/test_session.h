// A session as the server makes it, without a connection, and a small node that has one tenant.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "daemon/config.h"
#include "daemon/coordinator.h"
#include "daemon/session.h"
#include "tests/eventually.h"

namespace sluice::test {

struct TestSession : daemon::Session {
  explicit TestSession(daemon::Coordinator& owner, std::uint32_t tenant_number = 0,
                       std::uint32_t ring_capacity = 64, std::uint64_t request_bytes = 64 << 10) {
    tenant = ipc::TenantId{tenant_number};
    id = *owner.open_session(tenant);
    memory = std::move(*ipc::SessionMemory::create(ring_capacity, request_bytes));
    auto bells = ipc::make_doorbell();
    bell = std::move(bells->daemon_end);
  }
};

// 1 MiB of HBM and 4 MiB of DRAM on the host backend.
inline daemon::Config small_config() {
  daemon::Config config;
  config.hbm = {.capacity_bytes = 1 << 20, .extent_bytes = 64 << 10};
  config.dram = {.capacity_bytes = 4 << 20, .extent_bytes = 256 << 10};
  daemon::TenantConfig tenant;
  tenant.name = "t";
  tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
  tenant.dram.limit_bytes = config.dram.capacity_bytes;
  config.tenants.push_back(tenant);
  return config;
}

// A cache of one extent of HBM. As the server opens it, but for its waits; nullopt if that
// fails.
inline std::optional<daemon::OpenedCache> open_small_cache(daemon::Coordinator& coordinator,
                                                           daemon::Session& session) {
  const auto opening = std::make_shared<daemon::CacheOpening>();
  opening->request.model = "m";
  opening->request.layout = {2, 1, 16, 4, 2, 2, ipc::PageKind::layer};
  opening->request.hbm_bytes = 64 << 10;
  ipc::Result<std::optional<daemon::OpenedCache>> opened;
  eventually([&] {
    opened = coordinator.open_cache(session, opening);
    return !opened || opened->has_value();
  });
  if (!opened) return std::nullopt;
  return std::move(*opened);
}

}  // namespace sluice::test
