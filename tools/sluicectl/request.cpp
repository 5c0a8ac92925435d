#include "tools/sluicectl/request.h"

#include "tools/sluicectl/document.h"
#include "tools/sluicectl/exit_codes.h"

namespace sluice::tools {
namespace {

constexpr int kDeepestDocument = 32;

// An error may quote what tenants chose, over several lines.
std::string printable_lines(std::string_view text) {
  std::string safe;
  while (true) {
    const std::size_t end = text.find('\n');
    safe += printable(text.substr(0, end));
    if (end == std::string_view::npos) return safe;
    safe += '\n';
    text.remove_prefix(end + 1);
  }
}

}  // namespace

std::string json_text(const Json& document, bool one_line) {
  return document.dump(one_line ? -1 : 2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ipc::Result<Json> Request::ask(const std::string& verb, const Json& arguments) const {
  return ask(verb, arguments, timeout());
}

ipc::Result<Json> Request::ask(const std::string& verb, const Json& arguments,
                               Timeout bound) const {
  const auto answer = around.ask(verb, arguments, bound);
  if (!answer) return std::unexpected(answer.error());
  // Deeper documents than any that we know would exhaust the stack where they are printed.
  bool too_deep = false;
  const auto look = [&](int depth, Json::parse_event_t, const Json&) {
    too_deep |= depth > kDeepestDocument;
    return !too_deep;
  };
  Json document = Json::parse(*answer, look, false);
  if (too_deep || !document.is_object()) {
    return ipc::fail(ipc::Errc::internal, "the daemon's answer to \"" + verb +
                                              "\" is no JSON object; is it another version? See "
                                              "`sluicectl version`");
  }
  return document;
}

Json Request::selectors() const {
  Json arguments = Json::object();
  if (options.tenant) arguments["tenant"] = *options.tenant;
  if (options.cache) arguments["cache"] = *options.cache;
  if (options.session) arguments["session"] = *options.session;
  return arguments;
}

int Request::show(const Json& document, const std::string& text) const {
  (void)around.out(options.json ? json_text(document) : text);  // main looks whether it could
  return kExitDone;
}

void Request::note(std::string_view text) const {
  around.err("sluicectl: " + std::string(text) + "\n");
}

int Request::fail(const ipc::Error& error, int exit_code) const {
  note(printable_lines(error.text) + " (" + std::string(ipc::to_string(error.code)) + ")");
  if (options.json) {
    const Json document = {{"schema", "sluice.error"},
                           {"version", 1},
                           {"code", std::string(ipc::to_string(error.code))},
                           {"text", error.text}};
    (void)around.out(json_text(document, options.command == Command::watch));
  }
  return exit_code;
}

int Request::fail(const ipc::Error& error) const { return fail(error, exit_code_of(error.code)); }

std::optional<int> confirm(const Request& request, const std::string& what) {
  if (request.options.yes) return std::nullopt;
  if (!request.around.can_ask) {
    return request.fail(
        {ipc::Errc::invalid_argument, what + " needs --yes, because there is nobody to ask"});
  }
  request.around.err(what + ". Go on? [y/N] ");
  const std::string answer = request.around.read_line();
  if (answer == "y" || answer == "Y" || answer == "yes") return std::nullopt;
  return request.fail({ipc::Errc::permission_denied, "nothing was changed: it was not confirmed"});
}

}  // namespace sluice::tools
