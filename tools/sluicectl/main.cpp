// sluicectl: see options.cpp for what it does and takes.
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <thread>

#include "client/default_socket.h"
#include "client/sluice.h"
#include "tools/sluicectl/child.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/exit_codes.h"

namespace sluice::tools {
namespace {

constexpr std::size_t kWidthOfPipe = 80;
constexpr const char* kInstalledConfig = "/etc/sluice/sluiced.toml";  // as in packaging/

// At any moment: every command either has no effect yet, or one that goes on in the daemon; to a
// block store it is a kill, which its next start makes good.
void end_at_interrupt(int) { ::_exit(kExitInterrupted); }

std::string from_environment(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::string socket_of(const Options& options) {
  return options.socket.empty() ? client::default_socket() : options.socket;
}

ipc::Result<std::string> ask_daemon(const std::string& socket, const std::string& verb,
                                    const Json& arguments, Timeout timeout) {
  sluice_connect_desc desc = SLUICE_CONNECT_DESC_INIT;
  desc.socket_path = socket.c_str();
  desc.client_name = "sluicectl";
  desc.timeout_us = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(timeout).count());
  sluice_error error{};
  char* reply = nullptr;
  const std::string text = arguments.dump(-1, ' ', false, Json::error_handler_t::replace);
  const sluice_status status = sluice_admin(&desc, verb.c_str(), text.c_str(), &reply, &error);
  if (status == SLUICE_PEER_VIOLATION) {
    return ipc::fail(ipc::Errc::peer_violation,
                     "what answers at " + socket + " does not speak sluiced's protocol (" +
                         error.text + "); give the path that sluiced listens on");
  }
  if (status != SLUICE_OK) return ipc::fail(static_cast<ipc::Errc>(status), error.text);
  std::string document = reply;
  sluice_admin_free(reply);
  return document;
}

bool write_to(std::FILE* file, std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  return std::fflush(file) == 0 && written;
}

std::size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kWidthOfPipe;
}

std::string wall_clock() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  char text[16] = "";
  if (::localtime_r(&now, &parts) != nullptr) std::strftime(text, sizeof text, "%H:%M:%S", &parts);
  return text;
}

std::string read_line() {
  std::string line;
  std::getline(std::cin, line);
  return line;
}

Surroundings real_surroundings(const Options& options) {
  Surroundings around;
  around.socket = socket_of(options);
  around.client_version = sluice_version();
  around.ask = [socket = around.socket](const std::string& verb, const Json& arguments,
                                        Timeout timeout) {
    return ask_daemon(socket, verb, arguments, timeout);
  };
  around.check_config = [](const std::string& file) {
    return check_config_with(beside_this_program("sluiced"), file);
  };
  around.list_config = [](const std::string& file) {
    return list_config_with(beside_this_program("sluiced"), file);
  };
  around.look_at_machine = doctor::look_at_machine;
  if (::access(kInstalledConfig, R_OK) == 0) around.installed_config = kInstalledConfig;
  around.out = [](std::string_view text) { return write_to(stdout, text); };
  around.err = [](std::string_view text) { (void)write_to(stderr, text); };
  around.read_line = read_line;
  around.now = std::chrono::steady_clock::now;
  around.sleep_for = [](std::chrono::milliseconds time) { std::this_thread::sleep_for(time); };
  around.wall_clock = wall_clock;
  around.out_is_terminal = ::isatty(STDOUT_FILENO) == 1;
  around.can_ask = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1;
  around.colour = around.out_is_terminal && !options.no_colour &&
                  from_environment("NO_COLOR").empty() && from_environment("TERM") != "dumb";
  around.width = around.out_is_terminal ? terminal_width() : kWidthOfPipe;
  return around;
}

// A result that could not be written is no result.
int with_output_written(int exit_code) {
  if (std::ferror(stdout) == 0 || exit_code != kExitDone) return exit_code;
  std::fputs("sluicectl: the output could not be written\n", stderr);
  return kExitFailed;
}

}  // namespace
}  // namespace sluice::tools

int main(int argc, char** argv) {
  using namespace sluice::tools;  // NOLINT(google-build-using-namespace): the entry of its program
  std::signal(SIGINT, end_at_interrupt);
  std::signal(SIGPIPE, SIG_IGN);  // a reader that is gone is an output that could not be written
  const Parsed parsed = parse_options({argv + 1, argv + argc}, sluice_version());
  if (!parsed.options) {
    (void)write_to(stdout, parsed.out);
    (void)write_to(stderr, parsed.err);
    return with_output_written(parsed.exit_code);
  }
  return with_output_written(run(*parsed.options, real_surroundings(*parsed.options)));
}
