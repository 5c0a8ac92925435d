// One namespace on two devices: its blocks are shared, its arenas are not, and every byte is right
// on both. With two GPUs, and with one GPU that poses as two devices.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "tests/integration/daemon_process.h"

namespace sluice::test {
namespace {

using client::Actor;
using client::Cache;
using client::Client;
using client::PageList;
using client::Sequence;

constexpr std::uint64_t kTimeoutUs = 20'000'000;
constexpr std::uint32_t kLayers = 4;
// A tier of DRAM of 128 blocks: two rounds do not fit, so that ids and frames have further lives.
constexpr const char* kDram = "1MiB";
constexpr std::uint32_t kBlocks = 100;
constexpr std::uint32_t kRounds = 6;

// A GPU, and which of the devices that it serves as.
struct Place {
  std::int32_t ordinal = 0;
  std::uint32_t index = 0;
};

DaemonProcess::Options on_devices(const std::string& devices) {
  DaemonProcess::Options options;
  options.dram = kDram;
  options.extra = "[backend]\nkind = \"cuda\"\ndevices = " + devices;
  return options;
}

std::string uuid_of(int ordinal) {
  cudaDeviceProp properties{};
  EXPECT_EQ(cudaGetDeviceProperties(&properties, ordinal), cudaSuccess);
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(properties.uuid.bytes[i]));
    text += hex;
  }
  return text;
}

int gpu_count() {
  int count = 0;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaSuccess);
  return count;
}

sluice_cache_desc cache_at(const Place& place, const char* model = "model") {
  sluice_cache_desc desc = small_cache(model, SLUICE_EXECUTOR_DIRECT, kLayers);
  desc.device_type = 2;
  desc.device_id = place.ordinal;
  desc.device_index = place.index;
  return desc;
}

std::string key(std::uint32_t round, std::uint32_t block) {
  return "key-" + std::to_string(1000 * (round + 1) + block);
}

// What fills page `page` of a block; another one in each of its lives.
int value_of(std::uint32_t round, std::uint32_t block, std::uint32_t page) {
  return static_cast<int>((round * 41 + block * 7 + page * 3) % 251 + 1);
}

// An engine of its own connection on a device.
struct Engine {
  Engine(const DaemonProcess& daemon, const Place& its_place)
      : place(its_place),
        client(daemon.connect('a', kTimeoutUs)),
        cache(must(client.open_cache(cache_at(place)))),
        actor(must(cache.open_actor())),
        info(must(cache.info())),
        arena(must(cache.arena())) {
    EXPECT_EQ(arena.device_id, place.ordinal);
  }

  // So many blocks of the round, sealed.
  Sequence written(std::uint32_t round, std::uint32_t blocks) {
    Sequence sequence = must(cache.open_sequence({nullptr, 1, 0, 0})).sequence;
    must(sequence.extend(blocks));
    for (std::uint32_t i = 0; i < blocks; ++i) {
      const auto frame = must(sequence.map(i));
      for (std::uint32_t page = 0; page < info.pages_per_block; ++page) {
        std::memset(frame.data() + page * info.page_bytes, value_of(round, i, page),
                    info.page_bytes);
      }
      const std::string name = key(round, i);
      must(sequence.seal(i, std::as_bytes(std::span(name))));
    }
    return sequence;
  }

  // The same blocks, found by their keys.
  Sequence found(std::uint32_t round, std::uint32_t blocks) {
    std::string all;
    for (std::uint32_t i = 0; i < blocks; ++i) all += key(round, i);
    auto opened = must(cache.open_sequence(
        {all.data(), static_cast<std::uint32_t>(key(round, 0).size()), 0, blocks}));
    EXPECT_EQ(opened.matched_blocks, blocks);
    return std::move(opened.sequence);
  }

  // Resolves all pages of the blocks in one step and compares every byte with what was sealed.
  // Returns how many were hits.
  std::uint64_t verify(const Sequence& sequence, std::uint32_t round, std::uint32_t blocks) {
    must(cache.wait_pinned(kTimeoutUs));
    EXPECT_EQ(cudaSetDevice(place.ordinal), cudaSuccess);
    std::vector<std::uint32_t> indices(blocks);
    std::iota(indices.begin(), indices.end(), 0U);
    std::uint64_t hits = 0;
    must(actor.begin_step());
    for (std::uint32_t page = 0; page < info.pages_per_block; ++page) {
      std::vector<std::int32_t> slots(blocks);
      const PageList list{sequence.get(), page, blocks, indices.data(), slots.data(), nullptr};
      const auto counts = must(actor.resolve({&list, 1}));
      EXPECT_EQ(counts.hits + counts.misses, blocks);
      hits += counts.hits;
      for (std::uint32_t i = 0; i < blocks; ++i) {
        EXPECT_EQ(wrong_bytes(slots[i], value_of(round, i, page)), 0U)
            << "round " << round << ", block " << i << ", page " << page;
      }
    }
    must(actor.end_step());
    return hits;
  }

  std::uint64_t wrong_bytes(std::int32_t slot, int value) const {
    if (slot < 0) return arena.page_bytes;
    std::vector<unsigned char> bytes(arena.page_bytes);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(bytes.data(), at(slot), bytes.size(), cudaMemcpyDeviceToHost),
              cudaSuccess);
    std::uint64_t wrong = 0;
    for (const unsigned char byte : bytes) wrong += byte == value ? 0 : 1;
    return wrong;
  }

  std::byte* at(std::int32_t slot) const {
    return static_cast<std::byte*>(arena.base) + static_cast<std::size_t>(slot) * arena.page_bytes;
  }

  Place place;
  Client client;
  Cache cache;
  Actor actor;
  sluice_cache_info info;
  sluice_arena_view arena;
};

struct TwoDevices {
  std::string devices;  // as the configuration names them
  Place first, second;
};

void share_blocks(const TwoDevices& two) {
  const DaemonProcess daemon(on_devices(two.devices));
  Engine first(daemon, two.first);
  EXPECT_TRUE(first.info.created);
  const Sequence written = first.written(0, kBlocks);
  EXPECT_EQ(first.verify(written, 0, kBlocks), 0U) << "nothing is there before it is asked for";

  // Opened when the blocks are sealed already: its table begins with their frames.
  Engine second(daemon, two.second);
  EXPECT_TRUE(second.info.created) << "an arena of its own";
  EXPECT_NE(second.arena.base, first.arena.base);
  const Sequence found = second.found(0, kBlocks);
  EXPECT_EQ(second.verify(found, 0, kBlocks), 0U) << "hits of the other device are not its own";
  EXPECT_EQ(second.verify(found, 0, kBlocks), kBlocks * kLayers);
  EXPECT_EQ(first.verify(written, 0, kBlocks), kBlocks * kLayers);
}

void hand_over_decoded_blocks(const TwoDevices& two) {
  const DaemonProcess daemon(on_devices(two.devices));
  Engine first(daemon, two.first);
  Engine second(daemon, two.second);
  // A block whose truth is slots of the second device, until its seal writes it back.
  Sequence decoding = second.written(0, 3);
  must(decoding.extend(1));
  must(second.cache.wait_pinned(kTimeoutUs));
  EXPECT_EQ(cudaSetDevice(second.place.ordinal), cudaSuccess);
  must(second.actor.begin_step());
  std::vector<std::int32_t> slots(second.info.pages_per_block);
  must(decoding.pin(3, second.actor, slots));
  for (std::uint32_t page = 0; page < slots.size(); ++page) {
    EXPECT_EQ(cudaMemset(second.at(slots[page]), value_of(0, 3, page), second.arena.page_bytes),
              cudaSuccess);
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  const std::string name = key(0, 3);
  must(decoding.seal(3, std::as_bytes(std::span(name)), &second.actor));
  must(second.actor.end_step());

  const Sequence found = first.found(0, 4);
  EXPECT_EQ(first.verify(found, 0, 4), 0U);
  EXPECT_EQ(second.verify(decoding, 0, 4), kLayers) << "of the block that it wrote";
}

// Ids are given out again in each round: neither device may serve bytes of a former life.
void reuse_ids(const TwoDevices& two) {
  const DaemonProcess daemon(on_devices(two.devices));
  Engine first(daemon, two.first);
  Engine second(daemon, two.second);
  for (std::uint32_t round = 0; round < kRounds; ++round) {
    Engine& writer = round % 2 == 0 ? first : second;
    Engine& reader = round % 2 == 0 ? second : first;
    Sequence written = writer.written(round, kBlocks);
    Sequence found = reader.found(round, kBlocks);
    writer.verify(written, round, kBlocks);
    reader.verify(found, round, kBlocks);
    must(written.release());
    must(found.release());
  }
}

// What the daemon gives up with one device's arena, and the other keeps.
void outlive_an_arena(const TwoDevices& two) {
  const DaemonProcess daemon(on_devices(two.devices));
  Engine first(daemon, two.first);
  const Sequence written = first.written(0, kBlocks);
  {
    Engine second(daemon, two.second);
    second.verify(second.found(0, kBlocks), 0, kBlocks);
  }
  first.verify(written, 0, kBlocks);
  // The arena is idle, and all of the device is asked for by another cache.
  Client client = daemon.connect('a', kTimeoutUs);
  sluice_cache_desc large = cache_at(two.second, "large");
  large.hbm_bytes = 64 << 20;
  {
    Cache other = must(client.open_cache(large));
    EXPECT_EQ(first.verify(written, 0, kBlocks), kBlocks * kLayers);
    must(other.close());
  }
  Engine again(daemon, two.second);
  EXPECT_TRUE(again.info.created);
  EXPECT_EQ(again.verify(again.found(0, kBlocks), 0, kBlocks), 0U);
}

TwoDevices posing() { return {"[\"" + uuid_of(0) + "\", \"" + uuid_of(0) + "\"]", {0, 0}, {0, 1}}; }

TEST(OneGpuAsTwoDevices, SharesBlocks) { share_blocks(posing()); }
TEST(OneGpuAsTwoDevices, HandsOverDecodedBlocks) { hand_over_decoded_blocks(posing()); }
TEST(OneGpuAsTwoDevices, ServesNoBytesOfAFormerLife) { reuse_ids(posing()); }
TEST(OneGpuAsTwoDevices, KeepsBlocksWithoutTheSecondArena) { outlive_an_arena(posing()); }

TEST(OneGpuAsTwoDevices, HasNoThird) {
  const DaemonProcess daemon(on_devices(posing().devices));
  Client client = daemon.connect('a', kTimeoutUs);
  const auto third = client.open_cache(cache_at({0, 2}));
  ASSERT_FALSE(third);
  EXPECT_EQ(third.error().code, SLUICE_NOT_SUPPORTED);
  EXPECT_NE(std::string(third.error().text).find("this GPU serves as 2 devices"), std::string::npos)
      << third.error().text;
}

struct TwoGpus : ::testing::Test {
  void SetUp() override {
    if (gpu_count() >= 2) return;
    GTEST_SKIP() << "THIS MACHINE HAS ONE GPU: NOTHING IS TESTED ON TWO";
  }
  static TwoDevices both() {
    return {"[\"" + uuid_of(0) + "\", \"" + uuid_of(1) + "\"]", {0, 0}, {1, 0}};
  }
};

TEST_F(TwoGpus, ShareBlocks) { share_blocks(both()); }
TEST_F(TwoGpus, HandOverDecodedBlocks) { hand_over_decoded_blocks(both()); }
TEST_F(TwoGpus, ServeNoBytesOfAFormerLife) { reuse_ids(both()); }
TEST_F(TwoGpus, KeepBlocksWithoutTheSecondArena) { outlive_an_arena(both()); }

TEST_F(TwoGpus, AreServedAsFarAsTheyAreNamed) {
  const DaemonProcess daemon(on_devices("[\"" + uuid_of(0) + "\"]"));
  Client client = daemon.connect('a', kTimeoutUs);
  EXPECT_TRUE(client.open_cache(cache_at({0, 0})));
  const auto other = client.open_cache(cache_at({1, 0}));
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, SLUICE_NOT_SUPPORTED);
  EXPECT_NE(std::string(other.error().text).find("asked for on another GPU"), std::string::npos)
      << other.error().text;
}

TEST_F(TwoGpus, AreAllServedOnRequest) {
  const DaemonProcess daemon(on_devices("\"all\""));
  Client client = daemon.connect('a', kTimeoutUs);
  for (int ordinal = 0; ordinal < gpu_count(); ++ordinal) {
    EXPECT_TRUE(client.open_cache(cache_at({ordinal, 0}))) << ordinal;
  }
}

}  // namespace
}  // namespace sluice::test
