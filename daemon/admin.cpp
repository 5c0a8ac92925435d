#include "daemon/admin.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "daemon/admin_documents.h"
#include "daemon/admin_request.h"
#include "daemon/device_report.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using nlohmann::json;

namespace {

// Text of a client in a JSON document must be valid UTF-8.
std::string dump(const json& out) {
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

json changes_json(const std::vector<ConfigChange>& changes) {
  json list = json::array();
  for (const auto& change : changes) {
    list.push_back({{"key", change.key}, {"now", change.now}, {"wanted", change.wanted}});
  }
  return list;
}

}  // namespace

Admin::Admin(const Config& config, Coordinator& coordinator, AdminHooks hooks)
    : config_(config), coordinator_(coordinator), hooks_(std::move(hooks)) {}

ipc::Result<std::string> Admin::run(const AdminScope& scope, std::string_view verb,
                                    std::string_view arguments) {
  json parsed = json::object();
  if (!arguments.empty()) {
    parsed = json::parse(arguments, nullptr, false);
    if (!parsed.is_object()) {
      return fail(Errc::invalid_argument, "the arguments of an admin request are a JSON object");
    }
  }
  AdminRequest request(config_, coordinator_, scope, std::move(parsed));
  if (auto selected = request.select(); !selected) return std::unexpected(selected.error());
  const double uptime_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  const auto only_operators = [&]() -> ipc::Status {
    if (scope.everything) return {};
    return fail(Errc::permission_denied, "`" + std::string(verb) +
                                             "` needs an operator (see [admin] in the "
                                             "configuration)");
  };
  const auto rendered = [](ipc::Result<json> out) -> ipc::Result<std::string> {
    if (!out) return std::unexpected(std::move(out.error()));
    return dump(*out);
  };

  if (verb == "ping") return rendered(document("sluice.ping"));
  if (verb == "status") return rendered(status_of(request, hooks_, uptime_s));
  if (verb == "tenants") {
    json out = document("sluice.tenants");
    auto list = tenants_of(request, coordinator_.resolve_totals());
    if (!list) return std::unexpected(list.error());
    out["tenants"] = std::move(*list);
    return dump(out);
  }
  if (verb == "devices") {
    json out = document("sluice.devices");
    out["devices"] =
        devices_json(coordinator_, [&](ipc::TenantId tenant) { return request.sees(tenant); });
    return dump(out);
  }
  if (verb == "sessions") {
    json out = document("sluice.sessions");
    out["sessions"] = sessions_of(request, hooks_.sessions());
    return dump(out);
  }
  if (verb == "caches") {
    json out = document("sluice.caches");
    auto list = caches_of(request, true);
    if (!list) return std::unexpected(list.error());
    out["caches"] = std::move(*list);
    return dump(out);
  }
  if (verb == "sequences") return rendered(sequences_of(request));
  if (verb == "residency") return rendered(residency_of(request));
  if (verb == "evict_plan") return rendered(evict_plan(request));
  if (verb == "evict") return rendered(evict(request));
  if (verb == "drain") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    auto off = request.flag("off");
    if (!off) return std::unexpected(off.error());
    hooks_.drain(!*off);
    json out = document("sluice.drain");
    out["draining"] = !*off;
    out["sessions"] = hooks_.sessions().size();
    return dump(out);
  }
  if (verb == "kill") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    auto session = request.number("session", 0);
    if (!session) return std::unexpected(session.error());
    const SessionEnd why{{Errc::permission_denied, "an operator ended this session"}, std::nullopt};
    auto ended = hooks_.end_session(ipc::SessionId{*session}, why);
    if (!ended) return std::unexpected(ended.error());
    return dump(document("sluice.kill"));
  }
  if (verb == "config") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    json out = document("sluice.config");
    json values = json::object();
    for (const auto& value : list_config(config_)) values[value.key] = value.value;
    out["values"] = std::move(values);
    return dump(out);
  }
  if (verb == "reload") {
    if (auto ok = only_operators(); !ok) return std::unexpected(ok.error());
    auto reload = hooks_.reload();
    if (!reload) return std::unexpected(reload.error());
    json out = document("sluice.reload");
    out["applied"] = changes_json(reload->applied);
    out["deferred"] = changes_json(reload->deferred);
    return dump(out);
  }
  return fail(
      Errc::not_supported,
      "no admin request is named \"" + std::string(verb.substr(0, 64)) +
          "\"; known: ping, status, devices, tenants, sessions, caches, sequences, residency, "
          "evict_plan, evict, drain, kill, config, reload");
}

}  // namespace sluice::daemon
