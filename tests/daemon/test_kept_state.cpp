// What is kept for the next daemon, and what it makes of what it finds.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "daemon/kept_names.h"
#include "daemon/kept_state.h"
#include "ipc/memfd.h"
#include "tests/daemon/memory_store.h"

namespace sluice::daemon {
namespace {

using test::MemoryShelf;
using test::MemoryStore;

ipc::Fd some_memory(std::uint64_t bytes = 4096) {
  return std::move(*ipc::create_memfd("test", bytes, ipc::Populate::yes));
}

KeptCache some_cache() {
  KeptCache cache;
  cache.tenant = "red";
  cache.spec.model = std::string("model\0\xFF", 7);  // the engine's words may be any bytes
  cache.spec.salt = "salt";
  cache.spec.shard_count = 2;
  cache.spec.shard_index = 1;
  cache.spec.layout = {4, 2, 16, 16, 2, 2, ipc::PageKind::layer};
  cache.shape.geometry = *ipc::geometry_of(cache.spec.layout);
  cache.shape.slot_extent_bytes = 1 << 20;
  cache.shape.slots_per_extent = 512;
  cache.shape.frame_extent_bytes = 1 << 20;
  cache.shape.frames_per_extent = 128;
  cache.shape.max_frame_extents = 8;
  cache.shape.max_blocks = 1024;
  return cache;
}

class KeptStateTest : public testing::Test {
 protected:
  std::unique_ptr<KeptState> life(const std::string& geometry = "as ever") {
    return std::make_unique<KeptState>(std::make_unique<MemoryStore>(shelf), geometry);
  }

  // The names of cache 3 with an arena of two extents, and of session 17, as they are kept. Arenas
  // are described by hand: there is none.
  void fill() {
    auto state = life();
    ASSERT_TRUE(state->take());
    const ipc::CacheId id{3};
    state->keep_records(id, some_memory().get());
    state->keep_frame_extent(id, 0, some_memory().get());
    state->keep_frame_extent(id, 1, some_memory().get());
    for (const char* name : {"c3.d0.state", "c3.d0.table.0", "c3.d0.hbm.0", "c3.d0.hbm.1"}) {
      put(name, some_memory());
    }
    put_text("c3.d0",
             R"({"device":0,"incarnation":77,"slot_extents":2,"slots":1024,"blocks":1024,)"
             R"("pages_per_block":4,"actors":256,"log_capacity":1024,"hint_capacity":1024})");
    state->keep_cache(id, some_cache());
    KeptSession session;
    session.id = ipc::SessionId{17};
    session.tenant = "red";
    session.client_name = "engine";
    session.pid = 4711;
    session.uid = 1000;
    session.token.fill(9);
    state->keep_session(session, some_memory().get(), some_memory().get());
  }

  void put(const std::string& name, ipc::Fd fd) {
    shelf->kept.insert_or_assign(name, std::move(fd));
  }
  void put_text(const std::string& name, const std::string& text) {
    ipc::Fd fd = some_memory(text.size());
    ASSERT_EQ(pwrite(fd.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
    put(name, std::move(fd));
  }

  // Which file is kept under a name.
  ino_t file_of(const std::string& name) const {
    struct stat file{};
    EXPECT_EQ(fstat(shelf->kept.find(name)->second.get(), &file), 0);
    return file.st_ino;
  }

  std::shared_ptr<MemoryShelf> shelf = std::make_shared<MemoryShelf>();
};

TEST_F(KeptStateTest, FindsWhatWasKept) {
  fill();
  const auto found = life()->take();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->cold_because, "");
  ASSERT_EQ(found->caches.size(), 1u);
  const KeptCache& cache = found->caches[0];
  const KeptCache was = some_cache();
  EXPECT_EQ(cache.id.value, 3u);
  EXPECT_EQ(cache.tenant, was.tenant);
  EXPECT_EQ(cache.spec.model, was.spec.model);
  EXPECT_EQ(cache.spec.salt, was.spec.salt);
  EXPECT_EQ(cache.spec.shard_index, 1u);
  EXPECT_EQ(cache.spec.layout, was.spec.layout);
  EXPECT_EQ(cache.shape, was.shape);
  EXPECT_EQ(cache.frame_extents.size(), 2u);
  ASSERT_EQ(cache.arenas.size(), 1u);
  EXPECT_EQ(cache.arenas[0].memory.incarnation, 77u);
  EXPECT_EQ(cache.arenas[0].memory.slot_extents.size(), 2u);
  ASSERT_EQ(found->sessions.size(), 1u);
  EXPECT_EQ(found->sessions[0].id.value, 17u);
  EXPECT_EQ(found->sessions[0].client_name, "engine");
  EXPECT_EQ(found->sessions[0].pid, 4711);
  EXPECT_EQ(found->sessions[0].token[15], 9);
  EXPECT_EQ(found->sessions[0].bells.size(), 1u);
}

// A daemon that is killed behind the removal of it would leave a cold start.
TEST_F(KeptStateTest, TheGeometryIsThereAtEachMomentOfATakeover) {
  fill();
  const auto was = file_of("node");
  ASSERT_TRUE(life()->take());
  EXPECT_EQ(file_of("node"), was) << "it is not put anew";
  ASSERT_TRUE(life("another")->take());
  EXPECT_NE(file_of("node"), was);
}

TEST_F(KeptStateTest, ThrowsAllAwayThatIsOfAnotherGeometry) {
  fill();
  const auto found = life("another")->take();
  ASSERT_TRUE(found);
  EXPECT_NE(found->cold_because, "");
  EXPECT_TRUE(found->caches.empty());
  EXPECT_TRUE(found->sessions.empty());
  EXPECT_EQ(shelf->kept.size(), 1u) << "the new one's own word";
  EXPECT_EQ(life("another")->take()->cold_because, "");
}

// Each of these is what makes the whole.
TEST_F(KeptStateTest, TakesNothingThatIsIncomplete) {
  for (const std::string name : {"c3", "c3.records", "c3.d0", "c3.d0.state", "c3.d0.table.0",
                                 "c3.d0.hbm.0", "c3.d0.hbm.1"}) {
    shelf->kept.clear();
    fill();
    ASSERT_EQ(shelf->kept.erase(name), 1u) << name;
    const auto found = life()->take();
    ASSERT_TRUE(found);
    EXPECT_TRUE(found->caches.empty()) << "without " << name;
    for (const auto& [left, fd] : shelf->kept) EXPECT_FALSE(left.starts_with("c3")) << left;
  }
  for (const std::string name : {"s17", "s17.pid", "s17.bell.0"}) {
    shelf->kept.clear();
    fill();
    ASSERT_EQ(shelf->kept.erase(name), 1u) << name;
    EXPECT_TRUE(life()->take()->sessions.empty()) << "without " << name;
  }
}

// It would be made anew, and processes of before have mapped the old one.
TEST_F(KeptStateTest, TakesNoCacheOfWhichAnExtentIsMissing) {
  fill();
  shelf->kept.erase("c3.dram.0");
  EXPECT_TRUE(life()->take()->caches.empty());
}

TEST_F(KeptStateTest, ForgetsWhatGoes) {
  fill();
  auto state = life();
  ASSERT_TRUE(state->take());
  state->keep_bell(ipc::SessionId{17}, 1, some_memory().get());
  EXPECT_TRUE(shelf->kept.contains("s17.bell.1"));
  state->forget_bell(ipc::SessionId{17}, 0);
  EXPECT_FALSE(shelf->kept.contains("s17.bell.0"));
  state->disown_cache(ipc::CacheId{3});
  EXPECT_FALSE(shelf->kept.contains("c3"));
  EXPECT_TRUE(shelf->kept.contains("c3.records")) << "until its memory is free";
  state->forget_cache(ipc::CacheId{3});
  state->forget_session(ipc::SessionId{17});
  EXPECT_EQ(shelf->kept.size(), 1u) << "the daemon's own word";
}

// "c1" is no part of "c12".
TEST_F(KeptStateTest, WorkersAreKnownUntilTheyAreDead) {
  {
    auto state = life();
    ASSERT_TRUE(state->take());
    state->keep_worker(ipc::DeviceId{0}, 0, getpid());
  }
  for (int deaths = 0; deaths < 2; ++deaths) {  // of daemons that wait for it
    auto found = life()->take();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->workers.size(), 1u);
  }
  auto state = life("of another machine");
  ASSERT_TRUE(state->take());
  state->forget_workers();
  EXPECT_EQ(life()->take()->workers.size(), 0u);
}

TEST_F(KeptStateTest, TellsNumbersApart) {
  auto state = life();
  ASSERT_TRUE(state->take());
  state->keep_records(ipc::CacheId{1}, some_memory().get());
  state->keep_records(ipc::CacheId{12}, some_memory().get());
  state->forget_cache(ipc::CacheId{1});
  EXPECT_FALSE(shelf->kept.contains("c1.records"));
  EXPECT_TRUE(shelf->kept.contains("c12.records"));
}

TEST_F(KeptStateTest, GoesOnWithAStoreThatTakesNothing) {
  auto state = life();
  ASSERT_TRUE(state->take());
  shelf->refusal = ipc::Error{ipc::Errc::limit_reached, "full"};
  EXPECT_TRUE(shelf->kept.contains("node"));
  state->keep_records(ipc::CacheId{1}, some_memory().get());
  EXPECT_NE(state->trouble(), "");
  state->forget_cache(ipc::CacheId{1});
  KeptState none(nullptr, "");
  EXPECT_FALSE(none.active());
  EXPECT_TRUE(none.take());
  none.keep_records(ipc::CacheId{1}, some_memory().get());
}

TEST_F(KeptStateTest, TextsAreNotBelieved) {
  std::mt19937 random(3);
  fill();
  std::map<std::string, std::string> texts;
  for (const std::string name : {"c3", "c3.d0", "s17"}) {
    std::string text(4096, '\0');
    const ssize_t size = pread(shelf->kept.find(name)->second.get(), text.data(), text.size(), 0);
    ASSERT_GT(size, 0);
    text.resize(static_cast<std::size_t>(size));
    texts[name] = text;
  }
  for (int round = 0; round < 20'000; ++round) {
    for (const auto& [name, was] : texts) {
      std::string text = was;
      for (unsigned i = 0; i <= random() % 3; ++i) {
        const std::size_t at = random() % text.size();
        switch (random() % 3) {
          case 0:
            text[at] = static_cast<char>(random());
            break;
          case 1:
            text.erase(at, 1 + random() % 5);
            break;
          default:
            text.insert(at, std::to_string(random()));
        }
        if (text.empty()) text = " ";
      }
      (void)kept::parse_cache(text);
      (void)kept::parse_arena(text);
      (void)kept::parse_session(text);
    }
  }
}

TEST(KeptNames, AreReadAsTheyAreWritten) {
  const auto cache = kept::parse_name("c7.dram.12");
  ASSERT_TRUE(cache);
  EXPECT_EQ(cache->kind, 'c');
  EXPECT_EQ(cache->number, 7u);
  EXPECT_EQ(cache->part, "dram");
  EXPECT_EQ(cache->index, 12u);
  const auto arena = kept::parse_name(kept::arena_name(ipc::CacheId{7}, ipc::DeviceId{2}));
  ASSERT_TRUE(arena);
  EXPECT_EQ(arena->device, 2u);
  EXPECT_EQ(arena->part, "");
  for (const char* name : {"", "c", "x1", "c1.d", "c1.dx", "c1.hbm.", "c1.hbm.x", "c-1",
                           "c1.d0.hbm.1.2", "s99999999999999999999", "c1.d4294967296"}) {
    EXPECT_FALSE(kept::parse_name(name)) << name;
  }
}

}  // namespace
}  // namespace sluice::daemon
