#include "tests/integration/daemon_process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace sluice::test {

namespace {

std::string beside_this_program(const std::string& name) {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / name;
}

// Without a connection that tests would count. A socket has its path before anybody listens.
bool somebody_listens_at(const std::string& path) {
  constexpr std::string_view kListening = " 00010000 ";  // __SO_ACCEPTCON of the kernel's net.h
  std::ifstream sockets("/proc/net/unix");
  for (std::string line; std::getline(sockets, line);) {
    if (line.ends_with(" " + path) && line.contains(kListening)) return true;
  }
  return false;
}

}  // namespace

void DaemonProcess::write_config(const Options& options) const {
  std::ofstream file(config_file());
  file << "[daemon]\nsocket = \"" << admin_socket() << "\"\nlog_level = \"warn\"\n"
       << "max_sessions = " << options.max_sessions << "\n"
       << options.daemon << "\n"
       << "[tiers.hbm]\ncapacity = \"" << options.hbm << "\"\nextent = \"1MiB\"\n"
       << "[tiers.dram]\ncapacity = \"" << options.dram << "\"\nextent = \"1MiB\"\n"
       << options.extra << "\n";
  for (const char tenant : {'a', 'b'}) {
    file << "[[tenant]]\nname = \"" << tenant << "\"\nsocket = \"" << socket(tenant) << "\"\n"
         << (tenant == 'a' ? options.tenant_a : options.tenant_b) << "\n";
  }
}

DaemonProcess::DaemonProcess(const Options& options) {
  std::string folder = std::filesystem::temp_directory_path() / "sluice-test.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  folder_ = folder;
  write_config(options);
  program_ = beside_this_program(options.program);
  start();
}

void DaemonProcess::start() {
  const std::string config = config_file();
  // A killed daemon leaves its sockets.
  for (const char tenant : {'a', 'b'}) unlink(socket(tenant).c_str());
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execl(program_.c_str(), "sluiced", "--config", config.c_str(), nullptr);
    _exit(127);
  }
  const bool up = eventually(
      [&] { return somebody_listens_at(socket('b')) || waitpid(pid_, nullptr, WNOHANG) != 0; });
  if (!up || !somebody_listens_at(socket('b'))) {
    throw std::runtime_error("sluiced did not come up");
  }
}

void DaemonProcess::kill_and_restart() {
  signal(SIGKILL);
  wait();
  start();
}

// It would hold what the daemon left for a while, for a daemon that does not come.
void DaemonProcess::end_keeper() const {
  std::ifstream lock(admin_socket() + ".keeper.lock");
  pid_t keeper = 0;
  if (lock >> keeper && keeper > 0) kill(keeper, SIGTERM);
}

DaemonProcess::~DaemonProcess() {
  if (pid_ > 0) {
    kill(pid_, SIGTERM);
    if (wait() == -1) {
      ADD_FAILURE() << "the daemon does not stop";
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
  }
  end_keeper();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void DaemonProcess::signal(int number) const {
  kill(pid_, number);
  if (number != SIGSTOP) return;
  siginfo_t stopped{};
  waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED);  // all its threads
}

int DaemonProcess::wait(std::chrono::milliseconds deadline) {
  int status = -1;
  const bool gone = eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, deadline);
  if (!gone) return -1;
  pid_ = -1;
  return status;
}

client::Client DaemonProcess::connect(char tenant, std::uint64_t timeout_us) const {
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  const std::string path = socket(tenant);
  where.socket_path = path.c_str();
  where.timeout_us = timeout_us;
  return must(client::Client::connect(where));
}

std::string DaemonProcess::admin(const std::string& verb, const std::string& arguments) const {
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  const std::string path = admin_socket();
  where.socket_path = path.c_str();
  char* reply = nullptr;
  sluice_error error{};
  if (sluice_admin(&where, verb.c_str(), arguments.c_str(), &reply, &error) != SLUICE_OK) {
    throw std::runtime_error(verb + ": " + error.text);
  }
  std::string json = reply;
  sluice_admin_free(reply);
  return json;
}

sluice_cache_desc small_cache(const char* model, sluice_executor executor, std::uint32_t layers) {
  sluice_cache_desc desc = SLUICE_CACHE_DESC_INIT;
  desc.model = model;
  desc.executor = executor;
  desc.layers = layers;
  desc.kv_heads = 2;
  desc.head_dim = 16;
  desc.block_tokens = 16;
  desc.dtype_bytes = 2;
  desc.page_kind = SLUICE_PAGE_LAYER;
  desc.hbm_bytes = 8 << 20;
  return desc;
}

client::Sequence sealed_sequence(client::Cache& cache, std::uint32_t blocks,
                                 const std::string& prefix) {
  auto opened = must(cache.open_sequence({nullptr, 0, 0, 0}));
  must(opened.sequence.extend(blocks));
  for (std::uint32_t i = 0; i < blocks; ++i) {
    const std::string key = prefix + std::to_string(i);
    std::memset(must(opened.sequence.map(i)).data(), 9, 16);
    must(opened.sequence.seal(i, std::as_bytes(std::span(key))));
  }
  return std::move(opened.sequence);
}

}  // namespace sluice::test
