// sluice-keeper, the program, and the daemon's end of it. Daemons that are killed are children of
// this process, which end with _exit or by a signal.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "daemon/descriptor_store.h"
#include "daemon/keeper/protocol.h"
#include "daemon/keeper/serve.h"
#include "ipc/deadline.h"
#include "ipc/unix_socket.h"
#include "tests/daemon/memory_store.h"
#include "tests/eventually.h"

namespace sluice::daemon {
namespace {

namespace fs = std::filesystem;
using ipc::Errc;
using keeper::Kind;
using keeper::Message;
using keeper::Request;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr std::size_t kContentBytes = 64;

std::string padded(std::string content) {
  content.resize(kContentBytes, '.');
  return content;
}

ipc::Fd memory_of(const std::string& content) {
  ipc::Fd fd(memfd_create("test", MFD_CLOEXEC));
  const std::string bytes = padded(content);
  if (pwrite(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    fd.reset();
  }
  return fd;
}

std::string content_of(int fd) {
  std::string bytes(kContentBytes, '\0');
  const ssize_t got = pread(fd, bytes.data(), bytes.size(), 0);
  bytes.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return bytes;
}

std::vector<std::string> names_of(const std::vector<KeptDescriptor>& all) {
  std::vector<std::string> names;
  names.reserve(all.size());
  for (const KeptDescriptor& kept : all) names.push_back(kept.name);
  return names;
}

int exit_status_of(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return -1;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

template <class Body>
pid_t in_child(Body&& body) {
  const pid_t child = fork();
  if (child != 0) return child;
  _exit(body());
}

// A daemon that says what it likes.
class RawDaemon {
 public:
  explicit RawDaemon(const std::string& path) {
    auto socket =
        ipc::connect_unix(path, ipc::deadline_in(test::kDeadline), ipc::SocketKind::messages);
    if (socket) socket_ = std::move(*socket);
  }

  bool connected() const { return static_cast<bool>(socket_); }

  bool send_bytes(std::span<const std::byte> bytes, std::vector<int> fds = {}) {
    return keeper::send_message(socket_.get(), bytes, fds).has_value();
  }
  bool send(const Request& request, std::vector<int> fds = {}) {
    return send_bytes(std::as_bytes(std::span(&request, 1)), std::move(fds));
  }
  bool send(Kind kind, const std::string& name = {}, std::vector<int> fds = {}) {
    return send(keeper::make_request(kind, name), std::move(fds));
  }

  // The status of the next answer: nullopt if there is none.
  std::optional<Errc> answer() {
    const auto message = next();
    if (!message || message->bytes.empty()) return std::nullopt;
    return static_cast<Errc>(message->read<keeper::AnswerHead>(0)->status);
  }
  std::optional<Message> next() {
    pollfd readable{socket_.get(), POLLIN, 0};
    const auto events = ipc::poll_until(&readable, 1, ipc::deadline_in(test::kDeadline));
    if (!events || *events == 0) return std::nullopt;
    auto message = keeper::receive_message(socket_.get());
    return message ? std::move(*message) : std::nullopt;
  }
  // Whether the keeper serves it no more, after the answers that it gave.
  bool is_left_unserved() {
    auto message = next();
    while (message && !message->bytes.empty()) message = next();
    return message.has_value();
  }
  bool has_an_answer() const {
    pollfd readable{socket_.get(), POLLIN, 0};
    return poll(&readable, 1, 0) == 1;
  }
  // Whether an end of file comes after what there is to read.
  bool sees_an_end() const {
    pollfd end{socket_.get(), POLLRDHUP, 0};
    return poll(&end, 1, 0) == 1;
  }
  void hang_up() { socket_.reset(); }

 private:
  ipc::Fd socket_;
};

class Keeper : public ::testing::Test {
 public:
  Keeper() : folder_(fs::temp_directory_path() / "sluice-keeper.XXXXXX") {
    (void)!mkdtemp(folder_.data());
  }
  ~Keeper() override {
    if (const pid_t pid = keeper_pid(); pid > 0) {
      (void)kill(pid, SIGTERM);
      EXPECT_TRUE(test::eventually([&] { return !is_running(); }));
    }
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

 protected:
  const std::string& folder() const { return folder_; }

  std::string socket_path() const { return folder_ + "/s.keeper"; }
  static std::string program() {
    return fs::read_symlink("/proc/self/exe").parent_path() / "sluice-keeper";
  }

  DescriptorStorePtr open(KeeperOptions options = {}) {
    auto store = open_keeper(socket_path(), program(), options);
    EXPECT_TRUE(store) << store.error().text;
    return store ? std::move(*store) : nullptr;
  }

  // What the next daemon finds.
  std::vector<std::string> kept_names() {
    const auto store = open();
    if (!store) return {"(no store)"};
    auto all = store->take();
    return all ? names_of(*all) : std::vector<std::string>{all.error().text};
  }

  // 0: none runs.
  pid_t keeper_pid() const {
    if (!is_running()) return 0;
    pid_t pid = 0;
    std::ifstream(socket_path() + ".lock") >> pid;
    return pid;
  }

  bool is_running() const {
    const ipc::Fd lock(::open((socket_path() + ".lock").c_str(), O_RDWR | O_CLOEXEC));
    return lock && flock(lock.get(), LOCK_EX | LOCK_NB) != 0;
  }

  std::size_t open_files_of_keeper() const {
    std::error_code ignored;
    const fs::directory_iterator files("/proc/" + std::to_string(keeper_pid()) + "/fd", ignored);
    return static_cast<std::size_t>(std::distance(begin(files), end(files)));
  }

  // Starts the program as an operator could, in a process that `prepare` has changed.
  int start(const std::vector<std::string>& arguments, int (*prepare)() = nullptr) const {
    std::vector<std::string> words = {program()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> pointers;
    pointers.reserve(words.size() + 1);
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    return exit_status_of(in_child([&] {
      if (prepare != nullptr && prepare() != 0) return 99;
      const ipc::Fd nowhere(::open("/dev/null", O_RDWR | O_CLOEXEC));
      (void)dup2(nowhere.get(), STDOUT_FILENO);
      (void)dup2(nowhere.get(), STDERR_FILENO);
      execv(pointers[0], pointers.data());
      return 98;
    }));
  }

 private:
  std::string folder_;
};

TEST_F(Keeper, GivesTheNextDaemonWhatThisOnePut) {
  auto first = open();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->describe(), "sluice-keeper, pid " + std::to_string(keeper_pid()));
  auto nothing = first->take();
  ASSERT_TRUE(nothing) << nothing.error().text;
  EXPECT_THAT(*nothing, IsEmpty());
  ASSERT_TRUE(first->put("dram.0", memory_of("zero").get()));
  ASSERT_TRUE(first->put("dram.1", memory_of("one").get()));
  ASSERT_TRUE(first->put("A_z-9.", memory_of("two").get()));
  ASSERT_TRUE(first->remove("dram.0"));
  ASSERT_TRUE(first->remove("dram.0"));
  ASSERT_TRUE(first->remove("never-put"));
  first.reset();
  EXPECT_THAT(kept_names(), ElementsAre("A_z-9.", "dram.1"));
}

TEST_F(Keeper, OutlivesItsDaemonAndKeepsACopyOfWhatWasTaken) {
  auto store = open();
  ASSERT_TRUE(store);
  ASSERT_TRUE(store->put("one", memory_of("1").get()));
  for (int successor = 0; successor < 3; ++successor) {
    store.reset();
    store = open();
    ASSERT_TRUE(store);
    auto all = store->take();
    ASSERT_TRUE(all) << all.error().text;
    ASSERT_THAT(names_of(*all), ElementsAre("one"));
    EXPECT_EQ(content_of((*all)[0].fd.get()), padded("1"));
    EXPECT_EQ(fcntl((*all)[0].fd.get(), F_GETFD), FD_CLOEXEC);
  }
}

TEST_F(Keeper, IsSeenToBeGone) {
  auto store = open();
  ASSERT_TRUE(store);
  EXPECT_TRUE(store->look());
  ASSERT_EQ(kill(keeper_pid(), SIGKILL), 0);
  EXPECT_TRUE(test::eventually([&] { return !store->look(); }));
  EXPECT_EQ(store->look().error().code, Errc::daemon_away);
}

TEST_F(Keeper, IsNotStartedWithoutAProgram) {
  const auto none = open_keeper(socket_path(), "");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Errc::daemon_away);
}

TEST_F(Keeper, RefusesNamesThatAreNoneOrInUse) {
  const auto store = open();
  ASSERT_TRUE(store);
  const ipc::Fd memory = memory_of("x");
  for (const std::string& name :
       {std::string(), std::string("a b"), std::string("a:b"), std::string("a/b"),
        std::string("a\0b", 3), std::string("\xc3\xa9"), std::string(65, 'x')}) {
    const auto put = store->put(name, memory.get());
    ASSERT_FALSE(put) << name;
    EXPECT_EQ(put.error().code, Errc::invalid_argument) << name;
    EXPECT_TRUE(store->remove(name)) << name;
  }
  ASSERT_TRUE(store->put(std::string(64, 'x'), memory.get()));
  const auto twice = store->put(std::string(64, 'x'), memory.get());
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, Errc::wrong_state);
  for (const int fd : {-1, 1 << 20}) EXPECT_FALSE(store->put("none", fd));
  EXPECT_TRUE(store->put("after-errors", memory.get()));
}

TEST_F(Keeper, GivesMoreThanOneMessageHolds) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  limit.rlim_cur = limit.rlim_max;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  std::vector<std::string> names;
  names.reserve(751);
  for (int i = 0; i < 751; ++i) names.push_back("n" + std::to_string(i));
  {
    const auto store = open();
    ASSERT_TRUE(store);
    for (const auto& name : names) ASSERT_TRUE(store->put(name, memory_of(name).get())) << name;
  }
  const auto store = open();
  ASSERT_TRUE(store);
  auto all = store->take();
  ASSERT_TRUE(all) << all.error().text;
  std::ranges::sort(names);
  EXPECT_EQ(names_of(*all), names);
  for (const KeptDescriptor& kept : *all) {
    EXPECT_EQ(content_of(kept.fd.get()), padded(kept.name));
  }
}

TEST_F(Keeper, IsTakenFromOnceAndFirst) {
  const auto store = open();
  ASSERT_TRUE(store);
  ASSERT_TRUE(store->take());
  const auto again = store->take();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, Errc::wrong_state);
}

TEST_F(Keeper, ServesThreadsAtOnce) {
  auto store = open();
  ASSERT_TRUE(store);
  {
    std::vector<std::jthread> threads;
    threads.reserve(4);
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&store, thread] {
        for (int i = 0; i < 100; ++i) {
          const std::string name = std::to_string(thread) + "." + std::to_string(i);
          EXPECT_TRUE(store->put(name, memory_of(name).get()));
          if (i != thread) {
            EXPECT_TRUE(store->remove(name));
          }
        }
      });
    }
  }
  store.reset();
  EXPECT_THAT(kept_names(), ElementsAre("0.0", "1.1", "2.2", "3.3"));
}

// ---- death

TEST_F(Keeper, KeepsWhatWasSentByADaemonThatWasKilledAtOnce) {
  ASSERT_TRUE(open());
  std::size_t idle_files = 0;
  // Its last connection is closed.
  ASSERT_TRUE(test::eventually([&] { return (idle_files = open_files_of_keeper()) > 0; }));
  std::vector<std::string> expected;
  for (int round = 0; round < 200; ++round) {
    const std::string prefix = "r" + std::to_string(round) + ".";
    const pid_t child = in_child([&] {
      RawDaemon daemon(socket_path());
      if (!daemon.connected() || !daemon.send(Kind::hello)) return 1;
      // It dies with its answers unread.
      for (int i = 0; i < 4; ++i) {
        const std::string name = prefix + std::to_string(i);
        if (!daemon.send(Kind::put, name, {memory_of(name).get()})) return 2;
      }
      (void)kill(getpid(), SIGKILL);
      return 3;
    });
    ASSERT_EQ(exit_status_of(child), 128 + SIGKILL) << "round " << round;
    const auto next = open();
    ASSERT_TRUE(next);
    auto all = next->take();
    ASSERT_TRUE(all) << all.error().text;
    ASSERT_THAT(names_of(*all), ElementsAre(prefix + "0", prefix + "1", prefix + "2", prefix + "3"))
        << "round " << round;
    for (const KeptDescriptor& kept : *all) {
      EXPECT_EQ(content_of(kept.fd.get()), padded(kept.name));
      ASSERT_TRUE(next->remove(kept.name));
    }
  }
  EXPECT_TRUE(test::eventually([&] { return open_files_of_keeper() <= idle_files; }))
      << open_files_of_keeper() << " files are open, " << idle_files << " were";
}

void stop_keeper(pid_t keeper) {
  ASSERT_EQ(kill(keeper, SIGSTOP), 0);
  ASSERT_TRUE(test::eventually([&] {
    std::ifstream stat("/proc/" + std::to_string(keeper) + "/stat");
    std::string pid;
    std::string name;
    std::string state;
    return stat >> pid >> name >> state && state == "T";
  }));
}

// Else the next daemon would believe what this one could not complete.
TEST_F(Keeper, ThatWasSlowHearsWhatIsToGoNevertheless) {
  auto store =
      open_keeper(socket_path(), program(), {.answer_patience = std::chrono::milliseconds(100)});
  ASSERT_TRUE(store);
  ASSERT_TRUE((*store)->put("node", memory_of("x").get()));
  const pid_t keeper = keeper_pid();
  stop_keeper(keeper);
  const auto put = (*store)->put("late", memory_of("x").get());
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Errc::timed_out);
  EXPECT_FALSE((*store)->remove("node"));
  store->reset();
  ASSERT_EQ(kill(keeper, SIGCONT), 0);
  EXPECT_THAT(kept_names(), ElementsAre("late"));
}

// The kernel tells of unread answers before it gives what the dead had sent.
TEST_F(Keeper, KeepsWhatIsInTheQueueOfADaemonThatLeftAnAnswerUnread) {
  ASSERT_TRUE(open());
  const pid_t keeper = keeper_pid();
  {
    RawDaemon daemon(socket_path());
    ASSERT_TRUE(daemon.send(Kind::hello));
    ASSERT_TRUE(test::eventually([&] { return daemon.has_an_answer(); }));
    stop_keeper(keeper);
    for (const char* name : {"a", "b", "c"}) {
      ASSERT_TRUE(daemon.send(Kind::put, name, {memory_of(name).get()}));
    }
  }
  ASSERT_EQ(kill(keeper, SIGCONT), 0);
  EXPECT_THAT(kept_names(), ElementsAre("a", "b", "c"));
}

TEST_F(Keeper, HasAllThatItsDaemonWasToldIsKeptAtAnyMomentOfItsDeath) {
  auto* told = new (mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE,
                         MAP_SHARED | MAP_ANONYMOUS, -1, 0)) std::atomic<int>(0);
  for (int round = 0; round < 30; ++round) {
    told->store(0);
    const pid_t child = in_child([&] {
      auto store = open_keeper(socket_path(), program());
      if (!store) return 1;
      for (int i = 0; i < 100'000; ++i) {
        const std::string name = std::to_string(i);
        if (!(*store)->put(name, memory_of(name).get())) return 2;
        told->store(i + 1);
        if (i >= 20 && !(*store)->remove(std::to_string(i - 20))) return 3;
      }
      return 4;
    });
    EXPECT_TRUE(test::eventually([&] { return told->load() > round * 3; }));
    (void)kill(child, SIGKILL);
    ASSERT_EQ(exit_status_of(child), 128 + SIGKILL);
    const int count = told->load();
    const auto next = open();
    ASSERT_TRUE(next);
    auto all = next->take();
    ASSERT_TRUE(all) << all.error().text;
    for (int i = std::max(0, count - 20); i < count; ++i) {
      const std::string name = std::to_string(i);
      const auto kept = std::ranges::find(*all, name, &KeptDescriptor::name);
      ASSERT_NE(kept, all->end()) << name << " of " << count << " in round " << round;
      EXPECT_EQ(content_of(kept->fd.get()), padded(name));
    }
    for (const KeptDescriptor& kept : *all) ASSERT_TRUE(next->remove(kept.name));
  }
  munmap(told, sizeof(*told));
}

TEST_F(Keeper, ServesNobodyElseUntilItsDaemonHasHungUp) {
  auto first = open();
  ASSERT_TRUE(first);
  const auto second =
      open_keeper(socket_path(), program(), {.patience = std::chrono::milliseconds(100)});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Errc::timed_out);
  EXPECT_THAT(second.error().text, HasSubstr("serves another daemon"));
  ASSERT_TRUE(first->put("still", memory_of("x").get()));
  first.reset();
  EXPECT_THAT(kept_names(), ElementsAre("still"));
}

TEST_F(Keeper, IsOutOfReachOfWhatEndsADaemon) {
  const auto store = open();
  ASSERT_TRUE(store);
  const pid_t pid = keeper_pid();
  EXPECT_EQ(getsid(pid), pid);
  EXPECT_EQ(getpgid(pid), pid);
  EXPECT_EQ(fs::read_symlink("/proc/" + std::to_string(pid) + "/cwd"), "/");
  for (const int number : {SIGINT, SIGHUP, SIGPIPE, SIGQUIT}) ASSERT_EQ(kill(pid, number), 0);
  EXPECT_TRUE(store->put("x", memory_of("x").get()));
  EXPECT_EQ(keeper_pid(), pid);
}

TEST_F(Keeper, InheritsNothingOfWhoStartsIt) {
  const ipc::Fd leak(fcntl(memory_of("mine").get(), F_DUPFD, 100));
  ASSERT_TRUE(leak);
  const auto store = open();
  ASSERT_TRUE(store);
  for (const auto& file : fs::directory_iterator("/proc/" + std::to_string(keeper_pid()) + "/fd")) {
    std::error_code gone;  // the keeper is at work
    const fs::path target = fs::read_symlink(file, gone);
    EXPECT_THAT(target.string(), ::testing::Not(HasSubstr("memfd")));
    const int number = std::stoi(file.path().filename());
    if (number <= STDERR_FILENO) {
      EXPECT_EQ(target, "/dev/null") << number;
    }
  }
}

TEST_F(Keeper, ThatDiesIsAnErrorThatTheDaemonLives) {
  const auto store = open();
  ASSERT_TRUE(store);
  ASSERT_TRUE(store->put("x", memory_of("x").get()));
  ASSERT_EQ(kill(keeper_pid(), SIGKILL), 0);
  ASSERT_TRUE(test::eventually([&] { return !is_running(); }));
  for (int call = 0; call < 2; ++call) {
    const auto put = store->put("y", memory_of("y").get());
    ASSERT_FALSE(put);
    EXPECT_EQ(put.error().code, Errc::daemon_away);
    const auto removed = store->remove("x");
    ASSERT_FALSE(removed);
    EXPECT_EQ(removed.error().code, Errc::daemon_away);
  }
  // What it left in the file system is in nobody's way.
  EXPECT_THAT(kept_names(), IsEmpty());
}

TEST_F(Keeper, EndsWhenItsDaemonClearsIt) {
  const auto store = open();
  ASSERT_TRUE(store);
  ASSERT_TRUE(store->put("x", memory_of("x").get()));
  ASSERT_TRUE(store->clear());
  EXPECT_TRUE(test::eventually([&] { return !is_running(); }));
  EXPECT_FALSE(fs::exists(socket_path()));
  const auto put = store->put("y", memory_of("y").get());
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Errc::daemon_away);
  EXPECT_THAT(kept_names(), IsEmpty());
}

TEST_F(Keeper, EndsOnSigtermWithItsDaemonThere) {
  const auto store = open();
  ASSERT_TRUE(store);
  ASSERT_EQ(kill(keeper_pid(), SIGTERM), 0);
  EXPECT_TRUE(test::eventually([&] { return !is_running(); }));
  EXPECT_FALSE(fs::exists(socket_path()));
}

TEST_F(Keeper, FreesAllAndEndsWhenNobodyComesBack) {
  auto store = open({.idle = std::chrono::seconds(1)});
  ASSERT_TRUE(store);
  const auto hung_up = std::chrono::steady_clock::now();
  store.reset();
  EXPECT_TRUE(test::eventually([&] { return !is_running(); }));
  EXPECT_GE(std::chrono::steady_clock::now() - hung_up, std::chrono::seconds(1));
  EXPECT_FALSE(fs::exists(socket_path()));
}

// ---- starting

TEST_F(Keeper, IsStartedOnceByDaemonsThatLookForItTogether) {
  std::vector<std::jthread> daemons;
  daemons.reserve(4);
  std::atomic<int> served = 0;
  for (int i = 0; i < 4; ++i) {
    daemons.emplace_back([&, i] {
      const auto store = open();
      if (store && store->put("d" + std::to_string(i), memory_of("x").get())) ++served;
    });
  }
  daemons.clear();
  EXPECT_EQ(served.load(), 4);
  EXPECT_THAT(kept_names(), ElementsAre("d0", "d1", "d2", "d3"));
}

TEST_F(Keeper, DoesNotStartWhereOneListens) {
  ASSERT_TRUE(open());
  const pid_t pid = keeper_pid();
  EXPECT_EQ(start({"--socket", socket_path()}), keeper::kExitInUse);
  EXPECT_EQ(keeper_pid(), pid);
}

TEST_F(Keeper, TellsHowItIsUsed) {
  EXPECT_EQ(start({"--help"}), 0);
  const std::vector<std::vector<std::string>> wrong = {{},
                                                       {"--socket"},
                                                       {"--socket", "relative"},
                                                       {"--idle", "5"},
                                                       {"--socket", "/x", "--idle", "5s"},
                                                       {"--socket", "/x", "--idle", "-1"},
                                                       {"--other", "/x"}};
  for (const auto& arguments : wrong) EXPECT_EQ(start(arguments), keeper::kExitUsage);
}

TEST_F(Keeper, ThatCannotListenSaysWhy) {
  const auto store = open_keeper(folder() + "/no/such/folder", program());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Errc::io_error);
  EXPECT_THAT(store.error().text, HasSubstr("no such directory"));
}

TEST_F(Keeper, NeedsAProgramAndAnAbsolutePath) {
  const auto none = open_keeper(socket_path(), folder() + "/none");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Errc::not_supported);
  const auto relative = open_keeper("s.keeper", program());
  ASSERT_FALSE(relative);
  EXPECT_EQ(relative.error().code, Errc::invalid_argument);
}

// ---- bounds

TEST_F(Keeper, ThatIsFullRefusesAndGoesOn) {
  const int started = start({"--socket", socket_path()}, [] {
    const rlimit limit{40, 40};
    return setrlimit(RLIMIT_NOFILE, &limit);
  });
  ASSERT_EQ(started, 0);
  const auto store = open();
  ASSERT_TRUE(store);
  const ipc::Fd memory = memory_of("x");
  for (std::size_t i = 0; i < 40 - keeper::kSpareDescriptors; ++i) {
    ASSERT_TRUE(store->put("n" + std::to_string(i), memory.get())) << i;
  }
  const auto more = store->put("more", memory.get());
  ASSERT_FALSE(more);
  EXPECT_EQ(more.error().code, Errc::limit_reached);
  ASSERT_TRUE(store->remove("n3"));
  EXPECT_TRUE(store->put("more", memory.get()));
}

TEST_F(Keeper, HoldsAsManyAsItsHardLimitAllows) {
  const int started = start({"--socket", socket_path()}, [] {
    const rlimit limit{20, 200};
    return setrlimit(RLIMIT_NOFILE, &limit);
  });
  ASSERT_EQ(started, 0);
  const auto store = open();
  ASSERT_TRUE(store);
  const ipc::Fd memory = memory_of("x");
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(store->put("n" + std::to_string(i), memory.get()));
}

TEST_F(Keeper, WithoutRoomForADescriptorRefusesIt) {
  auto store = open();
  ASSERT_TRUE(store);
  const rlimit limit{8, 1024};
  ASSERT_EQ(prlimit(keeper_pid(), RLIMIT_NOFILE, &limit, nullptr), 0);
  const ipc::Fd memory = memory_of("x");
  ipc::Status put;
  int count = 0;
  while (put && count < 100) put = store->put("n" + std::to_string(count++), memory.get());
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Errc::limit_reached);
  EXPECT_TRUE(store->remove("n0"));
  EXPECT_TRUE(store->put("again", memory.get()));
}

TEST_F(Keeper, WhoseDaemonHasNoRoomTellsItSo) {
  {
    const auto store = open();
    ASSERT_TRUE(store);
    for (int i = 0; i < 60; ++i) {
      ASSERT_TRUE(store->put("n" + std::to_string(i), memory_of("x").get()));
    }
  }
  const pid_t child = in_child([&] {
    const rlimit limit{40, 40};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
    auto store = open_keeper(socket_path(), program());
    if (!store) return 2;
    const auto all = (*store)->take();
    return !all && all.error().code == Errc::limit_reached ? 0 : 3;
  });
  EXPECT_EQ(exit_status_of(child), 0);
  EXPECT_EQ(kept_names().size(), 60U);
}

// ---- who does not speak its language

TEST_F(Keeper, LosesNothingToGarbage) {
  {
    const auto store = open();
    ASSERT_TRUE(store);
    ASSERT_TRUE(store->put("kept", memory_of("kept").get()));
  }
  const ipc::Fd memory = memory_of("x");
  const auto changed = [](auto&& change) {
    Request request = keeper::make_request(Kind::put, "bad");
    change(request);
    return request;
  };
  struct Garbage {
    const char* what;
    bool after_hello;
    std::vector<std::byte> bytes;
    std::vector<int> fds;
  };
  const auto bytes_of = [](const Request& request, std::size_t bytes = sizeof(Request)) {
    const auto all = std::as_bytes(std::span(&request, 1));
    std::vector<std::byte> copy(all.begin(), all.end());
    copy.resize(bytes);
    return copy;
  };
  const Request put = keeper::make_request(Kind::put, "bad");
  const Request take = keeper::make_request(Kind::take);
  const int fd = memory.get();
  const std::vector<Garbage> all = {
      {"no bytes", true, {}, {}},
      {"one byte", true, bytes_of(put, 1), {fd}},
      {"a head alone", true, bytes_of(put, sizeof(keeper::Header)), {fd}},
      {"a byte too few", true, bytes_of(put, sizeof(Request) - 1), {fd}},
      {"a byte too many", true, bytes_of(put, sizeof(Request) + 1), {fd}},
      {"longer than any", true, bytes_of(put, keeper::kMaxMessageBytes + 1), {fd}},
      {"magic", true, bytes_of(changed([](Request& r) { r.header.magic ^= 1; })), {fd}},
      {"no kind", true, bytes_of(changed([](Request& r) { r.header.kind = 0; })), {}},
      {"a new kind", true, bytes_of(changed([](Request& r) { r.header.kind = 6; })), {}},
      {"any kind", true, bytes_of(changed([](Request& r) { r.header.kind = ~0U; })), {}},
      {"a long name", true, bytes_of(changed([](Request& r) { r.name.bytes = 65; })), {fd}},
      {"an endless name", true, bytes_of(changed([](Request& r) { r.name.bytes = ~0U; })), {fd}},
      {"no name", true, bytes_of(changed([](Request& r) { r.name.bytes = 0; })), {fd}},
      {"a bad name", true, bytes_of(changed([](Request& r) { r.name.text[0] = '\n'; })), {fd}},
      {"no descriptor", true, bytes_of(put), {}},
      {"two descriptors", true, bytes_of(put), {fd, fd}},
      {"all that a message takes", true, bytes_of(put), std::vector<int>(253, fd)},
      {"a descriptor for nothing", true, bytes_of(take), {fd}},
      {"no hello", false, bytes_of(put), {fd}},
      {"no hello before the end", false, bytes_of(keeper::make_request(Kind::end)), {}},
  };
  ASSERT_THAT(kept_names(), ElementsAre("kept"));
  const std::size_t files = open_files_of_keeper();
  for (const Garbage& garbage : all) {
    RawDaemon daemon(socket_path());
    ASSERT_TRUE(daemon.connected());
    if (garbage.after_hello) {
      ASSERT_TRUE(daemon.send(Kind::hello));
      ASSERT_EQ(daemon.answer(), Errc::ok);
    }
    ASSERT_TRUE(daemon.send_bytes(garbage.bytes, garbage.fds)) << garbage.what;
    ASSERT_TRUE(daemon.is_left_unserved()) << garbage.what;
    // Nothing more is served, and nobody else, until it has hung up.
    (void)daemon.send(Kind::remove, "kept");
    const auto other =
        open_keeper(socket_path(), program(), {.patience = std::chrono::milliseconds(5)});
    ASSERT_FALSE(other) << garbage.what;
    daemon.hang_up();
    ASSERT_THAT(kept_names(), ElementsAre("kept")) << garbage.what;
  }
  EXPECT_TRUE(test::eventually([&] { return open_files_of_keeper() <= files; }));
}

TEST_F(Keeper, IsNotHeldUpByADaemonThatReadsNoAnswers) {
  ASSERT_TRUE(open());
  RawDaemon daemon(socket_path());
  ASSERT_TRUE(daemon.send(Kind::hello));
  ASSERT_TRUE(test::eventually([&] {
    (void)daemon.send(Kind::take);
    return daemon.sees_an_end();
  }));
  EXPECT_TRUE(daemon.is_left_unserved());
  daemon.hang_up();
  EXPECT_THAT(kept_names(), IsEmpty());
}

TEST_F(Keeper, TellsAnotherVersionItsOwn) {
  ASSERT_TRUE(open());
  RawDaemon daemon(socket_path());
  Request hello = keeper::make_request(Kind::hello);
  hello.header.version = keeper::kProtocolVersion + 1;
  ASSERT_TRUE(daemon.send(hello));
  const auto answer = daemon.next();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->read<keeper::Header>(0)->version, keeper::kProtocolVersion);
  EXPECT_TRUE(daemon.is_left_unserved());
}

TEST_F(Keeper, OfAnotherVersionIsLeftAloneAndNamed) {
  auto listener = keeper::listen_at(socket_path());
  ASSERT_TRUE(listener) << listener.error().text;
  const std::jthread newer([&] {
    std::optional<ipc::Fd> connection;
    ASSERT_TRUE(test::eventually([&] {
      auto accepted = listener->accept();
      if (accepted) connection = std::move(*accepted);
      return connection.has_value();
    }));
    const keeper::Header head{keeper::kMagic, 7, 1};
    ASSERT_TRUE(keeper::send_message(connection->get(), std::as_bytes(std::span(&head, 1)), {}));
    ASSERT_TRUE(test::eventually([&] {
      const auto message = keeper::receive_message(connection->get());
      return message && *message && (*message)->bytes.empty();
    }));
  });
  const auto store = open_keeper(socket_path(), program());
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().code, Errc::version_mismatch);
  EXPECT_THAT(store.error().text, HasSubstr("version 7"));
}

TEST_F(Keeper, ServesItsOwnUserOnly) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be somebody else";
  {
    const auto store = open();
    ASSERT_TRUE(store);
    ASSERT_TRUE(store->put("mine", memory_of("x").get()));
  }
  struct stat status{};
  ASSERT_EQ(stat(socket_path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  ASSERT_EQ(chmod(folder().c_str(), 0755), 0);
  const auto as_nobody = [&] {
    return exit_status_of(in_child([&] {
      if (setgid(65534) != 0 || setuid(65534) != 0) return 1;
      RawDaemon daemon(socket_path());
      if (!daemon.connected()) return 2;
      (void)daemon.send(Kind::hello);
      return daemon.is_left_unserved() && !daemon.answer() ? 4 : 3;
    }));
  };
  EXPECT_EQ(as_nobody(), 2);
  ASSERT_EQ(chmod(socket_path().c_str(), 0666), 0);
  EXPECT_EQ(as_nobody(), 4);
  EXPECT_THAT(kept_names(), ElementsAre("mine"));
}

// ---- the others

TEST_F(Keeper, IsTheStoreWhereSystemdGrantsNone) {
  auto store = open_descriptor_store(socket_path(), program());
  ASSERT_TRUE(store) << store.error().text;
  EXPECT_THAT((*store)->describe(), StartsWith("sluice-keeper"));
}

TEST(MemoryStore, OutlivesTheDaemonOfATest) {
  const auto shelf = std::make_shared<test::MemoryShelf>();
  {
    test::MemoryStore store(shelf);
    ASSERT_TRUE(store.put("a", memory_of("1").get()));
    ASSERT_TRUE(store.put("b", memory_of("2").get()));
    EXPECT_FALSE(store.put("b", memory_of("2").get()));
    ASSERT_TRUE(store.remove("a"));
    ASSERT_TRUE(store.remove("a"));
  }
  test::MemoryStore store(shelf);
  auto all = store.take();
  ASSERT_TRUE(all);
  ASSERT_THAT(names_of(*all), ElementsAre("b"));
  EXPECT_EQ(content_of((*all)[0].fd.get()), padded("2"));
  ASSERT_TRUE(store.clear());
  EXPECT_TRUE(test::MemoryStore(shelf).take()->empty());
}

}  // namespace
}  // namespace sluice::daemon
