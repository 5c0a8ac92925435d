#include <algorithm>

#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/duration.h"
#include "tools/sluicectl/exit_codes.h"

namespace sluice::tools {
namespace {

constexpr std::chrono::milliseconds kDrainLookInterval{100};
constexpr std::size_t kMostNamed = 5;  // sessions in a line of progress

std::string sessions_text(std::size_t count) {
  return human_count(count) + (count == 1 ? " session" : " sessions");
}

// "2 sessions: 3 (prod, engine-a, pid 4411), ...".
std::string named(const Json& sessions) {
  std::string text = sessions_text(sessions.size()) + ":";
  for (std::size_t i = 0; i < std::min(sessions.size(), kMostNamed); ++i) {
    const Json& row = sessions[i];
    text += std::string(i > 0 ? "," : "") + " " + id_text(row, {"session"}) + " (" +
            text_at(row, {"tenant"}) + ", " + text_at(row, {"client"}) + ", pid " +
            id_text(row, {"pid"}) + ")";
  }
  if (sessions.size() > kMostNamed) {
    text += " and " + human_count(sessions.size() - kMostNamed) + " more";
  }
  return text;
}

int turn_off(const Request& request) {
  const auto document = request.ask("drain", {{"off", true}});
  if (!document) return request.fail(document.error());
  return request.show(*document, "The daemon takes sessions again.\n");
}

}  // namespace

int drain(const Request& request) {
  if (request.options.off) return turn_off(request);
  auto document = request.ask("drain", {{"off", false}});
  if (!document) return request.fail(document.error());

  const Timeout timeout = request.options.timeout.value_or(kDefaultWait);
  const TimePoint deadline = request.around.now() + timeout;
  std::string told;
  while (true) {
    const auto status = request.ask("status");
    if (!status) return request.fail(status.error());
    if (!flag_at(*status, {"daemon", "draining"})) {
      return request.fail(
          {ipc::Errc::wrong_state,
           "somebody turned draining off meanwhile: the daemon takes sessions again"},
          kExitFailed);
    }
    const auto sessions = request.ask("sessions");
    if (!sessions) return request.fail(sessions.error());
    const Json& left = rows_at(*sessions, {"sessions"});
    (*document)["sessions"] = left.size();
    if (left.empty()) {
      return request.show(*document,
                          "Drained: no session is left, and none is taken. `sluicectl drain "
                          "--off` ends this.\n");
    }
    if (request.around.now() >= deadline) {
      request.show(*document, "Not drained: " + named(left) + "\n");
      request.note(
          "after " + duration_text(timeout) + " " + sessions_text(left.size()) +
          (left.size() == 1 ? " is" : " are") +
          " left; the daemon goes on draining: wait again, end them with `sluicectl sessions "
          "kill`, or give up with `sluicectl drain --off`");
      return kExitTimedOut;
    }
    if (const std::string now = named(left); now != told) {
      request.note("waiting for " + now);
      told = now;
    }
    request.around.sleep_for(kDrainLookInterval);
  }
}

}  // namespace sluice::tools
