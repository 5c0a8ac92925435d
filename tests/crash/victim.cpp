#include "tests/crash/victim.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include "client/sluice.h"
#include "ipc/kill_point.h"
#include "tests/eventually.h"

namespace sluice::crash {

namespace {

constexpr std::size_t kLogEnd = 4000;

std::string program_beside_this(const char* name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / name;
}

}  // namespace

std::size_t descriptors_of(pid_t pid, const std::string& store) {
  std::error_code error;
  std::filesystem::directory_iterator entries("/proc/" + std::to_string(pid) + "/fd", error);
  if (error) return 0;
  std::size_t count = 0;
  for (const auto& entry : entries) {
    // A store has as many files open as it has made.
    const auto file = std::filesystem::read_symlink(entry.path(), error);
    if (store.empty() || !file.string().starts_with(store)) ++count;
  }
  return count;
}

Victim::Victim(const VictimOptions& options)
    : store_(options.store),
      program_(options.program.empty() ? program_beside_this("sluiced") : options.program) {
  std::string folder = std::filesystem::temp_directory_path() / "sluice-crash.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  folder_ = folder;
  write_config(options);
}

void Victim::write_config(const VictimOptions& options) const {
  std::ofstream file(folder_ + "/sluiced.toml");
  file << "[daemon]\nsocket = \"" << admin_socket() << "\"\nlog_level = \"warn\"\n"
       << "max_sessions = 256\n"
       << "[restart]\nwarm = true\nkeeper_idle = \"60s\"\n"
       << "[tiers.hbm]\ncapacity = \"64MiB\"\nextent = \"1MiB\"\n"
       << "[tiers.dram]\ncapacity = \"" << options.dram << "\"\nextent = \"1MiB\"\n";
  if (!options.store.empty()) {
    file << "[tiers.nvme]\ndirectories = [\"" << options.store << ":" << options.store_mib
         << "MiB\"]\n"
         << "segment = \"2MiB\"\n";
  }
  for (const char tenant : {'a', 'b'}) {
    file << "[[tenant]]\nname = \"" << tenant << "\"\nsocket = \"" << folder_ << "/" << tenant
         << ".sock\"\n";
  }
}

Victim::~Victim() {
  if (pid_ > 0) kill();
  end_keeper();
  if (kept_) return;
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

std::string Victim::log() const {
  std::ifstream file(folder_ + "/log");
  const std::string all(std::istreambuf_iterator<char>(file), {});
  return all.substr(all.size() - std::min(all.size(), kLogEnd));
}

// In the child. Its keeper is started by it, and outlives it.
void Victim::run_program(const std::string& armed) const {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const std::string log = folder_ + "/log";
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  dup2(out, STDERR_FILENO);
  dup2(out, STDOUT_FILENO);
  if (!armed.empty()) setenv(ipc::kill_points::kVariable, armed.c_str(), 1);
  const std::string config = folder_ + "/sluiced.toml";
  execl(program_.c_str(), "sluiced", "--config", config.c_str(), nullptr);
  _exit(127);
}

bool Victim::start(const std::string& armed) {
  const std::string last_socket = folder_ + "/b.sock";
  for (const char tenant : {'a', 'b'}) {
    unlink((folder_ + "/" + tenant + ".sock").c_str());
  }
  pid_ = fork();
  if (pid_ == 0) run_program(armed);
  while (runs()) {
    if (access(last_socket.c_str(), F_OK) == 0) return true;
    usleep(500);
  }
  return false;
}

bool Victim::runs() {
  if (pid_ <= 0) return false;
  if (waitpid(pid_, &status_, WNOHANG) != pid_) return true;
  pid_ = -1;
  return false;
}

void Victim::kill() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  waitpid(pid_, &status_, 0);
  pid_ = -1;
}

bool Victim::stop() {
  if (pid_ <= 0) return false;
  ::kill(pid_, SIGTERM);
  if (!test::eventually([&] { return !runs(); })) {
    kill();
    return false;
  }
  return WIFEXITED(status_) && WEXITSTATUS(status_) == 0;
}

bool Victim::was_killed() const { return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL; }

std::string Victim::how_text() const {
  if (WIFSIGNALED(status_)) return std::string("by ") + strsignal(WTERMSIG(status_));
  return "with exit status " + std::to_string(WEXITSTATUS(status_));
}

std::optional<pid_t> Victim::keeper() const {
  std::ifstream lock(admin_socket() + ".keeper.lock");
  pid_t pid = 0;
  if (!(lock >> pid) || pid <= 0 || ::kill(pid, 0) != 0) return std::nullopt;
  return pid;
}

void Victim::end_keeper() {
  const auto pid = keeper();
  if (!pid) return;
  ::kill(*pid, SIGTERM);
  // It is nobody's child, or ours if we reap orphans.
  (void)test::eventually([&] {
    (void)waitpid(*pid, nullptr, WNOHANG);
    return ::kill(*pid, 0) != 0;
  });
}

std::optional<nlohmann::json> Victim::ask(const std::string& verb,
                                          const nlohmann::json& arguments) const {
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  const std::string path = admin_socket();
  where.socket_path = path.c_str();
  where.timeout_us = 5'000'000;
  char* reply = nullptr;
  const std::string text = arguments.dump();
  if (sluice_admin(&where, verb.c_str(), text.c_str(), &reply, nullptr) != SLUICE_OK) {
    return std::nullopt;
  }
  auto document = nlohmann::json::parse(reply, nullptr, false);
  sluice_admin_free(reply);
  if (document.is_discarded()) return std::nullopt;
  return document;
}

}  // namespace sluice::crash
