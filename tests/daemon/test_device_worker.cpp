// The worker's end: what it takes, and what it says to what it does not take.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "daemon/device_worker/serve.h"
#include "ipc/deadline.h"
#include "ipc/frame.h"
#include "ipc/memfd.h"
#include "ipc/message.h"

namespace sluice::device_worker {
namespace {

using flatbuffers::FlatBufferBuilder;
using ipc::Errc;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::chrono::seconds kPatience{20};
constexpr kernels::TableSizes kSizes{8, 8, 2, 4, 16, 64};

// Notes what it is told.
class NotingBackend final : public Backend {
 public:
  bool usable() const override { return usable_now; }
  ipc::Result<DeviceFacts> describe() override {
    return DeviceFacts{{}, "noted", 1, 1, 4096, 3, "0000:17:00.0"};
  }
  ipc::Result<ipc::Fd> allocate(std::uint64_t bytes) override {
    if (!usable_now) return ipc::fail(Errc::io_error, "the context is lost");
    return ipc::create_memfd("noted", bytes, ipc::Populate::no);
  }
  ipc::Status scrub(const ipc::Fd&, std::uint64_t) override { return {}; }
  ipc::Result<ipc::Fd> make_table(const kernels::TableSizes&, const ipc::Fd&) override {
    return ipc::create_memfd("noted", 4096, ipc::Populate::no);
  }
  ipc::Status open_table(std::uint64_t, const kernels::TableSizes& sizes, const ipc::Fd&,
                         const ipc::Fd&) override {
    opened = sizes;
    return {};
  }
  ipc::Status work(std::uint64_t, const TableWork& work) override {
    works.push_back(work);
    return {};
  }
  ipc::Status read_words(std::uint64_t, std::uint32_t, std::uint32_t, const ipc::Fd&) override {
    return {};
  }
  void forget_table(std::uint64_t) override { opened.reset(); }
  ipc::Result<kernels::TableSizes> sizes_of(std::uint64_t) const override {
    if (!opened) return ipc::fail(Errc::not_found, "no such table");
    return *opened;
  }

  bool usable_now = true;
  std::optional<kernels::TableSizes> opened;
  std::vector<TableWork> works;
};

struct AWorker : ::testing::Test {
  AWorker() {
    std::array<int, 2> ends{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    daemon = ipc::Fd(ends[0]);
    thread = std::thread([this, socket = ipc::Fd(ends[1])] { served = serve(socket, backend); });
  }
  ~AWorker() override { (void)hang_up(); }

  ipc::Status hang_up() {
    daemon.reset();
    if (thread.joinable()) thread.join();
    return served;
  }

  // The error that the worker answers with; ok if it is none.
  template <class Make>
  ipc::Error ask(Make&& make, const std::vector<int>& fds = {}) {
    const auto bytes = make_message(9, std::forward<Make>(make));
    EXPECT_TRUE(ipc::send_frame(daemon.get(), bytes, fds, ipc::deadline_in(kPatience)));
    const auto frame = ipc::receive_frame(reader, daemon.get(), ipc::deadline_in(kPatience));
    if (!frame) return frame.error();
    const auto message = verify_message(frame->bytes);
    if (!message) return message.error();
    EXPECT_EQ((*message)->request(), 9U);
    const auto* failed = (*message)->body_as_Failed();
    if (failed == nullptr) return {Errc::ok, ""};
    leaving = failed->leaving();
    return ipc::error_from_wire(failed->code(), ipc::text_of(failed->text()));
  }

  ipc::Error open_table(const kernels::TableSizes& sizes) {
    const auto node =
        ipc::create_memfd("node", kernels::split_offsets_of(kSizes).host_end, ipc::Populate::no);
    return ask(
        [&](FlatBufferBuilder& b) { return wire::CreateOpenTable(b, 1, write_sizes(b, sizes)); },
        {node->get(), node->get()});
  }

  NotingBackend backend;
  ipc::Fd daemon;
  ipc::FrameReader reader{ipc::FdPolicy::accept};
  std::thread thread;
  ipc::Status served;
  bool leaving = false;
};

TEST_F(AWorker, EndsWhenTheDaemonHangsUp) { EXPECT_TRUE(hang_up()); }

TEST_F(AWorker, DoesWorkOnTablesThatItKnows) {
  const auto work = [](FlatBufferBuilder& b) {
    const std::vector<std::uint32_t> actors = {3};
    const std::vector<std::uint32_t> blocks = {0, 7};
    return wire::CreateWorkDirect(b, 1, &actors, nullptr, nullptr, &blocks);
  };
  EXPECT_EQ(ask(work).code, Errc::not_found);
  EXPECT_EQ(open_table(kSizes).code, Errc::ok);
  EXPECT_EQ(ask(work).code, Errc::ok);
  ASSERT_EQ(backend.works.size(), 1U);
  EXPECT_THAT(backend.works[0].idle_actors, ElementsAre(3));
  EXPECT_THAT(backend.works[0].drop_pages, ElementsAre(0, 7));
  EXPECT_THAT(backend.works[0].seal_pins, IsEmpty());
}

TEST_F(AWorker, RefusesNumbersThatTheTableDoesNotHave) {
  EXPECT_EQ(open_table(kSizes).code, Errc::ok);
  const std::vector<std::uint32_t> four = {4};
  const std::vector<std::uint32_t> eight = {8};
  const auto no_actor = ask([&](FlatBufferBuilder& b) {
    return wire::CreateWorkDirect(b, 1, &four, nullptr, nullptr, nullptr);
  });
  EXPECT_EQ(no_actor.code, Errc::peer_violation);
  EXPECT_THAT(no_actor.text, HasSubstr("idle_actors"));
  for (int list = 0; list < 3; ++list) {
    const auto no_block = ask([&](FlatBufferBuilder& b) {
      return wire::CreateWorkDirect(b, 1, nullptr, list == 0 ? &eight : nullptr,
                                    list == 1 ? &eight : nullptr, list == 2 ? &eight : nullptr);
    });
    EXPECT_EQ(no_block.code, Errc::peer_violation);
  }
  EXPECT_THAT(backend.works, IsEmpty());
}

TEST_F(AWorker, RefusesWordsBeyondTheTable) {
  EXPECT_EQ(open_table(kSizes).code, Errc::ok);
  const auto memory = ipc::create_memfd("words", 64, ipc::Populate::no);
  const auto read = [&](std::uint32_t first, std::uint32_t count) {
    return ask([&](FlatBufferBuilder& b) { return wire::CreateReadWords(b, 1, first, count); },
               {memory->get()});
  };
  EXPECT_EQ(read(0, 8).code, Errc::ok);
  EXPECT_EQ(read(7, 1).code, Errc::ok);
  EXPECT_EQ(read(1, 8).code, Errc::peer_violation);
  EXPECT_EQ(read(8, 1).code, Errc::peer_violation);
  EXPECT_EQ(read(0xFFFFFFFF, 2).code, Errc::peer_violation);
  EXPECT_EQ(read(0, 0).code, Errc::peer_violation);
}

TEST_F(AWorker, RefusesTablesThatCannotBe) {
  kernels::TableSizes none = kSizes;
  none.slots = 0;
  EXPECT_EQ(open_table(none).code, Errc::peer_violation);
  kernels::TableSizes larger = kSizes;
  larger.blocks = 1 << 20;
  EXPECT_EQ(open_table(larger).code, Errc::peer_violation) << "than its memory";
}

TEST_F(AWorker, RefusesDescriptorsThatDoNotBelong) {
  const auto memory = ipc::create_memfd("memory", 4096, ipc::Populate::no);
  const auto describe = [](FlatBufferBuilder& b) { return wire::CreateDescribe(b); };
  EXPECT_EQ(ask(describe, {memory->get()}).code, Errc::peer_violation);
  EXPECT_EQ(ask([](FlatBufferBuilder& b) { return wire::CreateScrub(b, 4096); }).code,
            Errc::peer_violation);
  EXPECT_EQ(ask(describe).code, Errc::ok) << "and goes on";
}

TEST_F(AWorker, SaysWhyAndEndsWhenItsDeviceIsLost) {
  backend.usable_now = false;
  const auto lost = ask([](FlatBufferBuilder& b) { return wire::CreateAllocate(b, 4096); });
  EXPECT_EQ(lost.code, Errc::io_error);
  EXPECT_TRUE(leaving);
  thread.join();
  EXPECT_EQ(served.error().code, Errc::io_error);
}

TEST_F(AWorker, EndsAtWhatIsNoMessage) {
  const std::vector<std::byte> noise(64, std::byte{0x5a});
  ASSERT_TRUE(ipc::send_frame(daemon.get(), noise, {}, ipc::deadline_in(kPatience)));
  thread.join();
  EXPECT_EQ(served.error().code, Errc::peer_violation);
}

TEST(ARefusingBackend, GivesItsReasonForEverything) {
  const auto backend = make_refusing_backend({Errc::not_supported, "no GPU"});
  EXPECT_FALSE(backend->usable());
  EXPECT_EQ(backend->describe().error().text, "no GPU");
  EXPECT_EQ(backend->work(1, {}).error().code, Errc::not_supported);
}

TEST(TheArgumentsOfAWorker, AreThoseThatSluicedGives) {
  const auto take = [](std::vector<const char*> words) {
    words.insert(words.begin(), "worker");
    return take_arguments(static_cast<int>(words.size()), words.data());
  };
  for (const auto& wrong :
       std::vector<std::vector<const char*>>{{},
                                             {"--socket", "3", "--parent", "1"},
                                             {"--socket", "x", "--parent", "1", "--device", "0"},
                                             {"--socket", "3", "--parent", "1", "--device", ""},
                                             {"--socket", "3", "--parent", "1", "--gpu", "0"}}) {
    const auto arguments = take(wrong);
    ASSERT_FALSE(arguments);
    EXPECT_EQ(arguments.error().code, Errc::invalid_argument);
  }
}

}  // namespace
}  // namespace sluice::device_worker
