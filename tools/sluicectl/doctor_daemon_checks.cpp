#include <sstream>

#include "tools/sluicectl/doctor_checks.h"

namespace sluice::tools::doctor {
namespace {

using ipc::Errc;

// A level that this program does not know is one that somebody should look at.
Severity severity_of(const std::string& level) {
  if (level == "error") return Severity::error;
  return level == "info" ? Severity::note : Severity::warning;
}

Finding no_answer(const DaemonFacts& daemon, const ipc::Error& error) {
  Finding finding{"daemon", Severity::note, {}, "none answers at " + daemon.socket, {}};
  switch (error.code) {
    case Errc::daemon_away:
      finding.todo = "start it, or give its --socket";
      return finding;
    case Errc::permission_denied:
    case Errc::unknown_tenant:
      finding.severity = Severity::warning;
      finding.found = "the one at " + daemon.socket + " does not tell us: " + error.text;
      finding.todo = "run this as root or as an operator (admin.uids)";
      return finding;
    default:
      finding.severity = Severity::error;
      finding.found = "the one at " + daemon.socket + " is not well: " + error.text;
      finding.todo = "look at its log; restart it if it does not recover";
      return finding;
  }
}

}  // namespace

FindingList check_config(const ConfigFacts& config) {
  if (config.error) {
    return {{"config", Severity::warning, config.source, "cannot be checked: " + config.error->text,
             "install sluiced beside sluicectl; sizes below are compared with nothing"}};
  }
  FindingList findings;
  std::istringstream lines(config.complaints);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    findings.push_back({"config", Severity::error, config.source, line,
                        "correct it; sluiced does not start with it"});
  }
  if (findings.empty()) findings.push_back({"config", Severity::ok, config.source, "is valid", {}});
  return findings;
}

FindingList check_daemon(const DaemonFacts& daemon) {
  if (daemon.error) return {no_answer(daemon, *daemon.error)};
  FindingList findings{{"daemon",
                        Severity::ok,
                        {},
                        "sluiced " + daemon.version + " answers at " + daemon.socket,
                        {}}};
  if (daemon.version != daemon.client_version) {
    findings[0].severity = Severity::warning;
    findings[0].found += "; this is sluicectl " + daemon.client_version;
    findings[0].todo = "restart sluiced after an update, or use the sluicectl beside it";
  }
  for (const tools::Finding& finding : daemon.health) {
    findings.push_back(
        {"daemon_health", severity_of(finding.level), finding.code, finding.text, finding.remedy});
  }
  return findings;
}

}  // namespace sluice::tools::doctor
