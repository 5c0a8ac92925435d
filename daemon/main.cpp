// sluiced: the daemon's entry.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <string>

#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/device.h"
#include "daemon/kept_open.h"
#include "daemon/logging.h"
#include "daemon/version.h"

namespace {

constexpr int kExitFailed = 1;
constexpr int kExitUsage = 2;

// Sessions and extents are descriptors; the default limit is meant for programs that use select(2).
void raise_descriptor_limit() {
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &files);
}

int failed(const sluice::ipc::Error& why) {
  std::fprintf(stderr, "sluiced: %s (%s)\n", why.text.c_str(),
               std::string(sluice::ipc::to_string(why.code)).c_str());
  return kExitFailed;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace sluice::daemon;  // NOLINT(google-build-using-namespace): the entry of its program
  CLI::App app("sluiced: owns the KV-cache memory of this node's inference engines");
  std::string path;
  bool check = false;
  bool list = false;
  app.add_option("--config", path, "TOML file; without it, defaults that fit this machine");
  app.add_flag("--check", check, "read the configuration, report what is wrong with it, and exit");
  app.add_flag("--list", list, "check, print every value that it would run with, and exit");
  app.set_version_flag("--version", std::string("sluiced ") + kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }

  Config config;
  std::vector<std::string> notes;
  if (path.empty()) {
    Defaults defaults = default_config(this_environment());
    config = std::move(defaults.config);
    notes = std::move(defaults.notes);
  } else {
    ConfigReport report = check_config(path);
    if (!report.ok()) {
      std::fprintf(stderr, "%s\n", report.text().c_str());
      return kExitUsage;
    }
    config = std::move(report.config);
    notes = std::move(report.notes);
  }
  if (list) {
    for (const ConfigValue& value : list_config(config)) {
      std::printf("%s = %s\n", value.key.c_str(), value.value.c_str());
    }
    return 0;
  }
  if (check) {
    std::printf("%s: ok\n", path.empty() ? "defaults" : path.c_str());
    return 0;
  }
  start_logging(config.daemon.log_level, config.daemon.log_format);
  for (const std::string& note : notes) log_info(note);
  raise_descriptor_limit();
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // an extent beyond the file size limit is an error like any other
  auto store = open_store(config);
  if (!store) return failed(store.error());
  auto devices = make_devices(config);
  if (!devices) return failed(devices.error());
  auto daemon =
      Daemon::create(std::move(config), path, {std::move(*devices), std::move(*store), {}});
  if (!daemon) return failed(daemon.error());
  (*daemon)->run();
  return 0;
}
