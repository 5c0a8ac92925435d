// sluiced as it is, but for a gate before its memory: gated_sluiced --config FILE.
#include <csignal>
#include <cstdio>
#include <string>
#include <utility>

#include "daemon/config.h"
#include "daemon/daemon.h"
#include "daemon/device.h"
#include "daemon/logging.h"
#include "tests/integration/gate.h"

int main(int argc, char** argv) {
  using namespace sluice::daemon;  // NOLINT(google-build-using-namespace): the entry of its program
  if (argc != 3 || std::string(argv[1]) != "--config") return 2;
  const std::string path = argv[2];
  ConfigReport report = check_config(path);
  if (!report.ok()) {
    std::fprintf(stderr, "%s\n", report.text().c_str());
    return 2;
  }
  start_logging(report.config.daemon.log_level, report.config.daemon.log_format);
  std::signal(SIGPIPE, SIG_IGN);
  auto device = sluice::test::make_gated_device(
      make_host_device(HugePages::never, HugePages::never), sluice::test::gate_beside(path));
  auto daemon =
      Daemon::create(std::move(report.config), path, {one_device(std::move(device)), nullptr, {}});
  if (!daemon) {
    std::fprintf(stderr, "gated_sluiced: %s\n", daemon.error().text.c_str());
    return 1;
  }
  (*daemon)->run();
  return 0;
}
