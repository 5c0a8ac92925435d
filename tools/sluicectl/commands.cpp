#include "tools/sluicectl/commands.h"

#include <cstdio>

#include "tools/sluicectl/document.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/health.h"

namespace sluice::tools {
namespace {

using ipc::Errc;

int ping(const Request& request) {
  const TimePoint start = request.around.now();
  const auto document = request.ask("ping");
  if (!document) {
    // It is there, and does not serve.
    switch (document.error().code) {
      case Errc::timed_out:
      case Errc::shutting_down:
      case Errc::internal:
      case Errc::peer_violation:
        return request.fail(document.error(), kExitUnhealthy);
      default:
        return request.fail(document.error());
    }
  }
  const std::chrono::duration<double, std::milli> took = request.around.now() - start;
  char text[64];
  std::snprintf(text, sizeof text, " answered in %.2f ms\n", took.count());
  return request.show(*document, "sluiced at " + printable(request.around.socket) + text);
}

int version(const Request& request) {
  const auto status = request.ask("status");
  Json document = {{"schema", "sluice.version"},
                   {"version", 1},
                   {"client_version", request.around.client_version},
                   {"daemon_version", nullptr},
                   {"socket", request.around.socket}};
  std::string text = "sluicectl " + request.around.client_version + "\n";
  if (!status) {
    if (request.options.json) return request.fail(status.error());
    (void)request.around.out(text);
    return request.fail(status.error());
  }
  if (const Json* daemon = value_at(*status, {"daemon", "version"}))
    document["daemon_version"] = *daemon;
  text += "sluiced " + text_at(*status, {"daemon", "version"}) + " at " +
          printable(request.around.socket) + "\n";
  return request.show(document, text);
}

int status(const Request& request) {
  const auto document = request.ask("status", request.selectors());
  if (!document) return request.fail(document.error());
  request.show(*document, status_view(*document, request.view()));
  if (!request.options.check) return kExitDone;
  const auto findings = findings_in(*document);
  if (!findings) {
    request.note("the daemon tells no health; is it another version? See `sluicectl version`");
    return kExitUnhealthy;
  }
  if (request.options.json) {  // the text has them already
    for (const Finding& finding : *findings) {
      request.note(finding.code + ": " + finding.text + "; " + finding.remedy);
    }
  }
  return verdict_of(*findings) == "OK" ? kExitDone : kExitUnhealthy;
}

// Drops the rows of `list` that a selector leaves out, for verbs that leave them in.
template <class Value>
void keep_rows(Json& document, const char* list, const char* field,
               const std::optional<Value>& wanted) {
  if (!wanted || rows_at(document, {list}).empty()) return;
  Json kept = Json::array();
  for (const Json& row : rows_at(document, {list})) {
    const Json* value = value_at(row, {field});
    if (value != nullptr && *value == *wanted) kept.push_back(row);
  }
  document[list] = std::move(kept);
}

int devices(const Request& request) {
  const auto document = request.ask("devices");
  if (!document) return request.fail(document.error());
  return request.show(*document, devices_view(*document, request.view()));
}

int tenants(const Request& request) {
  const auto document = request.ask("tenants", request.selectors());
  if (!document) return request.fail(document.error());
  return request.show(*document, tenants_view(*document, request.view()));
}

int sessions(const Request& request) {
  auto document = request.ask("sessions", request.selectors());
  if (!document) return request.fail(document.error());
  keep_rows(*document, "sessions", "session", request.options.session);
  keep_rows(*document, "sessions", "state", request.options.state);
  if (request.options.session && rows_at(*document, {"sessions"}).empty()) {
    return request.fail({Errc::not_found, "no session " + std::to_string(*request.options.session) +
                                              " that you may see"});
  }
  return request.show(*document, sessions_view(*document, request.view()));
}

int kill_session(const Request& request) {
  const std::string name = "session " + std::to_string(request.options.session.value_or(0));
  if (const auto stop = confirm(request, "Ending " + name)) return *stop;
  const auto document = request.ask("kill", request.selectors());
  if (!document) return request.fail(document.error());
  return request.show(*document, "Ended " + name + ".\n");
}

int caches(const Request& request) {
  const auto document = request.ask("caches", request.selectors());
  if (!document) return request.fail(document.error());
  return request.show(*document, caches_view(*document, request.view()));
}

int sequences(const Request& request) {
  Json arguments = request.selectors();
  arguments["limit"] = request.options.limit.value_or(kDefaultListedRows);
  arguments["cursor"] = request.options.after;
  auto document = request.ask("sequences", arguments);
  if (!document) return request.fail(document.error());
  keep_rows(*document, "sequences", "cache", request.options.cache);
  keep_rows(*document, "sequences", "session", request.options.session);
  return request.show(*document, sequences_view(*document, request.view()));
}

int config_check(const Request& request) {
  const std::string& file = request.options.file;
  const auto result = request.around.check_config(file);
  if (!result) return request.fail(result.error(), kExitFailed);
  if (result->exit_code != 0) {
    if (!request.options.json) {
      request.around.err(result->output);
      return kExitFailed;
    }
    std::string text = result->output;
    while (text.ends_with('\n')) text.pop_back();
    return request.fail({Errc::bad_config, std::move(text)}, kExitFailed);
  }
  const Json document = {
      {"schema", "sluice.config_check"}, {"version", 1}, {"file", file}, {"ok", true}};
  return request.show(document, result->output);
}

int config_show(const Request& request) {
  const auto document = request.ask("config");
  if (!document) return request.fail(document.error());
  return request.show(*document, config_view(*document, request.view()));
}

int config_reload(const Request& request) {
  const auto document = request.ask("reload");
  if (!document) return request.fail(document.error());
  return request.show(*document, reload_view(*document, request.view()));
}

}  // namespace

int run(const Options& options, const Surroundings& around) {
  const Request request(options, around);
  switch (options.command) {
    case Command::ping:
      return ping(request);
    case Command::version:
      return version(request);
    case Command::status:
      return status(request);
    case Command::watch:
      return watch(request);
    case Command::devices:
      return devices(request);
    case Command::tenants:
      return tenants(request);
    case Command::sessions:
      return sessions(request);
    case Command::kill_session:
      return kill_session(request);
    case Command::caches:
      return caches(request);
    case Command::sequences:
      return sequences(request);
    case Command::residency:
      return residency(request);
    case Command::evict:
      return evict(request);
    case Command::drain:
      return drain(request);
    case Command::doctor:
      return doctor_command(request);
    case Command::store_check:
      return store_check(request);
    case Command::store_stats:
      return store_stats(request);
    case Command::store_compact:
      return store_compact(request);
    case Command::store_dump:
      return store_dump(request);
    case Command::config_check:
      return config_check(request);
    case Command::config_show:
      return config_show(request);
    case Command::config_reload:
      return config_reload(request);
  }
  return kExitUsage;
}

}  // namespace sluice::tools
