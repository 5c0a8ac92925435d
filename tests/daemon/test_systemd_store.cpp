// The fd store of systemd, as the datagrams that a manager gets and the environment that it gives.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "daemon/descriptor_store.h"
#include "daemon/keeper/protocol.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;

bool same_file(int one, int other) {
  struct stat a{};
  struct stat b{};
  return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

ipc::Fd some_memory() { return ipc::Fd(memfd_create("test", MFD_CLOEXEC)); }

class StoreOfSystemd : public ::testing::Test {
 public:
  StoreOfSystemd() : name_("@sluice-store-test-" + std::to_string(getpid())) {
    clear_environment();
    manager_ = ipc::Fd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    name_.copy(address.sun_path, sizeof address.sun_path);
    address.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name_.size());
    EXPECT_EQ(bind(manager_.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
  }
  ~StoreOfSystemd() override { clear_environment(); }

 protected:
  static void clear_environment() {
    for (const char* name :
         {"NOTIFY_SOCKET", "FDSTORE", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
      unsetenv(name);
    }
  }
  static void set(const char* name, const std::string& value) { setenv(name, value.c_str(), 1); }

  struct Told {
    std::string text;
    std::vector<ipc::Fd> fds;
  };
  // It was sent before this is called.
  Told next() const {
    pollfd waiting{manager_.get(), POLLIN, 0};
    if (poll(&waiting, 1, 5000) != 1) return {"(no message)", {}};
    auto message = keeper::receive_message(manager_.get());
    if (!message || !*message) return {"(nothing received)", {}};
    return {{reinterpret_cast<const char*>((*message)->bytes.data()), (*message)->bytes.size()},
            std::move((*message)->fds)};
  }

  // Does `body` in a process that was started with descriptors of these names from 3 on, all of
  // them of `memory`, of which it gets another one. Returns its exit status.
  template <class Body>
  static int with_inherited(const std::vector<std::string>& names, int memory, Body&& body) {
    const pid_t child = fork();
    if (child == 0) {
      const ipc::Fd source(fcntl(memory, F_DUPFD_CLOEXEC, 100));
      std::string joined;
      for (std::size_t i = 0; i < names.size(); ++i) {
        if (dup2(source.get(), 3 + static_cast<int>(i)) < 0) _exit(100);
        joined += (i == 0 ? "" : ":") + names[i];
      }
      set("LISTEN_PID", std::to_string(getpid()));
      set("LISTEN_FDS", std::to_string(names.size()));
      set("LISTEN_FDNAMES", joined);
      _exit(body(source.get()));
    }
    int status = 0;
    (void)waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
  }

  const std::string& socket_name() const { return name_; }
  void end_manager() { manager_.reset(); }

 private:
  std::string name_;
  ipc::Fd manager_;
};

TEST_F(StoreOfSystemd, IsToldOfEachDescriptorInADatagram) {
  set("NOTIFY_SOCKET", socket_name());
  set("FDSTORE", "16");
  auto store = open_systemd_store();
  ASSERT_TRUE(store) << store.error().text;
  EXPECT_EQ((*store)->describe(), "systemd");
  const auto nothing = (*store)->take();
  ASSERT_TRUE(nothing);
  EXPECT_TRUE(nothing->empty());

  const ipc::Fd memory = some_memory();
  ASSERT_TRUE((*store)->put("dram.0", memory.get()));
  const Told put = next();
  EXPECT_EQ(put.text, "FDSTORE=1\nFDPOLL=0\nFDNAME=dram.0");
  ASSERT_EQ(put.fds.size(), 1U);
  EXPECT_TRUE(same_file(put.fds[0].get(), memory.get()));

  ASSERT_TRUE((*store)->remove("never-put"));
  ASSERT_TRUE((*store)->remove("dram.0"));
  const Told removed = next();
  EXPECT_EQ(removed.text, "FDSTOREREMOVE=1\nFDNAME=dram.0");
  EXPECT_TRUE(removed.fds.empty());

  ASSERT_TRUE((*store)->put("a", memory.get()));
  ASSERT_TRUE((*store)->put("b", memory.get()));
  EXPECT_EQ(next().text, "FDSTORE=1\nFDPOLL=0\nFDNAME=a");
  EXPECT_EQ(next().text, "FDSTORE=1\nFDPOLL=0\nFDNAME=b");
  ASSERT_TRUE((*store)->clear());
  EXPECT_EQ(next().text, "FDSTOREREMOVE=1\nFDNAME=a");
  EXPECT_EQ(next().text, "FDSTOREREMOVE=1\nFDNAME=b");
}

TEST_F(StoreOfSystemd, RefusesWhatItCouldNotGiveBack) {
  set("NOTIFY_SOCKET", socket_name());
  set("FDSTORE", "2");
  auto store = open_systemd_store();
  ASSERT_TRUE(store);
  const ipc::Fd memory = some_memory();
  const auto code = [&](const std::string& name, int fd) {
    const auto put = (*store)->put(name, fd);
    return put ? Errc::ok : put.error().code;
  };
  EXPECT_EQ(code("a:b", memory.get()), Errc::invalid_argument);
  EXPECT_EQ(code("a\nFDSTORE=1", memory.get()), Errc::invalid_argument);
  EXPECT_EQ(code("a", -1), Errc::invalid_argument);
  EXPECT_EQ(code("a", memory.get()), Errc::ok);
  EXPECT_EQ(code("a", memory.get()), Errc::wrong_state);
  EXPECT_EQ(code("b", memory.get()), Errc::ok);
  EXPECT_EQ(code("c", memory.get()), Errc::limit_reached);
  ASSERT_TRUE((*store)->remove("a"));
  EXPECT_EQ(code("c", memory.get()), Errc::ok);
  const auto late = (*store)->take();
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Errc::wrong_state);
}

TEST_F(StoreOfSystemd, TakesNoMoreNamesThanAProcessCanBeStartedWith) {
  set("NOTIFY_SOCKET", socket_name());
  set("FDSTORE", "100000");
  auto store = open_systemd_store();
  ASSERT_TRUE(store);
  const ipc::Fd memory = some_memory();
  std::string names = "LISTEN_FDNAMES=";
  ipc::Status put;
  for (int i = 0; i < 3000; ++i) {
    std::string name = std::to_string(i);
    name.resize(64, 'x');
    put = (*store)->put(name, memory.get());
    if (!put) break;
    names += name + ":";
    (void)next();
  }
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Errc::limit_reached);
  EXPECT_GT(names.size(), 120'000U);
  const pid_t child = fork();
  if (child == 0) {
    std::string program = "true";
    std::array<char*, 2> arguments = {program.data(), nullptr};
    std::array<char*, 2> environment = {names.data(), nullptr};
    (void)execvpe(program.c_str(), arguments.data(), environment.data());
    _exit(100);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  ASSERT_TRUE((*store)->remove("0" + std::string(63, 'x')));
  EXPECT_TRUE((*store)->put("room-for-one", memory.get()));
}

TEST_F(StoreOfSystemd, GivesBackWhatAnEarlierProcessPut) {
  set("NOTIFY_SOCKET", socket_name());
  const ipc::Fd memory = some_memory();
  const int status =
      with_inherited({"dram.0", "a socket unit's", "table"}, memory.get(), [&](int original) {
        auto store = open_systemd_store();
        if (!store) return 1;
        auto all = (*store)->take();
        if (!all || all->size() != 2) return 2;
        if ((*all)[0].name != "dram.0" || (*all)[1].name != "table") return 3;
        for (const KeptDescriptor& kept : *all) {
          if (!same_file(kept.fd.get(), original)) return 4;
          if (fcntl(kept.fd.get(), F_GETFD) != FD_CLOEXEC) return 5;
        }
        if ((*all)[0].fd.get() != 3 || (*all)[1].fd.get() != 5) return 6;
        // What is none of ours is closed.
        if (same_file(4, original)) return 7;
        const auto twice = (*store)->put("table", original);
        if (twice || twice.error().code != Errc::wrong_state) return 8;
        return (*store)->remove("table") ? 0 : 9;
      });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(next().text, "FDSTOREREMOVE=1\nFDNAME=table");
}

TEST_F(StoreOfSystemd, IsNoneWhereItIsNotGranted) {
  const ipc::Fd memory = some_memory();
  const auto is_none = [] {
    const auto store = open_systemd_store();
    return !store && store.error().code == Errc::not_supported;
  };
  EXPECT_TRUE(is_none());
  set("NOTIFY_SOCKET", socket_name());
  EXPECT_TRUE(is_none());
  // Of the process that started us.
  set("LISTEN_PID", std::to_string(getppid()));
  set("LISTEN_FDS", "2");
  set("LISTEN_FDNAMES", "a:b");
  EXPECT_TRUE(is_none());
  clear_environment();
  set("FDSTORE", "16");  // and nobody to tell
  EXPECT_TRUE(is_none());
  set("NOTIFY_SOCKET", socket_name());
  set("FDSTORE", "0");
  EXPECT_TRUE(is_none());
}

TEST_F(StoreOfSystemd, IsAnErrorWhereTheEnvironmentMakesNoSense) {
  set("NOTIFY_SOCKET", socket_name());
  const auto code = [] {
    const auto store = open_systemd_store();
    return store ? Errc::ok : store.error().code;
  };
  set("FDSTORE", "many");
  EXPECT_EQ(code(), Errc::invalid_argument);
  unsetenv("FDSTORE");
  set("LISTEN_PID", std::to_string(getpid()));
  for (const char* count : {"", "-1", "3x", "99999999999999999999"}) {
    set("LISTEN_FDS", count);
    EXPECT_EQ(code(), Errc::invalid_argument) << count;
  }
  set("LISTEN_FDS", "1");
  set("LISTEN_FDNAMES", "a:b");
  EXPECT_EQ(code(), Errc::invalid_argument);
  // One of the descriptors is not there.
  EXPECT_EQ(with_inherited({"a"}, some_memory().get(),
                           [&](int) {
                             set("LISTEN_FDS", "2");
                             set("LISTEN_FDNAMES", "a:b");
                             (void)close(4);
                             const auto store = open_systemd_store();
                             return store ? 1 : 0;
                           }),
            0);
}

TEST_F(StoreOfSystemd, ThatDoesNotTakeADescriptorIsAnError) {
  set("NOTIFY_SOCKET", socket_name());
  set("FDSTORE", "16");
  auto store = open_systemd_store();
  ASSERT_TRUE(store);
  end_manager();
  const ipc::Fd memory = some_memory();
  const auto put = (*store)->put("a", memory.get());
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().code, Errc::io_error);
  // It was not put, so there is nothing to be removed.
  EXPECT_TRUE((*store)->remove("a"));
}

TEST_F(StoreOfSystemd, ComesBeforeTheKeeper) {
  set("NOTIFY_SOCKET", socket_name());
  set("FDSTORE", "16");
  const auto store = open_descriptor_store("/no/such/socket", "/no/such/keeper");
  ASSERT_TRUE(store) << store.error().text;
  EXPECT_EQ((*store)->describe(), "systemd");
}

}  // namespace
}  // namespace sluice::daemon
