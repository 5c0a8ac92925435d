#include "daemon/device_client.h"

#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "daemon/logging.h"
#include "ipc/deadline.h"
#include "ipc/message.h"

namespace sluice::daemon {

namespace worker = device_worker::wire;
using device_worker::make_message;
using flatbuffers::FlatBufferBuilder;
using ipc::Errc;
using ipc::fail;

namespace {

// Until a killed process is really dead: the driver gives back what it had, and what it had pinned
// takes time.
constexpr std::chrono::seconds kDeathPatience{30};
// For one that closed its socket to be dead by itself, so that one can say how.
constexpr std::chrono::seconds kDyingPatience{1};
constexpr std::chrono::microseconds kReapPause{100};
// For DRAM that could not be pinned to be tried again.
constexpr std::chrono::seconds kPinAgain{1};
// The descriptor of a worker's socket in that worker.
constexpr int kWorkerSocket = 3;

// Waits until a child is dead, and takes note of it: its status, or nothing at the deadline.
std::optional<int> reap(pid_t pid, ipc::Deadline deadline) {
  SLUICE_ASSERT(pid > 0);
  const ipc::Fd watch(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (watch) {
    pollfd dead{watch.get(), POLLIN, 0};
    (void)ipc::poll_until(&dead, 1, deadline);
  }
  // A descriptor may tell of the death a moment before the kernel lets the parent have it.
  for (;;) {
    int status = 0;
    const pid_t gone = waitpid(pid, &status, WNOHANG);
    if (gone == pid) return status;
    if (gone < 0 && errno == ECHILD) return 0;  // somebody else did
    if (ipc::Clock::now() >= deadline) return std::nullopt;
    std::this_thread::sleep_for(kReapPause);
  }
}

// Another worker would say the same.
bool is_final(const ipc::Error& refusal) {
  return refusal.code == Errc::not_supported || refusal.code == Errc::bad_config ||
         refusal.code == Errc::device_lost;
}

std::string describe_end(int status) {
  if (WIFSIGNALED(status)) {
    return std::string("was ended by signal ") + std::to_string(WTERMSIG(status));
  }
  return "ended with status " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

DeviceClient::DeviceClient(Options options) : options_(std::move(options)) {}

DeviceClient::~DeviceClient() {
  const std::lock_guard lock(mutex_);
  (void)bury();
  for (const pid_t pid : leaving_) {
    (void)kill(pid, SIGKILL);
    (void)reap(pid, ipc::deadline_in(kDeathPatience));
  }
}

ipc::Status DeviceClient::start() {
  if (access(options_.program.c_str(), X_OK) != 0) {
    return fail(Errc::not_supported,
                "the device worker " + options_.program +
                    " cannot be started: " + std::strerror(errno) +
                    "; backend.kind = \"cuda\" needs a build that found CUDA, and the program "
                    "beside sluiced or named by backend.device_worker");
  }
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    return ipc::fail_errno("socketpair for a device worker");
  }
  ipc::Fd ours(ends[0]);
  const ipc::Fd theirs(ends[1]);

  std::array<std::string, 7> words = {options_.program,
                                      "--socket",
                                      std::to_string(kWorkerSocket),
                                      "--parent",
                                      std::to_string(getpid()),
                                      "--device",
                                      options_.device};
  std::array<char*, words.size() + 1> arguments{};
  for (std::size_t i = 0; i < words.size(); ++i) arguments[i] = words[i].data();
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0) return ipc::fail_errno("posix_spawn");
  // Also where both are the same: the copy is kept over the exec.
  (void)posix_spawn_file_actions_adddup2(&actions, theirs.get(), kWorkerSocket);
  // The first of a name counts.
  std::vector<char*> environment;
  environment.reserve(options_.environment.size());
  for (std::string& variable : options_.environment) environment.push_back(variable.data());
  for (char** variable = environ; *variable != nullptr; ++variable) {
    environment.push_back(*variable);
  }
  environment.push_back(nullptr);
  const int error = posix_spawn(&pid_, options_.program.c_str(), &actions, nullptr,
                                arguments.data(), environment.data());
  (void)posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    pid_ = -1;
    errno = error;
    return ipc::fail_errno("starting the device worker " + options_.program);
  }
  socket_ = std::move(ours);
  reader_ = ipc::FrameReader(ipc::FdPolicy::accept);
  broken_ = false;
  auto copy = ipc::duplicate(socket_.get());
  {
    const std::lock_guard lock(health_mutex_);
    health_.worker = pid_;
    if (copy) quit_socket_ = std::move(*copy);
    if (quitting_ && quit_socket_) (void)shutdown(quit_socket_.get(), SHUT_RDWR);
  }
  log_debug("device worker started", {{"pid", std::int64_t{pid_}}});
  started_(pid_);
  return {};
}

void DeviceClient::on_start(std::function<void(pid_t)> listener) {
  const std::lock_guard lock(mutex_);
  started_ = std::move(listener);
  if (pid_ >= 0) started_(pid_);
}

// Nothing more is asked of this worker.
void DeviceClient::hang_up() {
  socket_.reset();
  open_tables_.clear();
  open_arenas_.clear();
  note_pinned(-1);
}

void DeviceClient::note_pinned(pid_t worker) {
  std::uint64_t bytes = 0;
  for (const auto& [number, extents] : open_arenas_) bytes += extents.pinned_bytes;
  const std::lock_guard lock(health_mutex_);
  health_.worker = worker;
  health_.pinned_bytes = bytes;
  if (worker < 0) quit_socket_.reset();
}

ipc::Status DeviceClient::bury() {
  hang_up();
  if (pid_ < 0) return {};
  (void)kill(pid_, SIGKILL);
  if (!reap(pid_, ipc::deadline_in(kDeathPatience))) {
    return fail(Errc::io_error, "the device worker, pid " + std::to_string(pid_) +
                                    ", was killed and does not die: the GPU or its driver hangs");
  }
  pid_ = -1;
  return {};
}

// Notes that the worker is of no more use, and how it ended, if it did.
ipc::Error DeviceClient::broken(ipc::Error reason) {
  broken_ = true;
  if (pid_ >= 0 && reason.code == Errc::daemon_away) {
    // Its socket is closed: it is dying, or will be made to.
    if (const auto end = reap(pid_, ipc::deadline_in(kDyingPatience))) {
      pid_ = -1;
      reason.text = "the device worker " + describe_end(*end) + " before it answered";
    }
  }
  return reason;
}

const ipc::Error& DeviceClient::note_hang(const ipc::Error& reason) {
  last_used_ = std::chrono::steady_clock::now();
  const std::lock_guard lock(health_mutex_);
  health_.state = DeviceHealth::State::silent;
  return refusal_.emplace(reason, options_.rest).error;
}

// A new worker gets no context. Before the GPU was found that is a matter of the configuration.
ipc::Error DeviceClient::note_refusal(ipc::Error reason) {
  if (!options_.known) return reason;
  reason = {Errc::device_lost, "the GPU " + options_.device + " is lost: " + reason.text +
                                   "; it is tried again while there is something to do on it"};
  refusal_.emplace(reason, options_.lost_rest);
  const std::lock_guard lock(health_mutex_);
  if (health_.state != DeviceHealth::State::lost) log_error(reason.text);
  health_.state = DeviceHealth::State::lost;
  health_.text = reason.text;
  return reason;
}

void DeviceClient::note_answer() {
  const std::lock_guard lock(health_mutex_);
  if (health_.state == DeviceHealth::State::well) return;
  log_info("the GPU answers again", {{"device", options_.device}});
  health_.state = DeviceHealth::State::well;
  health_.text.clear();
}

void DeviceClient::note_failure(const std::string& how) {
  const std::lock_guard lock(health_mutex_);
  ++health_.worker_failures;
  log_warn("the device worker failed", {{"reason", how}, {"failures", health_.worker_failures}});
}

DeviceHealth DeviceClient::health() const {
  const std::lock_guard lock(health_mutex_);
  DeviceHealth health = health_;
  const bool silent =
      asking_since_ && std::chrono::steady_clock::now() - *asking_since_ >= options_.silence;
  if (health.state == DeviceHealth::State::well && silent) {
    health.state = DeviceHealth::State::silent;
  }
  return health;
}

// Tells health() since when a request is under way.
class DeviceClient::Asking {
 public:
  explicit Asking(DeviceClient& client) : client_(client) { set(std::chrono::steady_clock::now()); }
  ~Asking() { set(std::nullopt); }
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

 private:
  void set(std::optional<std::chrono::steady_clock::time_point> since) {
    const std::lock_guard lock(client_.health_mutex_);
    client_.asking_since_ = since;
  }
  DeviceClient& client_;
};

template <class Ask>
auto DeviceClient::with_worker(Ask&& ask, Retry retry) {
  const std::lock_guard lock(mutex_);
  using Answered = decltype(ask());
  // What waits behind a hang would wait as long, one after the other.
  if (refusal_ && std::chrono::steady_clock::now() - last_used_ < refusal_->rest) {
    return Answered(std::unexpected(refusal_->error));
  }
  refusal_.reset();
  const Asking asking(*this);
  Answered answered = fail(Errc::internal, "nobody was asked");
  int hung = 0;
  for (int attempts = retry == Retry::yes ? 2 : 1; attempts > 0; --attempts) {
    if (quitting()) return Answered(std::unexpected(quit_error()));
    if (!socket_ || broken_) {
      if (auto dead = bury(); !dead) return Answered(std::unexpected(note_hang(dead.error())));
      if (auto up = start(); !up) return Answered(std::unexpected(std::move(up.error())));
    }
    answered = ask();
    last_used_ = std::chrono::steady_clock::now();
    if (answered || !broken_) {
      note_answer();
      return answered;
    }
    if (is_final(answered.error())) {
      return Answered(std::unexpected(note_refusal(std::move(answered.error()))));
    }
    note_failure(answered.error().text);
    hung += answered.error().code == Errc::timed_out ? 1 : 0;
  }
  const auto dead = bury();
  if (!dead || hung > 1) (void)note_hang(answered.error());
  return answered;
}

ipc::Result<DeviceClient::Answer> DeviceClient::exchange(const std::vector<std::byte>& request,
                                                         std::span<const int> fds,
                                                         worker::Body expected) {
  const ipc::Deadline deadline = ipc::deadline_in(options_.patience);
  if (auto sent = ipc::send_frame(socket_.get(), request, fds, deadline); !sent) {
    return std::unexpected(broken(std::move(sent.error())));
  }
  auto frame = ipc::receive_frame(reader_, socket_.get(), deadline);
  if (!frame) return std::unexpected(broken(std::move(frame.error())));
  Answer answer{std::move(*frame), nullptr};
  const auto message = device_worker::verify_message(answer.frame.bytes);
  if (!message) return std::unexpected(broken(message.error()));
  answer.message = *message;
  if (answer.message->request() != requests_) {
    return std::unexpected(broken({Errc::peer_violation, "an answer to another request"}));
  }
  if (const auto* failed = answer.message->body_as_Failed(); failed != nullptr) {
    broken_ = failed->leaving();
    return std::unexpected(ipc::error_from_wire(failed->code(), ipc::text_of(failed->text())));
  }
  const bool has_memory = expected == worker::Body::Memory;
  if (answer.message->body_type() != expected ||
      answer.frame.fds.size() != (has_memory ? 1U : 0U)) {
    return std::unexpected(broken(
        {Errc::peer_violation, std::string("the device worker answers with ") +
                                   worker::EnumNameBody(answer.message->body_type()) + " and " +
                                   std::to_string(answer.frame.fds.size()) + " descriptors"}));
  }
  return answer;
}

ipc::Result<device_worker::DeviceFacts> DeviceClient::describe() {
  return with_worker([&]() -> ipc::Result<device_worker::DeviceFacts> {
    auto answer = exchange(
        make_message(++requests_, [](FlatBufferBuilder& b) { return worker::CreateDescribe(b); }),
        {}, worker::Body::Device);
    if (!answer) return std::unexpected(std::move(answer.error()));
    auto facts = device_worker::facts_from(*answer->message->body_as_Device());
    if (facts) {
      options_.device = device_worker::to_string(facts->uuid);
      options_.known = true;
    }
    return facts;
  });
}

ipc::Result<ipc::Fd> DeviceClient::allocate(std::uint64_t bytes) {
  return with_worker([&]() -> ipc::Result<ipc::Fd> {
    auto answer = exchange(
        make_message(++requests_,
                     [&](FlatBufferBuilder& b) { return worker::CreateAllocate(b, bytes); }),
        {}, worker::Body::Memory);
    if (!answer) return std::unexpected(std::move(answer.error()));
    return std::move(answer->frame.fds[0]);
  });
}

// A request that is answered by Done.
ipc::Status DeviceClient::plain(const std::vector<std::byte>& request, std::span<const int> fds) {
  auto answer = exchange(request, fds, worker::Body::Done);
  if (!answer) return std::unexpected(std::move(answer.error()));
  return {};
}

ipc::Status DeviceClient::scrub(const ipc::Fd& memory, std::uint64_t bytes) {
  return with_worker([&]() -> ipc::Status {
    return plain(make_message(++requests_,
                              [&](FlatBufferBuilder& b) { return worker::CreateScrub(b, bytes); }),
                 std::array{memory.get()});
  });
}

ipc::Result<ipc::Fd> DeviceClient::make_table(const kernels::TableSizes& sizes,
                                              const ipc::Fd& node) {
  return with_worker([&]() -> ipc::Result<ipc::Fd> {
    auto answer = exchange(make_message(++requests_,
                                        [&](FlatBufferBuilder& b) {
                                          return worker::CreateMakeTable(
                                              b, device_worker::write_sizes(b, sizes));
                                        }),
                           std::array{node.get()}, worker::Body::Memory);
    if (!answer) return std::unexpected(std::move(answer.error()));
    return std::move(answer->frame.fds[0]);
  });
}

ipc::Status DeviceClient::open_table(const SplitTableParts& table) {
  if (open_tables_.contains(table.number)) return {};
  auto opened =
      plain(make_message(++requests_,
                         [&](FlatBufferBuilder& b) {
                           return worker::CreateOpenTable(
                               b, table.number, device_worker::write_sizes(b, table.sizes));
                         }),
            std::array{table.device.get(), table.node.get()});
  if (opened) open_tables_.insert(table.number);
  return opened;
}

ipc::Status DeviceClient::work(const SplitTableParts& table, const device_worker::TableWork& work) {
  return with_worker([&]() -> ipc::Status {
    if (auto open = open_table(table); !open) return open;
    return plain(make_message(++requests_, [&](FlatBufferBuilder& b) {
      return worker::CreateWorkDirect(b, table.number, &work.idle_actors, &work.seal_pins,
                                      &work.drop_pins, &work.drop_pages);
    }));
  });
}

ipc::Status DeviceClient::read_words(const SplitTableParts& table, std::uint32_t first,
                                     std::uint32_t count, const ipc::Fd& into) {
  return with_worker([&]() -> ipc::Status {
    if (auto open = open_table(table); !open) return open;
    return plain(make_message(++requests_,
                              [&](FlatBufferBuilder& b) {
                                return worker::CreateReadWords(b, table.number, first, count);
                              }),
                 std::array{into.get()});
  });
}

void DeviceClient::forget_table(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  if (open_arenas_.erase(number) != 0) note_pinned(pid_);
  if (!socket_ || broken_ || open_tables_.erase(number) == 0) return;
  // Not worth a second try: what a dead worker kept is gone.
  (void)plain(make_message(
      ++requests_, [&](FlatBufferBuilder& b) { return worker::CreateForgetTable(b, number); }));
  if (broken_) (void)bury();
}

void DeviceClient::quit() {
  const std::lock_guard lock(health_mutex_);
  quitting_ = true;
  if (quit_socket_) (void)shutdown(quit_socket_.get(), SHUT_RDWR);
}

bool DeviceClient::quitting() const {
  const std::lock_guard lock(health_mutex_);
  return quitting_;
}

ipc::Error DeviceClient::quit_error() {
  return {Errc::shutting_down, "the daemon asks its device worker for nothing more"};
}

ipc::Status DeviceClient::open_arena(const ArenaParts& arena) {
  const std::uint64_t number = arena.table.number;
  if (auto open = open_table(arena.table); !open) return open;
  if (!open_arenas_.contains(number)) {
    const device_worker::ArenaShape& shape = arena.shape;
    auto opened = plain(make_message(++requests_,
                                     [&](FlatBufferBuilder& b) {
                                       return worker::CreateOpenArena(
                                           b, number, shape.page_bytes, shape.frame_stride,
                                           shape.slot_extent_bytes, shape.slot_extents,
                                           shape.frame_extent_bytes, shape.frames_per_extent,
                                           shape.frame_extents);
                                     }),
                        std::array{arena.lists.get()});
    if (!opened) return opened;
    open_arenas_[number] = {};
  }
  Extents& mapped = open_arenas_[number];
  if (auto ok = map_extents(arena, ipc::Tier::hbm, mapped.hbm); !ok) return ok;
  return pin_extents(arena, mapped);
}

// What the worker may not pin is not there for it, as for a client that pins by itself.
ipc::Status DeviceClient::pin_extents(const ArenaParts& arena, Extents& mapped) {
  const auto now = std::chrono::steady_clock::now();
  if (mapped.pin_failure.code != Errc::ok && now - mapped.pin_failed_at < kPinAgain) return {};
  const std::uint32_t before = mapped.dram;
  auto pinned = map_extents(arena, ipc::Tier::dram, mapped.dram);
  if (mapped.dram != before) {
    mapped.pinned_bytes = mapped.dram * arena.shape.frame_extent_bytes;
    note_pinned(pid_);
  }
  if (pinned || broken_ || pinned.error().code != Errc::limit_reached) {
    mapped.pin_failure = {Errc::ok, {}};
    return pinned;
  }
  if (mapped.pin_failure.code == Errc::ok) {
    log_error("DRAM cannot be pinned for executor daemon; blocks that lie there are absent",
              {{"reason", pinned.error().text}});
  }
  mapped.pin_failure = std::move(pinned.error());
  mapped.pin_failed_at = now;
  return {};
}

// One by one, so that after an error it is known what is mapped. Pinning takes its time, too.
ipc::Status DeviceClient::map_extents(const ArenaParts& arena, ipc::Tier tier,
                                      std::uint32_t& mapped) {
  while (true) {
    const std::vector<int> next = arena.extents(tier, mapped, 1);
    if (next.empty()) return {};
    auto done = plain(make_message(++requests_,
                                   [&](FlatBufferBuilder& b) {
                                     return worker::CreateMapExtents(
                                         b, arena.table.number, static_cast<std::uint8_t>(tier));
                                   }),
                      next);
    if (!done) return done;
    ++mapped;
  }
}

ipc::Status DeviceClient::in_arena(const ArenaParts& arena, const MakeRequest& make, Retry retry) {
  return with_worker(
      [&]() -> ipc::Status {
        if (auto open = open_arena(arena); !open) return open;
        auto done = plain(make(++requests_));
        if (done || broken_ || done.error().code != Errc::peer_violation) return done;
        // A number that the worker does not know: of a frame that it could not pin, if there are.
        const Extents& mapped = open_arenas_[arena.table.number];
        if (mapped.pin_failure.code == Errc::ok) return done;
        return std::unexpected(mapped.pin_failure);
      },
      retry);
}

void DeviceClient::look_after() {
  const std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock.owns_lock()) return;
  std::erase_if(leaving_, [](pid_t pid) { return reap(pid, ipc::Clock::now()).has_value(); });
  if (!socket_) return;
  if (pid_ < 0) {  // it broke, and is dead
    hang_up();
    return;
  }
  if (const auto end = reap(pid_, ipc::Clock::now())) {
    note_failure("it " + describe_end(*end));
    pid_ = -1;
    hang_up();
    return;
  }
  if (!open_arenas_.empty()) return;
  if (std::chrono::steady_clock::now() - last_used_ < options_.idle) return;
  // It has nothing in hand, so that it ends by itself, and another may begin before it has.
  hang_up();
  leaving_.push_back(std::exchange(pid_, -1));
  log_debug("the idle device worker was let go");
}

}  // namespace sluice::daemon
