// What an operator may point sluicectl at by mistake, and what may go away under it: always a clear
// error, the documented exit code, and an end.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "ipc/fd.h"
#include "ipc/frame.h"
#include "ipc/message.h"
#include "ipc/protocol.h"
#include "tests/integration/daemon_process.h"
#include "tests/integration/program.h"

namespace sluice::test {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::HasSubstr;
namespace wire = ipc::wire;

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr int kNotReachable = 3;
constexpr int kNoSuchObject = 5;
constexpr int kUnhealthy = 6;
constexpr int kTimedOut = 7;
// Of the commands here; what they take longer is a hang. Far more than they need.
constexpr const char* kTimeout = "500ms";
constexpr std::chrono::seconds kNoHang{10};

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

class Garbage : public testing::Test {
 protected:
  void SetUp() override {
    folder = std::filesystem::temp_directory_path() / "sluice-garbage.XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  std::string socket() const { return folder + "/s.sock"; }
  Outcome run(std::vector<std::string> arguments, Stdout to = {}) const {
    arguments.insert(arguments.end(), {"--socket", socket(), "--timeout", kTimeout});
    return run_as_is(std::move(arguments), to);
  }
  Outcome run_as_is(std::vector<std::string> arguments, Stdout to = {}) const {
    const auto start = steady_clock::now();
    Program program(folder, std::move(arguments), to);
    const int exit_code = program.wait();
    EXPECT_LT(steady_clock::now() - start, kNoHang);
    return {exit_code, program.out(), program.err()};
  }
  // Commands that look, that change, and that would go on for ever: all of them end alike.
  void expect_everywhere(int exit_code, const char* text) const {
    const std::vector<std::vector<std::string>> commands = {{"status"},
                                                            {"tenants", "--json"},
                                                            {"evict", "--all", "--yes"},
                                                            {"sessions", "kill", "1", "--yes"},
                                                            {"drain"},
                                                            {"watch", "--every", "1s", "--json"}};
    for (const auto& command : commands) {
      const Outcome outcome = run(command);
      EXPECT_EQ(outcome.exit_code, exit_code) << command[0] << ": " << outcome.err;
      EXPECT_THAT(outcome.err, HasSubstr(text)) << command[0];
      if (command.back() != "--json") continue;
      const json document = json::parse(outcome.out, nullptr, false);
      EXPECT_EQ(document.value("schema", ""), "sluice.error") << command[0] << ": " << outcome.out;
    }
  }

  std::string folder;
};

// ---- paths

TEST_F(Garbage, NoSocketAtAll) { expect_everywhere(kNotReachable, "start sluiced"); }

TEST_F(Garbage, AFileAndAFolder) {
  std::ofstream(socket()) << "[daemon]\n";
  expect_everywhere(kNotReachable, "is not a socket");
  std::filesystem::remove(socket());
  std::filesystem::create_directory(socket());
  expect_everywhere(kNotReachable, "is not a socket");
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

ipc::Fd bound(int type, const std::string& path) {
  ipc::Fd socket(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_of(path);
  EXPECT_EQ(bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  return socket;
}

TEST_F(Garbage, ADeadSocket) {
  bound(SOCK_STREAM, socket()).reset();
  expect_everywhere(kNotReachable, "nobody listens");
}

TEST_F(Garbage, ASocketOfAnotherKind) {
  const ipc::Fd other = bound(SOCK_DGRAM, socket());
  expect_everywhere(kNotReachable, "another program");
}

TEST_F(Garbage, APathThatNoSocketCanHave) {
  const Outcome outcome = run_as_is({"status", "--socket", std::string(5000, 's')});
  EXPECT_EQ(outcome.exit_code, kUsage);
  EXPECT_LT(outcome.err.size(), 2000U) << "an error is not as long as what was typed";
}

// ---- somebody else behind the socket

// Listens, and serves each connection by `serve` in a thread, one after another.
class Impostor {
 public:
  Impostor(const std::string& path, std::function<void(int fd)> serve)
      : socket_(bound(SOCK_STREAM, path)) {
    EXPECT_EQ(listen(socket_.get(), 16), 0);
    thread_ = std::thread([this, serve = std::move(serve)] {
      while (true) {
        const ipc::Fd peer(accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!peer) return;
        serve(peer.get());
      }
    });
  }
  ~Impostor() {
    shutdown(socket_.get(), SHUT_RDWR);  // ends accept
    thread_.join();
  }
  Impostor(const Impostor&) = delete;
  Impostor& operator=(const Impostor&) = delete;

 private:
  ipc::Fd socket_;
  std::thread thread_;
};

void say(int fd, const std::string& text) {
  (void)!send(fd, text.data(), text.size(), MSG_NOSIGNAL);
}

void say_frame(int fd, const std::vector<std::byte>& bytes) {
  (void)ipc::send_frame(fd, bytes, {}, ipc::deadline_in(kDeadline));
}

// Until the peer hangs up.
void read_all(int fd) {
  char bytes[4096];
  while (recv(fd, bytes, sizeof(bytes), 0) > 0) {
  }
}

// Welcomes an operator as sluiced does; the next request is read.
std::uint64_t welcome_and_read(int fd) {
  ipc::FrameReader reader(ipc::FdPolicy::refuse);
  const auto next = [&] {
    auto frame = ipc::receive_frame(reader, fd, ipc::deadline_in(kDeadline));
    if (!frame) return std::uint64_t{0};
    const auto envelope = ipc::verify_envelope(frame->bytes);
    return envelope ? (*envelope)->request() : 0;
  };
  say_frame(fd, ipc::make_message(next(), [](auto& builder) {
              return wire::CreateWelcomeDirect(builder, ipc::kProtocolMinor, ipc::kProtocolFeatures,
                                               0, "a");
            }));
  return next();
}

TEST_F(Garbage, AWebServer) {
  const Impostor server(socket(), [](int fd) {
    say(fd, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    read_all(fd);
  });
  expect_everywhere(kFailed, "does not speak sluiced's protocol");
}

TEST_F(Garbage, FramesThatAreNoMessages) {
  const Impostor server(socket(), [](int fd) {
    say_frame(fd, std::vector<std::byte>(1000, std::byte{42}));
    read_all(fd);
  });
  expect_everywhere(kFailed, "does not speak sluiced's protocol");
}

TEST_F(Garbage, SomebodyWhoHangsUpAtOnce) {
  const Impostor server(socket(), [](int) {});
  expect_everywhere(kNotReachable, "closed");
}

TEST_F(Garbage, SomebodyWhoSaysNothing) {
  const Impostor server(socket(), [](int fd) { read_all(fd); });
  expect_everywhere(kTimedOut, "no answer");
  EXPECT_EQ(run({"ping"}).exit_code, kUnhealthy) << "it is there, and does not serve";
}

TEST_F(Garbage, SomebodyWhoNeverAccepts) {
  const ipc::Fd listener = bound(SOCK_STREAM, socket());
  ASSERT_EQ(listen(listener.get(), 0), 0);
  expect_everywhere(kTimedOut, "");  // the first one waits for its answer, the others to be taken
}

TEST_F(Garbage, SomebodyWhoTalksWithoutEnd) {
  const Impostor server(socket(), [](int fd) {
    const auto other = ipc::make_done(1'000'000);  // a request that nobody made
    while (ipc::send_frame(fd, other, {}, ipc::deadline_in(kDeadline))) {
    }
  });
  expect_everywhere(kTimedOut, "on the control socket");
}

TEST_F(Garbage, SomebodyWhoTalksByteByByte) {
  const Impostor server(socket(), [](int fd) {
    // The longest frame that there may be, and never whole.
    say(fd, std::string({0, 0, 16, 0}));
    while (send(fd, "x", 1, MSG_NOSIGNAL) == 1) {
    }
  });
  expect_everywhere(kTimedOut, "no answer");
}

TEST_F(Garbage, ADaemonThatAnswersWithNoDocument) {
  for (const std::string& answer : {std::string(), std::string("not json"), std::string("[1]"),
                                    "{\"a\":" + std::string(100'000, '[')}) {
    std::filesystem::remove(socket());
    const Impostor server(socket(), [&](int fd) {
      const std::uint64_t request = welcome_and_read(fd);
      say_frame(fd, ipc::make_message(request, [&](auto& builder) {
                  return wire::CreateAdminReplyDirect(builder, answer.c_str());
                }));
      read_all(fd);
    });
    for (const char* command : {"status", "tenants", "watch"}) {
      const Outcome outcome = run({command});
      EXPECT_EQ(outcome.exit_code, kFailed) << command;
      EXPECT_THAT(outcome.err, HasSubstr("no JSON object"));
    }
  }
}

TEST_F(Garbage, ADaemonThatDiesAfterTheRequest) {
  const Impostor server(socket(), [](int fd) { welcome_and_read(fd); });
  expect_everywhere(kNotReachable, "closed");
}

// ---- a real daemon that goes

TEST(SluicectlAndADaemonThatGoes, KilledInMidRequestIsNotReachable) {
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"status"}, {"evict", "--all", "--yes"}, {"drain"}}) {
    DaemonProcess daemon;
    // Stopped, it takes the connection into its queue and does not answer.
    daemon.signal(SIGSTOP);
    std::vector<std::string> arguments = command;
    arguments.insert(arguments.end(), {"--socket", daemon.admin_socket(), "--timeout", "1min"});
    Program program(daemon.folder(), arguments);
    const std::string fds = "/proc/" + std::to_string(program.pid()) + "/fd";
    ASSERT_TRUE(eventually([&] {
      std::error_code error;
      for (const auto& fd : std::filesystem::directory_iterator(fds, error)) {
        if (std::filesystem::read_symlink(fd, error).string().starts_with("socket:")) return true;
      }
      return false;
    }));
    daemon.signal(SIGKILL);
    daemon.wait();
    EXPECT_EQ(program.wait(), kNotReachable) << command[0] << ": " << program.err();
    EXPECT_NE(program.err(), "");
  }
}

TEST(SluicectlAndADaemonThatGoes, WatchEndsWithIt) {
  DaemonProcess daemon;
  Program watch(daemon.folder(), {"watch", "--every", "100ms", "--json", "--socket",
                                  daemon.admin_socket(), "--timeout", "1min"});
  ASSERT_TRUE(eventually([&] { return watch.out().find("sluice.status") != std::string::npos; }));
  daemon.signal(SIGKILL);
  daemon.wait();
  EXPECT_EQ(watch.wait(), kNotReachable);
  EXPECT_THAT(watch.out(), HasSubstr("sluice.error"));
}

// ---- names

class Names : public testing::Test {
 protected:
  Outcome run(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--socket", daemon.admin_socket()});
    Program program(daemon.folder(), std::move(arguments));
    const int exit_code = program.wait();
    return {exit_code, program.out(), program.err()};
  }
  DaemonProcess daemon;
};

TEST_F(Names, OfTenantsMayBeAnything) {
  for (const std::string& name :
       {std::string(100'000, 't'), std::string("\033[2J\n\xff\xfe\"'\\{}"), std::string(" ")}) {
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             {"tenants"}, {"status"}, {"sessions"}, {"residency"}, {"evict", "--yes"}}) {
      std::vector<std::string> arguments = command;
      arguments.insert(arguments.end(), {"--tenant", name, "--json"});
      const Outcome outcome = run(arguments);
      EXPECT_EQ(outcome.exit_code, kNoSuchObject) << command[0] << ": " << outcome.err;
      EXPECT_EQ(json::parse(outcome.out)["code"], "not_found");
      EXPECT_LT(outcome.err.size(), 2000U) << "an error is not as long as what was typed";
      EXPECT_EQ(outcome.err.find('\033'), std::string::npos);
    }
  }
  EXPECT_EQ(run({"tenants"}).exit_code, 0) << "the daemon goes on";
}

// ---- an output that nobody takes

class Output : public Names {
 protected:
  Outcome run_into(Stdout to, std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--socket", daemon.admin_socket()});
    Program program(daemon.folder(), std::move(arguments), to);
    const int exit_code = program.wait();
    return {exit_code, "", program.err()};
  }
  void expect_unwritten(Stdout to) {
    for (const std::vector<std::string>& command :
         std::vector<std::vector<std::string>>{{"status"},
                                               {"status", "--json"},
                                               {"completion", "bash"},
                                               {"--help"},
                                               {"evict", "--all", "--yes", "--json"},
                                               {"watch", "--json", "--every", "100ms"},
                                               {"watch", "--every", "100ms"}}) {
      const Outcome outcome = run_into(to, command);
      EXPECT_EQ(outcome.exit_code, kFailed) << command[0];
      EXPECT_THAT(outcome.err, HasSubstr("could not be written")) << command[0];
    }
    const Outcome wrong = run_into(to, {"tenants", "--tenant", "nobody", "--json"});
    EXPECT_EQ(wrong.exit_code, kNoSuchObject) << "what was wrong first counts";
  }
};

TEST_F(Output, ToAClosedPipeIsAnError) {
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  close(ends[0]);
  expect_unwritten({Stdout::Kind::descriptor, ends[1]});
  close(ends[1]);
}

TEST_F(Output, ToAFullDiskIsAnError) {
  const ipc::Fd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full);
  expect_unwritten({Stdout::Kind::descriptor, full.get()});
}

TEST_F(Output, ToADescriptorThatIsNotOpenIsAnError) {
  expect_unwritten({Stdout::Kind::closed, -1});
}

}  // namespace
}  // namespace sluice::test
