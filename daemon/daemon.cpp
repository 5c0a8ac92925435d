#include "daemon/daemon.h"

#include <csignal>
#include <utility>  // Boost 1.74's awaitable.hpp forgets it

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include "daemon/admin.h"
#include "daemon/coordinator.h"
#include "daemon/health_watch.h"
#include "daemon/kept_open.h"
#include "daemon/lanes.h"
#include "daemon/logging.h"
#include "daemon/metrics.h"
#include "daemon/metrics_source.h"
#include "daemon/server.h"
#include "daemon/systemd.h"
#include "daemon/version.h"
#include "ipc/kill_point.h"

namespace sluice::daemon {

namespace asio = boost::asio;

namespace {

constexpr std::chrono::seconds kStepLookInterval{1};
constexpr int kMostExcused = 4;  // deadlines of a step that waits for a device

void tell(const ipc::Status& status) {
  if (!status) log_warn("systemd was not told", {{"reason", status.error().text}});
}

}  // namespace

struct Daemon::Impl {
  Impl(Config its_config, std::string its_path)
      : config(std::move(its_config)), config_path(std::move(its_path)) {}

  ipc::Status start(DaemonParts parts);
  ipc::Result<Reload> reload();
  void apply_nvme_quotas(const Config& then) const;
  void on_hangup();
  void on_stop(int number);
  void await_signal();
  void schedule_tick(std::chrono::milliseconds in);
  void schedule_step_look();
  void schedule_health_sample();
  void schedule_watchdog();

  Config config;
  std::string config_path;
  asio::io_context io{1};
  asio::signal_set signals{io};
  asio::steady_timer tick_timer{io};
  asio::steady_timer step_timer{io};
  asio::steady_timer health_timer{io};
  asio::steady_timer watchdog_timer{io};
  bool stopping = false;
  // Sessions in a step for longer than the deadline, since they wait for a device; since when.
  std::map<ipc::SessionId, std::chrono::steady_clock::time_point> excused;
  SystemdNotifier systemd;
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<HealthWatch> health;
  std::unique_ptr<Lanes> lanes;
  std::unique_ptr<Admin> admin;
  std::unique_ptr<Server> server;
  std::optional<Metrics> metrics;
};

ipc::Status Daemon::Impl::start(DaemonParts parts) {
  Devices& devices = parts.devices;
  if (auto ok = make_socket_folder(config); !ok) return ok;
  auto notifier = SystemdNotifier::from_environment();
  if (!notifier) return std::unexpected(std::move(notifier.error()));
  systemd = std::move(*notifier);
  auto left = keep_in(std::move(parts.store), config, devices);
  auto found = left->take();
  if (!found) return std::unexpected(std::move(found.error()));
  if (!found->cold_because.empty()) {
    log_warn("a cold start: what a daemon of before left is of no use here",
             {{"reason", found->cold_because}});
  }
  if (auto ended = end_workers(found->workers); !ended) return ended;
  left->forget_workers();
  for (std::uint32_t i = 0; i < devices.size(); ++i) {
    devices[i]->on_worker([kept = left.get(), i](std::uint32_t number, pid_t pid) {
      kept->keep_worker(ipc::DeviceId{i}, number, pid);
    });
  }
  // What sequences of before have only there is held before anything may be dropped.
  auto nvme = NvmeTier::open(config, parts.tune_store, storage::Cleaning::when_asked);
  if (!nvme) return std::unexpected(std::move(nvme.error()));
  auto made = Coordinator::create(config, std::move(devices), std::move(*nvme), std::move(left));
  if (!made) return std::unexpected(std::move(made.error()));
  coordinator = std::move(*made);
  std::vector<KeptSession> sessions = coordinator->adopt(std::move(*found));
  if (coordinator->nvme() != nullptr) coordinator->nvme()->clean_as_needed();
  std::vector<std::string> mps;
  mps.reserve(config.tenants.size());
  for (const TenantConfig& tenant : config.tenants) mps.push_back(tenant.mps_pipe_directory);
  health = std::make_unique<HealthWatch>(*coordinator, std::move(mps));
  lanes = std::make_unique<Lanes>(*coordinator, config.rings, config.daemon.lanes);
  admin =
      std::make_unique<Admin>(config, *coordinator,
                              AdminHooks{.sessions = [this] { return server->sessions(); },
                                         .end_session =
                                             [this](ipc::SessionId session, const SessionEnd& why) {
                                               return server->end_session(session, why);
                                             },
                                         .drain =
                                             [this](bool on) {
                                               health->drain(on);
                                               server->drain(on);
                                             },
                                         .draining = [this] { return health->draining(); },
                                         .health = [this] { return health->look(); },
                                         .metrics_address = [this] { return metrics->address(); },
                                         .reload = [this] { return reload(); }});
  server = std::make_unique<Server>(
      io, config, *coordinator, *lanes,
      [this](const AdminScope& scope, std::string_view verb, std::string_view arguments) {
        return admin->run(scope, verb, arguments);
      });
  server->expect(std::move(sessions));
  auto exposer = Metrics::start(
      config.metrics.address,
      // A copy: the server's thread reads it while a reload may write ours.
      [this, copy = config] { return collect_metrics(copy, *coordinator, *health); });
  if (!exposer) return std::unexpected(std::move(exposer.error()));
  metrics = std::move(*exposer);
  if (!metrics->address().empty()) {
    log_info("metrics are served", {{"address", metrics->address()}});
  }
  auto listening = server->listen();
  SLUICE_KILL_POINT("adopt.serving");
  return listening;
}

ipc::Result<Reload> Daemon::Impl::reload() {
  if (config_path.empty()) {
    return ipc::fail(ipc::Errc::wrong_state, "the daemon was started without a configuration file");
  }
  auto wanted = load_config(config_path);
  if (!wanted) return std::unexpected(std::move(wanted.error()));
  auto plan = plan_reload(config, *wanted);
  if (!plan) return std::unexpected(std::move(plan.error()));
  // Guarantees that shrink go first, so that those that grow find room.
  for (const bool growing : {false, true}) {
    for (std::uint32_t i = 0; i < config.tenants.size(); ++i) {
      const auto apply = [&](ipc::Tier tier, const QuotaConfig& now, const QuotaConfig& then) {
        if (now == then || (then.guaranteed_bytes > now.guaranteed_bytes) != growing) return;
        auto done = coordinator->set_quota(ipc::TenantId{i}, tier,
                                           {then.guaranteed_bytes, then.limit_bytes, then.weight});
        if (!done) log_error("a quota was not applied", {{"reason", done.error().text}});
      };
      apply(ipc::Tier::hbm, config.tenants[i].hbm, plan->config.tenants[i].hbm);
      apply(ipc::Tier::dram, config.tenants[i].dram, plan->config.tenants[i].dram);
    }
  }
  apply_nvme_quotas(plan->config);
  config = plan->config;
  set_log_level(config.daemon.log_level);
  for (const auto& change : plan->applied) {
    log_info("configuration changed",
             {{"key", change.key}, {"was", change.now}, {"is", change.wanted}});
  }
  for (const auto& change : plan->deferred) {
    log_warn("a changed key takes a restart",
             {{"key", change.key}, {"is", change.now}, {"wanted", change.wanted}});
  }
  return plan;
}

void Daemon::Impl::apply_nvme_quotas(const Config& then) const {
  NvmeTier* const nvme = coordinator->nvme();
  if (nvme == nullptr) return;
  for (std::size_t i = 0; i < config.tenants.size(); ++i) {
    if (config.tenants[i].nvme == then.tenants[i].nvme) continue;
    if (auto done = nvme->set_quota(then.tenants[i]); !done) {
      log_error("a quota was not applied", {{"reason", done.error().text}});
    }
  }
}

void Daemon::Impl::on_hangup() {
  tell(systemd.reloading());
  if (auto done = reload(); !done) {
    log_error("the configuration was not reloaded; everything stays as it is",
              {{"reason", done.error().text}});
  }
  tell(systemd.ready("serving"));
}

void Daemon::Impl::on_stop(int number) {
  log_info("stopping", {{"signal", std::int64_t{number}}});
  tell(systemd.stopping("stopping"));
  stopping = true;  // for timers that are due already, which cannot be cancelled
  server->stop("the daemon stops");
  // What is left ends by itself, and the loop runs out of work.
  tick_timer.cancel();
  step_timer.cancel();
  health_timer.cancel();
  watchdog_timer.cancel();
}

void Daemon::Impl::await_signal() {
  signals.async_wait([this](boost::system::error_code error, int number) {
    if (error) return;
    if (number == SIGHUP) {
      on_hangup();
      await_signal();
    } else {
      on_stop(number);
    }
  });
}

void Daemon::Impl::schedule_tick(std::chrono::milliseconds in) {
  tick_timer.expires_after(in);
  tick_timer.async_wait([this](boost::system::error_code error) {
    if (!error && !stopping) schedule_tick(coordinator->tick());
  });
}

void Daemon::Impl::schedule_step_look() {
  step_timer.expires_after(kStepLookInterval);
  step_timer.async_wait([this](boost::system::error_code error) {
    if (error || stopping) return;
    const auto now = std::chrono::steady_clock::now();
    const auto deadline = config.limits.step_deadline;
    std::map<ipc::SessionId, std::chrono::steady_clock::time_point> still_excused;
    for (const auto& [session, why] : coordinator->overdue_steps(now)) {
      const auto found = excused.find(session);
      const auto since = found == excused.end() ? now : found->second;
      if (now - since < kMostExcused * deadline &&
          server->waited_for_device(session, now, deadline)) {
        still_excused.emplace(session, since);
        continue;
      }
      (void)server->end_session(session, why);
    }
    excused = std::move(still_excused);
    schedule_step_look();
  });
}

void Daemon::Impl::schedule_health_sample() {
  health_timer.expires_after(RecentCounts::kSampleInterval);
  health_timer.async_wait([this](boost::system::error_code error) {
    if (error || stopping) return;
    health->sample();
    schedule_health_sample();
  });
}

void Daemon::Impl::schedule_watchdog() {
  const auto interval = systemd.watchdog_interval();
  if (!interval) return;
  watchdog_timer.expires_after(*interval);
  watchdog_timer.async_wait([this](boost::system::error_code error) {
    if (error || stopping) return;
    tell(systemd.watchdog());
    schedule_watchdog();
  });
}

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Daemon::~Daemon() = default;

ipc::Result<std::unique_ptr<Daemon>> Daemon::create(Config config, std::string config_path,
                                                    DaemonParts parts) {
  auto impl = std::make_unique<Impl>(std::move(config), std::move(config_path));
  boost::system::error_code error;
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) (void)impl->signals.add(number, error);
  if (auto started = impl->start(std::move(parts)); !started) {
    return std::unexpected(std::move(started.error()));
  }
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

void Daemon::run() {
  impl_->await_signal();
  impl_->schedule_tick(std::chrono::milliseconds(0));
  impl_->schedule_step_look();
  impl_->schedule_health_sample();
  impl_->schedule_watchdog();
  tell(impl_->systemd.ready("serving"));
  log_info("serving", {{"version", kVersion}, {"socket", impl_->config.daemon.socket}});
  impl_->io.run();
  impl_->server.reset();
  // Lanes first: they hold sessions and the tables of caches.
  impl_->metrics.reset();
  impl_->lanes.reset();
  impl_->coordinator.reset();
  log_info("stopped");
}

}  // namespace sluice::daemon
