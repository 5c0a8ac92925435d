#include "daemon/lanes.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "daemon/lane_session.h"
#include "daemon/logging.h"
#include "daemon/session.h"
#include "ipc/fd.h"
#include "ipc/waiter.h"

namespace sluice::daemon {

namespace {

constexpr int kEpollEvents = 64;

}  // namespace

class Lane {
 public:
  Lane(Coordinator& coordinator, std::chrono::microseconds spin)
      : coordinator_(coordinator),
        spin_(spin),
        yields_(ipc::usable_processors() <= ipc::AdaptiveSpin::kFewCores),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        wake_(std::make_shared<ipc::Fd>(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))) {
    SLUICE_ASSERT(epoll_ && *wake_);
    watch(wake_->get(), nullptr);
    thread_ = std::thread([this] { run(); });
  }

  ~Lane() {
    stopping_.store(true, std::memory_order_relaxed);
    ring(*wake_);
    thread_.join();
  }

  // Runs `command` on the lane's thread, between requests.
  void post(std::function<void()> command) {
    {
      const std::lock_guard lock(mutex_);
      commands_.push_back(std::move(command));
      has_commands_.store(true, std::memory_order_release);
    }
    ring(*wake_);
  }

  void add(std::shared_ptr<Session> session, Lanes::OnEnd on_end) {
    auto served = std::make_unique<Served>();
    served->id = session->id;
    served->on_end = std::move(on_end);
    served->bell_fd = session->bell.fd();
    // An executor may ring when the lane is gone.
    served->requests = std::make_unique<LaneSession>(std::move(session), coordinator_,
                                                     [wake = wake_] { ring(*wake); });
    watch(served->bell_fd, served.get());
    sessions_.push_back(std::move(served));
  }

  void stop(ipc::SessionId id) {
    if (Served* served = find(id); served != nullptr) served->stopped = true;
  }

  void forget_cache(ipc::SessionId id, ipc::CacheId cache) {
    if (Served* served = find(id); served != nullptr) served->requests->forget_cache(cache);
  }

  // Calls `done` once the lane, and whoever works for the session on a device, has let go of it.
  void remove(ipc::SessionId id, std::function<void()> done) {
    Served* served = find(id);
    if (served == nullptr) return done();
    unwatch(*served);
    served->stopped = true;
    served->removed = std::move(done);
    ++removing_;
    finish_removals();
  }

 private:
  struct Served {
    ipc::SessionId id;
    Lanes::OnEnd on_end;
    std::unique_ptr<LaneSession> requests;
    int bell_fd = -1;
    bool watched = true;
    bool stopped = false;
    std::function<void()> removed;  // to be called, if it is on its way out
  };

  Served* find(ipc::SessionId id) {
    const auto found = std::find_if(sessions_.begin(), sessions_.end(),
                                    [&](const auto& served) { return served->id == id; });
    return found == sessions_.end() ? nullptr : found->get();
  }

  static void ring(const ipc::Fd& wake) {
    const std::uint64_t one = 1;
    (void)!write(wake.get(), &one, sizeof(one));
  }

  void finish_removals() {
    std::vector<std::unique_ptr<Served>> gone;
    for (auto& served : sessions_) {
      if (!served->removed || served->requests->waits_for_device()) continue;
      gone.push_back(std::move(served));
    }
    removing_ -= gone.size();
    std::erase(sessions_, nullptr);
    for (auto& served : gone) {
      const auto done = std::move(served->removed);
      served.reset();
      done();
    }
  }

  void watch(int fd, Served* served) const {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.ptr = served;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      log_error("a lane cannot watch a doorbell; requests of a sleeping session may wait",
                {{"reason", ipc::fail_errno("epoll_ctl").error().text}});
    }
  }

  void unwatch(Served& served) const {
    if (std::exchange(served.watched, false)) {
      epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, served.bell_fd, nullptr);
    }
  }

  void run() {
    auto idle_since = std::chrono::steady_clock::now();
    while (!stopping_.load(std::memory_order_relaxed)) {
      if (has_commands_.load(std::memory_order_acquire)) run_commands();
      if (removing_ > 0) finish_removals();
      if (serve_all()) {
        idle_since = std::chrono::steady_clock::now();
        continue;
      }
      if (std::chrono::steady_clock::now() - idle_since < spin_) {
        if (yields_) std::this_thread::yield();
        continue;
      }
      sleep();
      idle_since = std::chrono::steady_clock::now();
    }
  }

  void run_commands() {
    std::vector<std::function<void()>> commands;
    {
      const std::lock_guard lock(mutex_);
      commands.swap(commands_);
      has_commands_.store(false, std::memory_order_relaxed);
    }
    for (auto& command : commands) command();
  }

  bool serve_all() {
    bool worked = false;
    for (const auto& served : sessions_) {
      if (served->stopped) continue;
      auto some = serve(*served);
      if (some) {
        worked |= *some;
      } else {
        end(*served, some.error());
      }
    }
    return worked;
  }

  static std::expected<bool, SessionEnd> serve(Served& served) {
    try {
      return served.requests->serve(Lanes::kBurst);
    } catch (const std::bad_alloc&) {
      ipc::Error error{ipc::Errc::no_memory,
                       "the daemon had no memory for a request of this session"};
      return std::unexpected(SessionEnd{std::move(error), std::nullopt});
    }
  }

  static void end(Served& served, const SessionEnd& why) {
    served.stopped = true;
    served.on_end(why);
  }

  // Sleeps until a doorbell rings, unless a request came while we went to sleep.
  void sleep() {
    bool quiet = true;
    for (const auto& served : sessions_) {
      if (served->stopped) continue;
      auto empty = served->requests->prepare_to_sleep();
      if (!empty) {
        end(*served, empty.error());
      } else if (!*empty) {
        quiet = false;
        break;
      }
    }
    if (quiet) {
      epoll_event events[kEpollEvents];
      const int count = epoll_wait(epoll_.get(), events, kEpollEvents, -1);
      for (int i = 0; i < count; ++i) silence(static_cast<Served*>(events[i].data.ptr));
    }
    for (const auto& served : sessions_) served->requests->awake();
  }

  void silence(Served* served) {
    if (served == nullptr) {
      std::uint64_t ignored = 0;
      (void)!read(wake_->get(), &ignored, sizeof(ignored));
    } else if (served->requests->drain_bell() == ipc::Doorbell::Drained::peer_gone) {
      unwatch(*served);  // a dead peer's bell never falls silent
    }
  }

  Coordinator& coordinator_;
  const std::chrono::microseconds spin_;
  const bool yields_;
  ipc::Fd epoll_;
  const std::shared_ptr<const ipc::Fd> wake_;
  std::vector<std::unique_ptr<Served>> sessions_;  // of the lane's thread
  std::size_t removing_ = 0;                       // of these, on their way out

  std::mutex mutex_;
  std::vector<std::function<void()>> commands_;
  std::atomic<bool> has_commands_{false};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

Lanes::Lanes(Coordinator& coordinator, const RingsConfig& rings, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    lanes_.push_back(std::make_unique<Lane>(coordinator, std::chrono::microseconds(rings.spin_us)));
  }
}

Lanes::~Lanes() = default;

Lane& Lanes::lane_of(ipc::SessionId session) { return *lanes_[session.value % lanes_.size()]; }

void Lanes::add(std::shared_ptr<Session> session, OnEnd on_end) {
  Lane& lane = lane_of(session->id);
  lane.post([&lane, session = std::move(session), on_end = std::move(on_end)]() mutable {
    lane.add(std::move(session), std::move(on_end));
  });
}

void Lanes::stop(ipc::SessionId session) {
  Lane& lane = lane_of(session);
  lane.post([&lane, session] { lane.stop(session); });
}

void Lanes::forget_cache(ipc::SessionId session, ipc::CacheId cache) {
  Lane& lane = lane_of(session);
  lane.post([&lane, session, cache] { lane.forget_cache(session, cache); });
}

void Lanes::remove(ipc::SessionId session, std::function<void()> done) {
  Lane& lane = lane_of(session);
  lane.post([&lane, session, done = std::move(done)]() mutable {
    lane.remove(session, std::move(done));
  });
}

}  // namespace sluice::daemon
