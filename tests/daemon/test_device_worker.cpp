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

// Notes what it is asked, in words.
class NotingArena final : public Arena {
 public:
  explicit NotingArena(const ArenaShape& shape) : shape_(shape) {}

  const ArenaShape& shape() const override { return shape_; }
  std::uint32_t mapped(ipc::Tier tier) const override {
    return tier == ipc::Tier::hbm ? slot_extents_ : frame_extents_;
  }
  ipc::Status map(ipc::Tier tier, const ipc::Fd&) override {
    ++(tier == ipc::Tier::hbm ? slot_extents_ : frame_extents_);
    return {};
  }
  ipc::Status enter_step(std::uint32_t actor) override { return note("enter", actor); }
  ipc::Status leave_step(std::uint32_t actor) override { return note("leave", actor); }
  ipc::Status resolve(std::uint32_t actor, std::uint32_t items) override {
    return note("resolve " + std::to_string(items), actor);
  }
  ipc::Status forecast(std::uint32_t actor, std::uint32_t items, std::uint32_t min_age,
                       std::uint64_t budget_bytes) override {
    return note("forecast " + std::to_string(items) + " older than " + std::to_string(min_age) +
                    " within " + std::to_string(budget_bytes),
                actor);
  }
  ipc::Status claim_pins(std::uint32_t actor, std::uint32_t block) override {
    return note("claim " + std::to_string(block), actor);
  }
  ipc::Status find_pins(std::uint32_t block) override { return note("find", block); }
  ipc::Status seal_pins(std::uint32_t actor, std::uint32_t block) override {
    return note("seal " + std::to_string(block), actor);
  }
  ipc::Status copy_block(std::uint32_t frame, bool to_frame) override {
    return note(to_frame ? "copy to frame" : "copy from frame", frame);
  }

  std::vector<std::string> calls;

 private:
  ipc::Status note(const std::string& what, std::uint32_t number) {
    calls.push_back(what + ", " + std::to_string(number));
    return {};
  }

  ArenaShape shape_;
  std::uint32_t slot_extents_ = 0;
  std::uint32_t frame_extents_ = 0;
};

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
  ipc::Status open_arena(std::uint64_t, const ArenaShape& shape, const ipc::Fd&) override {
    noted_arena.emplace(shape);
    return {};
  }
  Arena* arena(std::uint64_t table) override {
    return noted_arena && table == 1 ? &*noted_arena : nullptr;
  }

  bool usable_now = true;
  std::optional<kernels::TableSizes> opened;
  std::vector<TableWork> works;
  std::optional<NotingArena> noted_arena;
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

// ---- arenas of executor daemon

struct AWorkerWithAnArena : AWorker {
  // 8 slots of 4 KiB in two extents, and two extents of 4 frames of two pages.
  static constexpr ArenaShape kShape{4096, 8192, 16384, 2, 32768, 4, 2};

  ipc::Error open_arena(const ArenaShape& shape) {
    const auto lists = ipc::create_memfd("lists", ListMemory::kBytes, ipc::Populate::no);
    return ask(
        [&](FlatBufferBuilder& b) {
          return wire::CreateOpenArena(b, 1, shape.page_bytes, shape.frame_stride,
                                       shape.slot_extent_bytes, shape.slot_extents,
                                       shape.frame_extent_bytes, shape.frames_per_extent,
                                       shape.frame_extents);
        },
        {lists->get()});
  }
  ipc::Error map(ipc::Tier tier, std::size_t extents) {
    const auto extent = ipc::create_memfd("extent", 4096, ipc::Populate::no);
    return ask(
        [&](FlatBufferBuilder& b) {
          return wire::CreateMapExtents(b, 1, static_cast<std::uint8_t>(tier));
        },
        std::vector<int>(extents, extent->get()));
  }
  template <class Make>
  Errc code(Make&& make) {
    return ask(std::forward<Make>(make)).code;
  }
};

TEST_F(AWorkerWithAnArena, RunsRequestsInIt) {
  const auto enter = [](FlatBufferBuilder& b) { return wire::CreateEnterStep(b, 1, 3); };
  ASSERT_EQ(open_table(kSizes).code, Errc::ok);
  EXPECT_EQ(code(enter), Errc::not_found);
  ASSERT_EQ(open_arena(kShape).code, Errc::ok);
  EXPECT_EQ(map(ipc::Tier::hbm, 2).code, Errc::ok);
  EXPECT_EQ(map(ipc::Tier::dram, 1).code, Errc::ok);
  EXPECT_EQ(code(enter), Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateResolve(b, 1, 3, 7); }), Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateForecast(b, 1, 2, 5, 4, 99); }),
            Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateClaimPins(b, 1, 3, 6); }), Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateCopyBlock(b, 1, 3, true); }),
            Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateCopyBlock(b, 1, 0, false); }),
            Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateFindPins(b, 1, 6); }), Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateSealPins(b, 1, 3, 6); }), Errc::ok);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateLeaveStep(b, 1, 3); }), Errc::ok);
  EXPECT_THAT(
      backend.noted_arena->calls,
      ElementsAre("enter, 3", "resolve 7, 3", "forecast 5 older than 4 within 99, 2", "claim 6, 3",
                  "copy to frame, 3", "copy from frame, 0", "find, 6", "seal 6, 3", "leave, 3"));
}

TEST_F(AWorkerWithAnArena, RefusesNumbersThatItDoesNotHave) {
  ASSERT_EQ(open_table(kSizes).code, Errc::ok);
  ASSERT_EQ(open_arena(kShape).code, Errc::ok);
  EXPECT_EQ(map(ipc::Tier::hbm, 3).code, Errc::peer_violation);
  EXPECT_EQ(map(ipc::Tier::hbm, 0).code, Errc::peer_violation);
  EXPECT_EQ(map(ipc::Tier::nvme, 1).code, Errc::peer_violation);
  EXPECT_EQ(map(ipc::Tier::dram, 1).code, Errc::ok);
  EXPECT_EQ(map(ipc::Tier::dram, 2).code, Errc::peer_violation) << "one is left";
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateEnterStep(b, 1, 4); }),
            Errc::peer_violation);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateLeaveStep(b, 2, 0); }),
            Errc::not_found);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateResolve(b, 1, 0, 0); }),
            Errc::peer_violation);
  EXPECT_EQ(
      code([](FlatBufferBuilder& b) { return wire::CreateResolve(b, 1, 0, kMaxListItems + 1); }),
      Errc::peer_violation);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateClaimPins(b, 1, 0, 8); }),
            Errc::peer_violation);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateFindPins(b, 1, 8); }),
            Errc::peer_violation);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateSealPins(b, 1, 0, 8); }),
            Errc::peer_violation);
  EXPECT_EQ(code([](FlatBufferBuilder& b) { return wire::CreateCopyBlock(b, 1, 4, true); }),
            Errc::peer_violation)
      << "a frame of an extent that is not mapped";
  EXPECT_THAT(backend.noted_arena->calls, IsEmpty());
}

TEST_F(AWorkerWithAnArena, RefusesShapesThatCannotBe) {
  ASSERT_EQ(open_table(kSizes).code, Errc::ok);
  const auto with = [&](auto&& change) {
    ArenaShape shape = kShape;
    change(shape);
    return open_arena(shape).code;
  };
  EXPECT_EQ(with([](ArenaShape& s) { s.page_bytes = 0; }), Errc::peer_violation);
  EXPECT_EQ(with([](ArenaShape& s) { s.slot_extents = 1; }), Errc::peer_violation);
  EXPECT_EQ(with([](ArenaShape& s) { s.page_bytes = ~std::uint64_t{0}; }), Errc::peer_violation);
  EXPECT_EQ(with([](ArenaShape& s) { s.frame_stride = 4096; }), Errc::peer_violation);
  EXPECT_EQ(with([](ArenaShape& s) { s.frames_per_extent = 5; }), Errc::peer_violation);
  EXPECT_EQ(with([](ArenaShape& s) { s.frame_extent_bytes = kMaxArenaBytes; }),
            Errc::peer_violation);
  EXPECT_FALSE(backend.noted_arena);
  EXPECT_EQ(with([](ArenaShape&) {}), Errc::ok);
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
