#include "tools/replay/kill_accounting.h"

#include <nlohmann/json.hpp>
#include <thread>

#include "tools/replay/accounting.h"

namespace sluice::tools {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr std::chrono::milliseconds kPoll{2};

// Whether `list` of the reply to `verb` has a row of this session.
ipc::Result<bool> names_session(const std::string& admin_socket, const char* verb,
                                std::uint64_t session) {
  const auto reply = ask_daemon(admin_socket, verb);
  if (!reply) return std::unexpected(reply.error());
  const auto rows = reply->find(verb);
  if (rows == reply->end() || !rows->is_array()) {
    return ipc::fail(ipc::Errc::internal, std::string("the reply to '") + verb + "' has no list");
  }
  for (const json& row : *rows) {
    if (row.value("session", std::uint64_t{0}) == session) return true;
  }
  return false;
}

ipc::Result<bool> is_accounted_for(const std::string& admin_socket, std::uint64_t session) {
  for (const char* const verb : {"sessions", "sequences"}) {
    const auto named = names_session(admin_socket, verb, session);
    if (!named) return std::unexpected(named.error());
    if (*named) return false;
  }
  return true;
}

// Sum of one number over all rows of a list.
std::uint64_t sum(const json& document, const char* list, const json::json_pointer& number) {
  std::uint64_t total = 0;
  const auto rows = document.find(list);
  if (rows == document.end() || !rows->is_array()) return 0;
  for (const json& row : *rows) {
    if (row.contains(number) && row[number].is_number_unsigned()) {
      total += row[number].get<std::uint64_t>();
    }
  }
  return total;
}

std::string leftovers_in(const json& residency) {
  struct Kind {
    const char* list;
    const char* number;
    const char* words;
  };
  constexpr Kind kinds[] = {{"tenants", "/sessions", "sessions"},
                            {"tenants", "/sequences", "sequences"},
                            {"tenants", "/blocks/private", "private blocks"},
                            {"tenants", "/blocks/shared", "shared blocks"},
                            {"tenants", "/blocks/retiring", "retiring blocks"},
                            {"caches", "/hbm_pages/pinned", "pinned pages"}};
  std::string text;
  for (const Kind& kind : kinds) {
    const std::uint64_t count = sum(residency, kind.list, json::json_pointer(kind.number));
    if (count == 0) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + kind.words;
  }
  return text;
}

}  // namespace

KillReport account_for_kill(const std::string& admin_socket, std::uint64_t session,
                            Clock::time_point killed_at) {
  KillReport report;
  while (Clock::now() - killed_at < kAccountingTimeout) {
    const auto accounted = is_accounted_for(admin_socket, session);
    report.accounted_ms =
        std::chrono::duration<double, std::milli>(Clock::now() - killed_at).count();
    if (!accounted) {
      report.trouble = accounted.error().text;
      return report;
    }
    if (*accounted) {
      report.accounted = true;
      report.memory_returned = true;
      return report;
    }
    std::this_thread::sleep_for(kPoll);
  }
  report.trouble = "session " + std::to_string(session) + " or a sequence of it is still listed";
  return report;
}

std::optional<std::string> find_leftovers(const std::string& admin_socket) {
  const auto deadline = Clock::now() + kAccountingTimeout;
  for (;;) {
    const auto residency = ask_daemon(admin_socket, "residency");
    if (!residency) return residency.error().text;
    const std::string text = leftovers_in(*residency);
    if (text.empty()) return std::nullopt;
    if (Clock::now() >= deadline) return "with no engine left, the daemon still holds " + text;
    std::this_thread::sleep_for(kPoll);
  }
}

}  // namespace sluice::tools
