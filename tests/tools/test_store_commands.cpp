// sluicectl store, on stores that the test writes and spoils.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/storage/support.h"
#include "tests/tools/sluicectl_world.h"

namespace sluice::tools {
namespace {

using storage::kKiB;
using storage::kMiB;
using storage::Payload;
using storage::StoredBlock;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr std::uint64_t kSmallBlock = 60 * kKiB;

class StoreCommands : public storage::StoreTest {
 protected:
  std::string where() const { return directory().string(); }
  static std::string key(int number) { return "key" + std::to_string(number); }
  static std::string hex_key(int number) {
    static constexpr char kDigits[] = "0123456789abcdef";
    std::string text;
    for (const char c : key(number)) {
      text += kDigits[c >> 4];
      text += kDigits[c & 15];
    }
    return text;
  }
  void write_blocks(int from, int to) {
    for (int i = from; i < to; ++i) {
      ASSERT_OK(write(key(i), Payload(kSmallBlock, static_cast<std::uint64_t>(i) + 1)));
    }
  }
  // A bit of the payload of a block, in the closed store.
  void spoil(int number) {
    open();
    const auto block = find(key(number));
    ASSERT_TRUE(block);
    const auto file = segment_of(*block);
    close();
    storage::damage(file, block->offset + 20 * kKiB);
  }
  std::uint64_t found_blocks() {
    open();
    const std::uint64_t blocks = store->stats().blocks;
    close();
    return blocks;
  }

  World world;
};

TEST_F(StoreCommands, AWholeStoreIsDone) {
  open();
  write_blocks(0, 5);
  close();
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitDone);
  // One is free, for cleaning.
  EXPECT_EQ(world.out, "Checked 5 blocks (320.0 KiB) in 2 segments: no fault.\n");
  EXPECT_EQ(world.err, "");
  EXPECT_EQ(world.sluicectl({"store", "check", where(), "--json"}), kExitDone);
  EXPECT_EQ(world.document()["schema"], "sluice.store_check");
  EXPECT_EQ(world.document()["version"], 1);
  EXPECT_EQ(world.document()["clean"], true);
  EXPECT_EQ(world.document()["blocks"], 5);
  EXPECT_TRUE(world.asked.empty());
}

TEST_F(StoreCommands, EveryFindingSaysWhichBlockAndWhere) {
  open();
  write_blocks(0, 3);
  close();
  spoil(1);
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitUnhealthy);
  EXPECT_THAT(world.out, HasSubstr("part     " + where()));
  EXPECT_THAT(world.out, HasSubstr(hex_key(1) + "  t/model/salt/layout/shard  1 of 4 parts"));
  EXPECT_THAT(world.out, HasSubstr("1 finding, 1 block (64.0 KiB) lost."));
  EXPECT_EQ(world.sluicectl({"store", "check", where(), "--json"}), kExitUnhealthy);
  const Json document = world.document();
  const Json& finding = document["findings"][0];
  EXPECT_EQ(finding["kind"], "part");
  EXPECT_EQ(finding["directory"], where());
  EXPECT_EQ(finding["key"], hex_key(1));
  EXPECT_EQ(finding["namespace"]["tenant"], "t");
  EXPECT_EQ(finding["bytes"], 16 * kKiB);
  EXPECT_EQ(finding["loses_block"], true);
  EXPECT_EQ(document["repaired"], nullptr);
}

TEST_F(StoreCommands, ARepairSaysWhatItTakesAndAsks) {
  open();
  write_blocks(0, 3);
  close();
  spoil(1);
  const std::vector<std::string> repair = {"store", "check", where(), "--repair"};
  std::vector<std::string> dry = repair;
  dry.emplace_back("--dry-run");
  EXPECT_EQ(world.sluicectl(dry), kExitUnhealthy);
  EXPECT_THAT(world.out, HasSubstr("Repairing forgets 1 block (64.0 KiB).\n"));

  EXPECT_EQ(world.sluicectl(repair), kExitUsage);  // nobody to ask
  world.around.can_ask = true;
  world.typed = "n";
  EXPECT_EQ(world.sluicectl(repair), kExitRefused);
  EXPECT_THAT(world.err, HasSubstr("Repairing forgets 1 block (64.0 KiB). Go on?"));
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitUnhealthy);

  world.typed = "y";
  EXPECT_EQ(world.sluicectl(repair), kExitUnhealthy);
  EXPECT_THAT(world.out, HasSubstr("Repaired: 1 block (64.0 KiB) forgotten, 0 blocks found"));
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitDone);
  EXPECT_EQ(found_blocks(), 2U);
}

TEST_F(StoreCommands, ARepairIsOneDocument) {
  open();
  write_blocks(0, 3);
  close();
  spoil(0);
  std::filesystem::remove_all(directory() / "index");
  EXPECT_EQ(world.sluicectl({"store", "check", where(), "--repair", "--yes", "--json"}),
            kExitUnhealthy);
  EXPECT_EQ(world.document()["clean"], false);
  EXPECT_EQ(world.document()["repaired"]["found_blocks"], 2);
  EXPECT_EQ(world.sluicectl({"store", "check", where(), "--repair", "--yes", "--json"}), kExitDone);
  EXPECT_EQ(world.document()["repaired"], nullptr);
}

TEST_F(StoreCommands, ARunningStoreIsRefusedAndTheErrorSaysWhatToDo) {
  open();
  for (const char* command : {"check", "stats", "compact", "dump"}) {
    EXPECT_EQ(world.sluicectl({"store", command, where()}), kExitRefused) << command;
    EXPECT_THAT(world.err, HasSubstr("stop sluiced first")) << command;
    EXPECT_THAT(world.err, HasSubstr("sluicectl status")) << command;
  }
  EXPECT_EQ(world.sluicectl({"store", "check", where(), "--json"}), kExitRefused);
  EXPECT_EQ(world.document()["code"], "address_in_use");
}

TEST_F(StoreCommands, WhereThereIsNoStoreThereIsNoSuchObject) {
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitNoSuchObject);
  EXPECT_FALSE(std::filesystem::exists(directory()));
}

TEST_F(StoreCommands, DirectoriesComeFromAConfiguration) {
  config.devices.push_back({directory(1), 16 * kMiB});
  open();
  write_blocks(0, 20);
  close();
  std::string listed;
  world.around.list_config = [&](const std::string& file) -> ipc::Result<ProgramResult> {
    listed = file;
    return ProgramResult{0, "tiers.nvme.directories = [\"" + where() + ":16MiB\", \"" +
                                directory(1).string() + ":16MiB\"]\n"};
  };
  EXPECT_EQ(world.sluicectl({"store", "check", "--config", "mine.toml"}), kExitDone);
  EXPECT_EQ(listed, "mine.toml");
  EXPECT_THAT(world.out, StartsWith("Checked 20 blocks"));
  EXPECT_EQ(world.sluicectl({"store", "check"}), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr("--config"));
  world.around.installed_config = "/etc/sluice/sluiced.toml";
  EXPECT_EQ(world.sluicectl({"store", "check"}), kExitDone);
  // Without the second one its blocks are not vouched for.
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitDone);
  EXPECT_THAT(world.out, HasSubstr("were not checked"));
}

TEST_F(StoreCommands, StatsTellDevicesTenantsAndNamespaces) {
  open();
  write_blocks(0, 20);
  ASSERT_OK(write(intern("other/one"), "x", Payload(8 * kKiB, 1)));
  ASSERT_OK(store->forget(own_scope, storage::key_of(key(3))));
  close();
  EXPECT_EQ(world.sluicectl({"store", "stats", where()}), kExitDone);
  EXPECT_THAT(world.out, HasSubstr("other%2Fone/model/salt/layout/shard"));
  EXPECT_EQ(world.sluicectl({"store", "stats", where(), "--json"}), kExitDone);
  const Json document = world.document();
  EXPECT_EQ(document["schema"], "sluice.store_stats");
  EXPECT_EQ(document["devices"][0]["blocks"], 20);
  EXPECT_EQ(document["devices"][0]["segments_used"], 2);
  EXPECT_GT(document["devices"][0]["dead_bytes"], 64 * kKiB);
  EXPECT_EQ(document["devices"][0]["segments_by_live_tenths"].size(), 10U);
  EXPECT_EQ(document["tenants"][1]["tenant"], "t");
  EXPECT_EQ(document["tenants"][1]["blocks"], 19);
  EXPECT_EQ(document["namespaces"][0]["namespace"]["tenant"], "other/one");
}

TEST_F(StoreCommands, CompactingSaysWhatItMovedAndFreed) {
  open();
  write_blocks(0, 45);
  for (int i = 0; i < 30; ++i) {
    if (i % 3 == 0) continue;
    ASSERT_OK(store->forget(own_scope, storage::key_of(key(i))));
  }
  close();
  const std::string sized = where() + ":16MiB";
  EXPECT_EQ(world.sluicectl({"store", "compact", sized, "--live", "40"}), kExitDone) << world.err;
  EXPECT_EQ(world.out, "Compacted: 640.0 KiB moved, 2.0 MiB freed (2 segments).\n");
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitDone);
  EXPECT_EQ(world.sluicectl({"store", "compact", sized, "--json"}), kExitDone);
  EXPECT_EQ(world.document()["schema"], "sluice.store_compact");
  EXPECT_EQ(world.document()["freed_segments"], 1);  // that was kept for cleaning
  EXPECT_EQ(found_blocks(), 25U);
  EXPECT_EQ(world.sluicectl({"store", "compact", where() + ":1MiB"}), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr("holds segments beyond"));
}

TEST_F(StoreCommands, ADumpListsBlocksALine) {
  open();
  write_blocks(0, 3);
  ASSERT_OK(write(intern("other"), "x", Payload(8 * kKiB, 1)));
  close();
  EXPECT_EQ(world.sluicectl({"store", "dump", where()}), kExitDone);
  EXPECT_EQ(std::ranges::count(world.out, '\n'), 5);
  EXPECT_THAT(world.out, HasSubstr(hex_key(2)));
  EXPECT_EQ(world.sluicectl({"store", "dump", where(), "--json", "--tenant", "other"}), kExitDone);
  EXPECT_EQ(std::ranges::count(world.out, '\n'), 1);
  EXPECT_EQ(world.document()["schema"], "sluice.store_block");
  EXPECT_EQ(world.document()["key"], "78");
  EXPECT_EQ(world.document()["valid_bytes"], 8 * kKiB);
  EXPECT_EQ(world.sluicectl({"store", "dump", where(), "--json", "--limit", "2"}), kExitDone);
  EXPECT_EQ(std::ranges::count(world.out, '\n'), 2);
  EXPECT_EQ(
      world.sluicectl({"store", "dump", where(), "--json", "--namespace", "t/model/salt/layout"}),
      kExitDone);
  EXPECT_EQ(std::ranges::count(world.out, '\n'), 3);
  EXPECT_EQ(world.sluicectl({"store", "dump", where(), "--json", "--namespace", "t/mod"}),
            kExitDone);
  EXPECT_THAT(world.out, IsEmpty());
}

TEST_F(StoreCommands, OneBlocksPayloadIsWrittenVerified) {
  open();
  write_blocks(0, 2);
  ASSERT_OK(write(intern("other"), key(0), Payload(8 * kKiB, 1)));
  close();
  spoil(1);
  const std::string file = (root.path() / "block").string();
  const auto dump = [&](const std::string& hex, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"store", "dump", where(), "--data", hex, "--out", file});
    return world.sluicectl(std::move(more));
  };
  EXPECT_EQ(dump(hex_key(0)), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr("add --namespace"));
  EXPECT_EQ(dump(hex_key(0), {"--namespace", "t"}), kExitDone) << world.err;
  std::ifstream saved(file, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(saved), {});
  const Payload right(kSmallBlock, 1);
  EXPECT_EQ(bytes, std::string(reinterpret_cast<const char*>(right.bytes().data()), kSmallBlock));
  EXPECT_EQ(dump(hex_key(0), {"--namespace", "t"}), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr("is there already"));
  std::filesystem::remove(file);
  EXPECT_EQ(dump(hex_key(1)), kExitFailed);
  EXPECT_FALSE(std::filesystem::exists(file));
  EXPECT_EQ(dump(hex_key(9)), kExitNoSuchObject);
  EXPECT_EQ(dump("abc"), kExitUsage);
}

TEST_F(StoreCommands, LongWorkSaysHowFarItIs) {
  open();
  write_blocks(0, 3);
  close();
  world.around.now = [this] { return world.clock += std::chrono::seconds(11); };
  EXPECT_EQ(world.sluicectl({"store", "check", where()}), kExitDone);
  EXPECT_THAT(world.err, HasSubstr("sluicectl: checking: 128.0 KiB of 192.0 KiB\n"));
  world.around.can_ask = true;
  EXPECT_EQ(world.sluicectl({"store", "stats", where()}), kExitDone);
  EXPECT_THAT(world.err, HasSubstr("\r\x1b[Kreading headers: 2 of 3"));
  EXPECT_THAT(world.out, Not(HasSubstr("headers")));
}

struct StoreUsageCase {
  std::vector<std::string> arguments;
  const char* complaint;
};

class StoreUsageError : public testing::TestWithParam<StoreUsageCase> {};

TEST_P(StoreUsageError, EndsWithTwoAndSaysWhy) {
  World world;
  EXPECT_EQ(world.sluicectl(GetParam().arguments), kExitUsage);
  EXPECT_THAT(world.err, HasSubstr(GetParam().complaint));
}

INSTANTIATE_TEST_SUITE_P(
    CommandLines, StoreUsageError,
    testing::Values(StoreUsageCase{{"store"}, "check, stats, compact and dump"},
                    StoreUsageCase{{"store", "check", "/d", "--config", "f"}, "not both"},
                    StoreUsageCase{{"store", "check", "/d", "--dry-run"}, "belongs to --repair"},
                    StoreUsageCase{{"store", "check", "/d:10 loaves"}, "loaves"},
                    StoreUsageCase{{"store", "stats", "/d", "--repair"}, "--repair"},
                    StoreUsageCase{{"store", "compact", "/d", "--live", "101"}, "percentage"},
                    StoreUsageCase{{"store", "dump", "/d", "--data", "00"}, "belong together"},
                    StoreUsageCase{{"store", "dump", "/d", "--out", "f"}, "belong together"},
                    StoreUsageCase{{"store", "dump", "/d", "--limit", "0"}, "--limit"}));

}  // namespace
}  // namespace sluice::tools
