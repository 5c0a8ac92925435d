// What outlives the daemon, as one that is killed between any two steps leaves it.
#include "daemon/kept_state.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "tests/daemon/memory_store.h"

namespace sluice::daemon {
namespace {

// Notes which names were not there for a moment.
class WatchedStore final : public DescriptorStore {
 public:
  WatchedStore(std::shared_ptr<test::MemoryShelf> shelf, std::set<std::string>& removed)
      : store_(std::move(shelf)), removed_(removed) {}

  ipc::Result<std::vector<KeptDescriptor>> take() override { return store_.take(); }
  ipc::Status put(std::string_view name, int fd) override { return store_.put(name, fd); }
  ipc::Status remove(std::string_view name) override {
    removed_.emplace(name);
    return store_.remove(name);
  }
  ipc::Status clear() override { return store_.clear(); }
  std::string describe() const override { return store_.describe(); }

 private:
  test::MemoryStore store_;
  std::set<std::string>& removed_;
};

class KeptStateTest : public testing::Test {
 protected:
  KeptState::Found take(const std::string& geometry) {
    KeptState state(std::make_unique<WatchedStore>(shelf, removed), geometry);
    auto found = state.take();
    EXPECT_TRUE(found) << found.error().text;
    return found ? std::move(*found) : KeptState::Found{};
  }

  std::shared_ptr<test::MemoryShelf> shelf = std::make_shared<test::MemoryShelf>();
  std::set<std::string> removed;
};

TEST_F(KeptStateTest, TheGeometryIsThereAtEachMomentOfATakeover) {
  take("this one");
  ASSERT_TRUE(shelf->kept.contains("node"));
  take("this one");
  EXPECT_TRUE(shelf->kept.contains("node"));
  EXPECT_FALSE(removed.contains("node")) << "a kill behind the removal would end in a cold start";
}

TEST_F(KeptStateTest, AnotherGeometryTakesItsPlace) {
  take("this one");
  take("another");
  take("another");
  EXPECT_EQ(removed, std::set<std::string>{"node"}) << "once";
}

}  // namespace
}  // namespace sluice::daemon
