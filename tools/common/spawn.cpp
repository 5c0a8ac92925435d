#include "tools/common/spawn.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "ipc/layout.h"

#include "tools/common/interrupt.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kStartTimeout{20};
constexpr std::chrono::seconds kStopTimeout{10};
constexpr std::chrono::milliseconds kPoll{5};
constexpr std::size_t kLogTailBytes = 4000;

std::string config_text(const DaemonSpec& spec, const std::string& folder) {
  std::uint64_t hbm = 0;
  std::uint64_t dram = 0;
  for (const DaemonSpec::Tenant& tenant : spec.tenants) {
    hbm += tenant.hbm_bytes;
    dram += tenant.dram_bytes;
  }
  const auto bytes = [](std::uint64_t value) { return "\"" + std::to_string(value) + "B\"\n"; };
  std::ostringstream text;
  text << "[daemon]\nsocket = \"" << folder << "/sluice.sock\"\nlog_level = \"warn\"\n";
  if (spec.cuda) {
    text << "[backend]\nkind = \"cuda\"\n";
    if (!spec.gpu.empty()) {
      text << "devices = [\"" << spec.gpu << "\"";
      for (const std::string& gpu : spec.more_gpus) text << ", \"" << gpu << "\"";
      text << "]\n";
    }
    if (!spec.worker_idle.empty()) text << "worker_idle = \"" << spec.worker_idle << "\"\n";
  }
  text << "[tiers.hbm]\ncapacity = " << bytes(hbm) << "extent = " << bytes(spec.hbm_extent_bytes)
       << "[tiers.dram]\ncapacity = " << bytes(dram)
       << "extent = " << bytes(spec.dram_extent_bytes);
  if (!spec.nvme_directory.empty()) {
    text << "[tiers.nvme]\ndirectories = [\"" << spec.nvme_directory << ":" << spec.nvme_bytes
         << "B\"]\nsegment = " << bytes(spec.nvme_segment_bytes);
  }
  // Longer than anybody takes to start the next one.
  if (spec.warm) text << "[restart]\nwarm = true\nkeeper_idle = \"30s\"\n";
  for (const DaemonSpec::Tenant& tenant : spec.tenants) {
    text << "[[tenant]]\nname = \"" << tenant.name << "\"\nsocket = \"" << folder << "/"
         << tenant.name << ".sock\"\n"
         << "hbm.guaranteed = " << bytes(tenant.hbm_bytes)
         << "hbm.limit = " << bytes(tenant.hbm_bytes)
         << "dram.guaranteed = " << bytes(tenant.dram_bytes)
         << "dram.limit = " << bytes(tenant.dram_bytes);
    if (!spec.mps_pipe_directory.empty()) {
      text << "mps_pipe_directory = \"" << spec.mps_pipe_directory << "\"\n";
    }
  }
  return text.str();
}

std::string tail_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return {};
  file.seekg(0, std::ios::end);
  const auto size = static_cast<std::streamoff>(file.tellg());
  const auto limit = static_cast<std::streamoff>(kLogTailBytes);
  file.seekg(size > limit ? size - limit : 0);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string words_for(int status) {
  if (WIFEXITED(status)) return "exited with code " + std::to_string(WEXITSTATUS(status));
  if (WIFSIGNALED(status)) {
    return std::string("was ended by signal ") + std::to_string(WTERMSIG(status)) + " (" +
           ::strsignal(WTERMSIG(status)) + ")";
  }
  return "ended";
}

}  // namespace

struct SpawnedDaemon::State {
  std::string folder;
  std::string log_file;
  std::string program;
  std::string config;
  std::vector<std::string> tenants;
  bool keep_folder = false;
  pid_t pid = -1;
  std::optional<int> status;

  bool poll() {  // whether it has ended
    if (!status && pid > 0) {
      int value = 0;
      if (::waitpid(pid, &value, WNOHANG) == pid) status = value;
    }
    return status.has_value();
  }

  // The one that this daemon started, if it did; its lock file says who it is. It is no child of
  // ours.
  void end_keeper() const {
    std::ifstream lock(folder + "/sluice.sock.keeper.lock");
    pid_t keeper = 0;
    if (!(lock >> keeper) || keeper <= 0) return;
    const auto deadline = Clock::now() + kStopTimeout;
    while (::kill(keeper, SIGTERM) == 0 && Clock::now() < deadline &&
           accepts_connections(folder + "/sluice.sock.keeper", SOCK_SEQPACKET)) {
      std::this_thread::sleep_for(kPoll);
    }
  }
};

SpawnedDaemon::SpawnedDaemon(std::unique_ptr<State> state) : state_(std::move(state)) {}
SpawnedDaemon::SpawnedDaemon(SpawnedDaemon&&) noexcept = default;
SpawnedDaemon::~SpawnedDaemon() { stop(); }

std::string SpawnedDaemon::admin_socket() const { return state_->folder + "/sluice.sock"; }
std::string SpawnedDaemon::tenant_socket(const std::string& tenant) const {
  return state_->folder + "/" + tenant + ".sock";
}
const std::string& SpawnedDaemon::folder() const { return state_->folder; }
pid_t SpawnedDaemon::pid() const { return state_->pid; }

std::string mps_pipe_directory() {
  const char* const directory = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
  return directory != nullptr ? directory : "/tmp/nvidia-mps";
}

std::string beside_this_program(const char* name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string(name) : (self.parent_path() / name).string();
}

std::uint64_t spawn_extent_bytes(std::uint64_t tier_bytes, std::uint64_t item_bytes,
                                 std::uint64_t alignment) {
  constexpr std::uint64_t kLeast = std::uint64_t{1} << 20;
  constexpr std::uint64_t kMost = std::uint64_t{64} << 20;
  constexpr std::uint64_t kExtentsPerTenant = 128;
  const std::uint64_t wanted = std::clamp(tier_bytes / kExtentsPerTenant, kLeast, kMost);
  return ipc::extent_bytes_for(item_bytes, alignment, std::max(wanted, item_bytes));
}

bool accepts_connections(const std::string& socket_path, int type) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) return false;
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  const int fd = ::socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool connected =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::close(fd);
  return connected;
}

namespace {

// In the child: becomes the daemon, or ends with a line in its log.
[[noreturn]] void become_daemon(const std::string& program, const std::string& config, int log,
                                pid_t parent) {
  ::setpgid(0, 0);
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  const int null = ::open("/dev/null", O_RDONLY);
  if (null >= 0) ::dup2(null, STDIN_FILENO);
  ::execl(program.c_str(), "sluiced", "--config", config.c_str(), static_cast<char*>(nullptr));
  ::dprintf(STDERR_FILENO, "%s cannot be started: %s\n", program.c_str(), std::strerror(errno));
  ::_exit(127);
}

}  // namespace

ipc::Result<SpawnedDaemon> SpawnedDaemon::start(const DaemonSpec& spec) {
  auto state = std::make_unique<State>();
  const char* const tmp = std::getenv("TMPDIR");
  std::string pattern =
      std::string(tmp != nullptr && *tmp != '\0' ? tmp : "/tmp") + "/sluice-run-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) return ipc::fail_errno("mkdtemp of " + pattern);
  state->folder = pattern;
  state->keep_folder = spec.keep_folder;
  state->log_file = spec.log_file.empty() ? state->folder + "/sluiced.log" : spec.log_file;
  SpawnedDaemon daemon(std::move(state));
  State& self = *daemon.state_;

  const std::string config = self.folder + "/sluiced.toml";
  {
    std::ofstream file(config);
    file << config_text(spec, self.folder);
    if (!file.flush()) return ipc::fail_errno("writing " + config);
  }
  self.program = spec.program;
  self.config = config;
  for (const DaemonSpec::Tenant& tenant : spec.tenants) self.tenants.push_back(tenant.name);
  ::unlink(self.log_file.c_str());
  if (auto launched = daemon.launch(); !launched) return std::unexpected(launched.error());
  return daemon;
}

ipc::Status SpawnedDaemon::launch() {
  State& self = *state_;
  const int log = ::open(self.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return ipc::fail_errno("opening the daemon's log " + self.log_file);
  const pid_t parent = ::getpid();
  self.status.reset();
  self.pid = ::fork();
  if (self.pid == 0) become_daemon(self.program, self.config, log, parent);
  ::close(log);
  if (self.pid < 0) return ipc::fail_errno("fork for the daemon");

  std::vector<std::string> sockets{admin_socket()};
  for (const std::string& tenant : self.tenants) sockets.push_back(tenant_socket(tenant));
  const auto deadline = Clock::now() + kStartTimeout;
  while (!sockets.empty()) {
    if (interrupted()) return fail(Errc::daemon_away, "interrupted while the daemon started");
    if (const auto dead = death()) return fail(Errc::daemon_away, *dead);
    if (accepts_connections(sockets.back())) {
      sockets.pop_back();
      continue;
    }
    if (Clock::now() >= deadline) {
      return fail(Errc::daemon_away, "the daemon does not accept connections at " + sockets.back() +
                                         " within " + std::to_string(kStartTimeout.count()) +
                                         " s; its log ends:\n" + tail_of(self.log_file));
    }
    std::this_thread::sleep_for(kPoll);
  }
  return {};
}

void SpawnedDaemon::kill() {
  if (state_->pid <= 0 || state_->poll()) return;
  ::kill(state_->pid, SIGKILL);
  int value = 0;
  if (::waitpid(state_->pid, &value, 0) == state_->pid) state_->status = value;
}

ipc::Status SpawnedDaemon::restart(bool cold) {
  if (cold) state_->end_keeper();
  return launch();
}

std::optional<std::string> SpawnedDaemon::death() {
  if (!state_->poll()) return std::nullopt;
  return "the daemon " + words_for(*state_->status) + "; its log ends:\n" +
         tail_of(state_->log_file);
}

void SpawnedDaemon::stop() {
  if (!state_) return;
  if (state_->pid > 0 && !state_->poll()) {
    ::kill(state_->pid, SIGTERM);
    const auto deadline = Clock::now() + kStopTimeout;
    while (!state_->poll() && Clock::now() < deadline) std::this_thread::sleep_for(kPoll);
    if (!state_->poll()) {
      ::kill(state_->pid, SIGKILL);
      int value = 0;
      if (::waitpid(state_->pid, &value, 0) == state_->pid) state_->status = value;
    }
  }
  if (!state_->folder.empty()) state_->end_keeper();
  if (!state_->keep_folder && !state_->folder.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(state_->folder, ignored);
    state_->folder.clear();
  }
}

}  // namespace sluice::tools
