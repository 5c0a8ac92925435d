// The memory worker: order, turns, and its end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "daemon/memory_worker.h"

namespace sluice::daemon {
namespace {

using ipc::CacheId;
using Step = MemoryWorker::Step;
using ::testing::ElementsAre;

constexpr std::chrono::seconds kPatience{20};

// What the steps did, in order, and a way to wait for it.
class Record {
 public:
  void add(const std::string& entry) {
    const std::lock_guard lock(mutex_);
    entries_.push_back(entry);
    grew_.notify_all();
  }
  // The first `count` entries, or what there is when patience ends.
  std::vector<std::string> first(std::size_t count) {
    std::unique_lock lock(mutex_);
    grew_.wait_for(lock, kPatience, [&] { return entries_.size() >= count; });
    return entries_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable grew_;
  std::vector<std::string> entries_;
};

// A step that stays in the middle until it is let go, so that what is posted meanwhile waits.
class Door {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    inside_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, kPatience, [&] { return open_; });
  }
  bool somebody_is_inside() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return inside_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool inside_ = false;
  bool open_ = false;
};

MemoryWorker::Job steps(Record& record, const std::string& name, int count) {
  return [&record, name, done = 0, count]() mutable {
    record.add(name + std::to_string(++done));
    return done == count ? Step::last : Step::more;
  };
}

MemoryWorker::Job held(Door& door) {
  return [&door] {
    door.pass();
    return Step::last;
  };
}

TEST(TheMemoryWorker, DoesTheJobsOfACacheInOrder) {
  Record record;
  Door door;
  MemoryWorker worker;
  worker.post(CacheId{1}, held(door));
  worker.post(CacheId{1}, steps(record, "a", 2));
  worker.post(CacheId{1}, steps(record, "b", 1));
  worker.post(CacheId{1}, steps(record, "c", 2));
  door.open();
  EXPECT_THAT(record.first(5), ElementsAre("a1", "a2", "b1", "c1", "c2"));
}

TEST(TheMemoryWorker, LetsCachesTakeTurnsAStepEach) {
  Record record;
  Door door;
  MemoryWorker worker;
  worker.post(CacheId{0}, held(door));
  ASSERT_TRUE(door.somebody_is_inside());
  worker.post(CacheId{1}, steps(record, "a", 3));
  worker.post(CacheId{2}, steps(record, "b", 1));
  worker.post(CacheId{2}, steps(record, "c", 1));
  worker.post(CacheId{3}, steps(record, "d", 2));
  door.open();
  EXPECT_THAT(record.first(7), ElementsAre("a1", "b1", "d1", "a2", "c1", "d2", "a3"));
}

TEST(TheMemoryWorker, DelaysASmallJobByOneStepOfALargeOne) {
  Record record;
  Door door;
  MemoryWorker worker;
  worker.post(CacheId{1}, [&, done = 0]() mutable {
    if (done == 0) door.pass();
    record.add("large" + std::to_string(++done));
    return done == 1000 ? Step::last : Step::more;
  });
  ASSERT_TRUE(door.somebody_is_inside());
  worker.post(CacheId{2}, steps(record, "small", 1));
  door.open();
  const auto entries = record.first(2);
  ASSERT_GE(entries.size(), 2U);
  EXPECT_EQ(entries[0], "large1");
  EXPECT_EQ(entries[1], "small1");
}

TEST(TheMemoryWorker, TakesAJobFromAStepOfAnother) {
  Record record;
  MemoryWorker worker;
  worker.post(CacheId{1}, [&] {
    worker.post(CacheId{1}, steps(record, "next", 1));
    record.add("first");
    return Step::last;
  });
  EXPECT_THAT(record.first(2), ElementsAre("first", "next1"));
}

TEST(TheMemoryWorker, EndsAJobAfterItsLastStepAndMayBePostedToFromThere) {
  Record record;
  MemoryWorker worker;
  // As the last owner of a cache's memory does, wherever it happens to be let go.
  std::shared_ptr<int> owner(new int(0), [&](const int* last) {
    delete last;
    worker.post(CacheId{1}, steps(record, "freed", 1));
  });
  worker.post(CacheId{1}, [&, kept = std::move(owner)] {
    record.add("used");
    return Step::last;
  });
  EXPECT_THAT(record.first(2), ElementsAre("used", "freed1"));
}

TEST(TheMemoryWorker, DropsWhatIsLeftWhenItIsStopped) {
  Record record;
  MemoryWorker worker;
  const auto owned = std::make_shared<int>(0);
  std::atomic<bool> stopped{false};
  // Never ends by itself, so that what waits behind it has no chance but to be dropped.
  worker.post(CacheId{1}, [&, owned] {
    record.add(stopped ? "too late" : "step");
    return Step::more;
  });
  worker.post(CacheId{1}, [&, owned] {
    record.add("never");
    return Step::last;
  });
  EXPECT_FALSE(record.first(1).empty());
  worker.stop();
  stopped = true;
  EXPECT_EQ(owned.use_count(), 1) << "what jobs own ends with them";
  worker.post(CacheId{2}, [&, owned] {
    record.add("never");
    return Step::last;
  });
  EXPECT_EQ(owned.use_count(), 1) << "a job that comes later is dropped at once";
  EXPECT_THAT(record.first(1), ::testing::Each("step"));
}

}  // namespace
}  // namespace sluice::daemon
