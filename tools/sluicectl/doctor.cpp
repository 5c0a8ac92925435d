#include <algorithm>
#include <iterator>
#include <utility>

#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/doctor_checks.h"
#include "tools/sluicectl/doctor_look.h"
#include "tools/sluicectl/doctor_report.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/health.h"

namespace sluice::tools {
namespace {

using doctor::ConfigFacts;
using doctor::DaemonFacts;
using doctor::FindingList;
using doctor::Listing;
using doctor::Machine;
using doctor::Wanted;
using doctor::WantedDirectory;

DaemonFacts daemon_facts(const Request& request, const ipc::Result<Json>& status) {
  DaemonFacts facts;
  facts.socket = request.around.socket;
  facts.client_version = request.around.client_version;
  if (!status) {
    facts.error = status.error();
    return facts;
  }
  facts.version = text_at(*status, {"daemon", "version"});
  facts.health = findings_in(*status).value_or(std::vector<Finding>{});
  return facts;
}

// Of the node's memory what the daemon's tiers have taken.
std::uint64_t held_by_daemon(const Json& status, const Wanted& wanted) {
  std::uint64_t bytes = 0;
  for (const Json& tier : rows_at(status, {"tiers"})) {
    if (wanted.cuda && text_at(tier, {"tier"}) != "dram") continue;
    bytes += number_at(tier, {"used_bytes"}).value_or(0);
  }
  return bytes;
}

std::optional<Listing> running_config(const Request& request) {
  const auto document = request.ask("config");
  if (!document) return std::nullopt;
  const Json* values = value_at(*document, {"values"});
  if (values == nullptr || !values->is_object()) return std::nullopt;
  Listing listing;
  for (const auto& [key, value] : values->items()) {
    if (value.is_string()) listing[key] = value.get<std::string>();
  }
  return listing;
}

struct Configured {
  ConfigFacts facts;
  Wanted wanted;
};

// As sluiced understands a file; its defaults without one.
Configured configured_by(const Request& request, const std::string& file) {
  Configured configured;
  configured.facts.source = file.empty() ? "sluiced's defaults" : file;
  const auto listed = request.around.list_config(file);
  if (!listed) {
    configured.facts.error = listed.error();
  } else if (listed->exit_code != 0) {
    configured.facts.complaints = listed->output;
  } else {
    configured.wanted = doctor::wanted_by(doctor::parse_listing(listed->output));
  }
  return configured;
}

// The file that was named, else what the daemon runs with, else what it would start with.
Configured configuration(const Request& request, bool daemon_answers) {
  if (!request.options.file.empty()) return configured_by(request, request.options.file);
  if (daemon_answers) {
    if (const auto listing = running_config(request)) {
      Configured configured;
      configured.facts.source = "the running sluiced";
      configured.wanted = doctor::wanted_by(*listing);
      return configured;
    }
  }
  return configured_by(request, request.around.installed_config);
}

// Those of the command line come on top, or give a configured one another size.
void add_directories(std::vector<WantedDirectory>& to, const std::vector<WantedDirectory>& more) {
  for (const WantedDirectory& directory : more) {
    const auto same = std::ranges::find(to, directory.path, &WantedDirectory::path);
    if (same == to.end()) {
      to.push_back(directory);
    } else if (directory.bytes) {
      same->bytes = directory.bytes;
    }
  }
}

void append(FindingList& to, FindingList more) { std::ranges::move(more, std::back_inserter(to)); }

FindingList findings_on(const Machine& machine, const Wanted& wanted, std::uint64_t held_bytes,
                        bool with_speed) {
  FindingList all = {
      doctor::check_kernel(machine.kernel),
      doctor::check_pidfd(machine.kernel),
      doctor::check_memfd(machine.kernel),
      doctor::check_memory(machine.memory, wanted, held_bytes),
      doctor::check_cgroup(machine.process, wanted),
      doctor::check_huge_pages(machine.kernel, wanted),
      doctor::check_hugetlb(machine.memory),
      doctor::check_numa(machine.memory, wanted),
      doctor::check_swap(machine.memory, wanted),
      doctor::check_memlock(machine.process, wanted),
      doctor::check_open_files(machine.process, machine.gpu, wanted),
      doctor::check_mappings(machine.process, machine.gpu, wanted),
      doctor::check_io_uring(machine.kernel, wanted),
      doctor::check_gpu(machine.gpu, wanted),
      doctor::check_clock(machine.kernel),
      doctor::check_systemd(machine.systemd),
  };
  append(all, doctor::check_sockets(machine.sockets, wanted));
  append(all, doctor::check_directories(machine.directories, with_speed));
  return all;
}

}  // namespace

int doctor_command(const Request& request) {
  const auto status = request.ask("status");
  Configured configured = configuration(request, status.has_value());
  Wanted& wanted = configured.wanted;
  add_directories(wanted.nvme, request.options.nvme);

  doctor::Look look;
  look.wanted = wanted;
  look.with_speed = !request.options.no_speed;
  if (status) look.daemon_pid = number_at(*status, {"daemon", "pid"});
  const Machine machine = request.around.look_at_machine(look);

  FindingList findings = doctor::check_config(configured.facts);
  append(findings, doctor::check_daemon(daemon_facts(request, status)));
  const std::uint64_t held = status ? held_by_daemon(*status, wanted) : 0;
  append(findings, findings_on(machine, wanted, held, look.with_speed));
  doctor::put_worst_first(findings);

  const View view = request.view();
  const std::size_t width = request.around.out_is_terminal ? view.width : 0;
  request.show(doctor::report_document(findings),
               doctor::report_text(findings, view.colour, width));
  return doctor::count_of(findings, doctor::Severity::error) == 0 ? kExitDone : kExitUnhealthy;
}

}  // namespace sluice::tools
