#include "tests/storage/corruption.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <utility>

#include "storage/device_directory.h"

namespace sluice::storage {
namespace {

const Namespace kSpoiltScope{"t", "model", "salt", "layout", "shard"};
constexpr int kEpochs = 3;
constexpr int kBlocksPerEpoch = 18;
constexpr std::uint64_t kSizes[] = {8 * kKiB, 40 * kKiB, 40 * kKiB, 100 * kKiB};

std::uint64_t below(std::mt19937_64& random, std::uint64_t bound) { return random() % bound; }

std::string read_file(const std::filesystem::path& path, std::uint64_t offset,
                      std::uint64_t length) {
  std::string bytes(length, '\0');
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(bytes.data(), static_cast<std::streamsize>(length));
  EXPECT_EQ(file.gcount(), static_cast<std::streamsize>(length)) << path;
  return bytes;
}

void write_file(const std::filesystem::path& path, std::uint64_t offset, const std::string& bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file.good()) << path;
}

void flip(const std::filesystem::path& path, std::uint64_t offset, unsigned bit) {
  std::string byte = read_file(path, offset, 1);
  byte[0] = static_cast<char>(byte[0] ^ (1 << bit));
  write_file(path, offset, byte);
}

void copy_all(const std::filesystem::path& from, const std::filesystem::path& to) {
  std::filesystem::remove_all(to);
  std::filesystem::create_directories(to.parent_path());
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
}

Answer write_block(BlockStore& store, NamespaceId scope, const KnownBlock& block,
                   const Payload& payload) {
  Answer answer;
  store.write(scope, key_of(block.key), payload.bytes(), payload.bytes().size(),
              IoClass::write_back, answer.done());
  return answer;
}

std::optional<StoredBlock> look_up(BlockStore& store, NamespaceId scope, const std::string& key) {
  const std::span<const std::byte> one[] = {key_of(key)};
  const auto found = store.find(scope, one);
  return found ? found->front() : std::nullopt;
}

}  // namespace

StoreConfig SpoiltStore::config() const {
  StoreConfig config;
  config.devices = {{root() / "device0", 16 * kMiB}, {root() / "device1", 16 * kMiB}};
  config.segment_bytes = 1 * kMiB;
  config.part_bytes = 16 * kKiB;
  config.engine = [](std::size_t) -> Result<std::unique_ptr<IoEngine>> {
    return std::make_unique<PlainEngine>(8);
  };
  return config;
}

StoreLocation SpoiltStore::location() const {
  return {{root() / "device0", root() / "device1"}, {}};
}

void SpoiltStore::keep(const std::string& name) const { copy_all(root(), root_.path() / name); }

void SpoiltStore::make() {
  std::vector<KnownBlock> all;
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    auto store = BlockStore::open(config());
    ASSERT_OK(store);
    const NamespaceId scope = (*store)->intern(kSpoiltScope).value();
    for (int i = 0; i < kBlocksPerEpoch; ++i) {
      const auto number = all.size();
      KnownBlock& block = all.emplace_back();
      block.key = "key" + std::to_string(number);
      block.seed = number + 1;
      block.epoch = epoch;
      const Payload payload(kSizes[number % std::size(kSizes)], block.seed);
      ASSERT_OK(write_block(**store, scope, block, payload).wait());
    }
    // A running store's index, as a power loss leaves it.
    if (epoch + 2 == kEpochs) keep("running");
    for (std::size_t i = 0; i < all.size(); i += 7) {
      ASSERT_OK((*store)->forget(scope, key_of(all[i].key)));
    }
    if (epoch + 1 == kEpochs) {
      for (KnownBlock& block : all) {
        const auto place = look_up(**store, scope, block.key);
        if (!place) continue;
        block.place = *place;
        blocks_.push_back(block);
      }
    }
    store->reset();
    keep("closed" + std::to_string(epoch));
  }
  const auto identity = read_device_identity(root() / "device0");
  ASSERT_OK(identity);
  for (KnownBlock& block : blocks_) {
    block.digest = digest_of((*identity)->store, encode_namespace(kSpoiltScope), key_of(block.key));
  }
}

void SpoiltStore::restore() {
  copy_all(root_.path() / ("closed" + std::to_string(kEpochs - 1)), root());
}

Damage SpoiltStore::spoil(std::mt19937_64& random) {
  // Those of blocks are the most; the rare ones are what a whole disk or an operator does.
  static constexpr Way kWays[] = {
      &SpoiltStore::flip_bit,         &SpoiltStore::flip_bit,      &SpoiltStore::flip_bit,
      &SpoiltStore::flip_bit,         &SpoiltStore::overwrite,     &SpoiltStore::overwrite,
      &SpoiltStore::swap_blocks,      &SpoiltStore::swap_blocks,   &SpoiltStore::swap_parts,
      &SpoiltStore::misdirect,        &SpoiltStore::truncate,      &SpoiltStore::truncate,
      &SpoiltStore::lose_segment,     &SpoiltStore::swap_segments, &SpoiltStore::flip_segment_page,
      &SpoiltStore::flip_device_page, &SpoiltStore::old_segment,   &SpoiltStore::old_index,
      &SpoiltStore::old_index,        &SpoiltStore::lose_index,    &SpoiltStore::flip_in_index,
  };
  const Way way = kWays[below(random, std::size(kWays))];
  return (this->*way)(random);
}

const KnownBlock& SpoiltStore::any_block(std::mt19937_64& random) const {
  return blocks_[below(random, blocks_.size())];
}

const KnownBlock& SpoiltStore::same_size(const KnownBlock& block, std::mt19937_64& random) const {
  for (;;) {
    const KnownBlock& other = any_block(random);
    if (other.key != block.key && other.place.block_bytes == block.place.block_bytes) return other;
  }
}

std::filesystem::path SpoiltStore::file_of(const KnownBlock& block) const {
  return root() / ("device" + std::to_string(block.place.device)) /
         segment_name(block.place.segment);
}

std::set<Digest> SpoiltStore::overlapping(const KnownBlock& of, std::uint64_t from,
                                          std::uint64_t to) const {
  std::set<Digest> digests;
  for (const KnownBlock& block : blocks_) {
    const bool here =
        block.place.device == of.place.device && block.place.segment == of.place.segment;
    if (here && block.begin() < to && from < block.end()) digests.insert(block.digest);
  }
  return digests;
}

std::set<Digest> SpoiltStore::in_segment(const KnownBlock& of) const {
  return overlapping(of, 0, kMaxSegmentBytes);
}

Damage SpoiltStore::flip_bit(std::mt19937_64& random) {
  const KnownBlock& block = any_block(random);
  // Headers as often as payloads.
  const bool header = below(random, 2) == 0;
  const std::uint64_t at =
      header ? block.begin() + below(random, kPageBytes)
             : block.begin() + kPageBytes + below(random, block.place.block_bytes);
  flip(file_of(block), at, static_cast<unsigned>(below(random, 8)));
  return {"a bit of " + block.key + " at " + std::to_string(at),
          {block.digest},
          {header ? FindingKind::header : FindingKind::part}};
}

Damage SpoiltStore::overwrite(std::mt19937_64& random) {
  const KnownBlock& block = any_block(random);
  const std::uint64_t from = block.begin() + below(random, block.end() - block.begin());
  const std::uint64_t length = 1 + below(random, 200 * kKiB);
  const std::uint64_t to = std::min(from + length, 1 * kMiB);
  std::string bytes(to - from, '\0');
  if (below(random, 2) == 0) {
    for (char& byte : bytes) byte = static_cast<char>(random());
  }
  // At least one byte of each block that it touches changes: zeros over zeros would be no damage.
  const std::string before = read_file(file_of(block), from, to - from);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] == before[i]) bytes[i] = static_cast<char>(~before[i]);
  }
  write_file(file_of(block), from, bytes);
  return {"bytes over " + block.key + " at " + std::to_string(from),
          overlapping(block, from, to),
          {FindingKind::header, FindingKind::part}};
}

Damage SpoiltStore::swap_blocks(std::mt19937_64& random) {
  const KnownBlock& one = any_block(random);
  const KnownBlock& other = same_size(one, random);
  const std::string first = read_file(file_of(one), one.begin(), one.end() - one.begin());
  const std::string second = read_file(file_of(other), other.begin(), other.end() - other.begin());
  write_file(file_of(one), one.begin(), second);
  write_file(file_of(other), other.begin(), first);
  return {one.key + " and " + other.key + " swapped",
          {one.digest, other.digest},
          {FindingKind::header}};
}

Damage SpoiltStore::swap_parts(std::mt19937_64& random) {
  const KnownBlock& one = any_block(random);
  const KnownBlock& other = same_size(one, random);
  const std::uint64_t part = 8 * kKiB;
  const std::uint64_t at = kPageBytes + below(random, one.place.block_bytes / part) * part;
  const std::string first = read_file(file_of(one), one.begin() + at, part);
  const std::string second = read_file(file_of(other), other.begin() + at, part);
  write_file(file_of(one), one.begin() + at, second);
  write_file(file_of(other), other.begin() + at, first);
  return {"payload of " + one.key + " and " + other.key + " swapped",
          {one.digest, other.digest},
          {FindingKind::part}};
}

Damage SpoiltStore::misdirect(std::mt19937_64& random) {
  const KnownBlock& one = any_block(random);
  const KnownBlock& other = same_size(one, random);
  write_file(file_of(other), other.begin(),
             read_file(file_of(one), one.begin(), one.end() - one.begin()));
  return {one.key + " written over " + other.key, {other.digest}, {FindingKind::header}};
}

Damage SpoiltStore::truncate(std::mt19937_64& random) {
  const KnownBlock& block = any_block(random);
  const std::uint64_t size = below(random, block.end());
  std::filesystem::resize_file(file_of(block), size);
  const bool page_gone = size < kPageBytes;
  return {file_of(block).string() + " cut to " + std::to_string(size),
          page_gone ? in_segment(block) : overlapping(block, size, kMaxSegmentBytes),
          {FindingKind::segment_short,
           page_gone ? FindingKind::segment_page : FindingKind::unreadable}};
}

Damage SpoiltStore::lose_segment(std::mt19937_64& random) {
  const KnownBlock& block = any_block(random);
  std::filesystem::remove(file_of(block));
  return {file_of(block).string() + " removed", in_segment(block), {FindingKind::segment_missing}};
}

Damage SpoiltStore::swap_segments(std::mt19937_64& random) {
  const KnownBlock& one = any_block(random);
  const KnownBlock* other = &any_block(random);
  while (file_of(*other) == file_of(one)) other = &any_block(random);
  const std::filesystem::path aside = root() / "aside";
  std::filesystem::rename(file_of(one), aside);
  std::filesystem::rename(file_of(*other), file_of(one));
  std::filesystem::rename(aside, file_of(*other));
  std::set<Digest> lost = in_segment(one);
  lost.merge(in_segment(*other));
  return {file_of(one).string() + " and " + file_of(*other).string() + " swapped",
          std::move(lost),
          {FindingKind::segment_page}};
}

Damage SpoiltStore::flip_segment_page(std::mt19937_64& random) {
  const KnownBlock& block = any_block(random);
  flip(file_of(block), below(random, kPageBytes), static_cast<unsigned>(below(random, 8)));
  return {"a bit of the page of " + file_of(block).string(),
          in_segment(block),
          {FindingKind::segment_page}};
}

Damage SpoiltStore::flip_device_page(std::mt19937_64& random) {
  const std::string name = "device" + std::to_string(below(random, 2));
  flip(root() / name / "device", below(random, kPageBytes),
       static_cast<unsigned>(below(random, 8)));
  return {"a bit of " + name, {}, {FindingKind::device_page}, false};
}

Damage SpoiltStore::old_segment(std::mt19937_64& random) {
  const KnownBlock* block = &any_block(random);
  while (block->epoch == 0) block = &any_block(random);
  const int epoch = block->epoch - 1;
  const std::filesystem::path file = file_of(*block);
  const std::filesystem::path old = root_.path() / ("closed" + std::to_string(epoch)) /
                                    file.parent_path().filename() / file.filename();
  std::set<Digest> lost;
  for (const KnownBlock& other : blocks_) {
    if (file_of(other) == file && other.epoch > epoch) lost.insert(other.digest);
  }
  std::filesystem::remove(file);
  if (std::filesystem::exists(old)) std::filesystem::copy(old, file);
  return {file.string() + " as after run " + std::to_string(epoch),
          std::move(lost),
          {FindingKind::header, FindingKind::segment_missing, FindingKind::segment_page}};
}

Damage SpoiltStore::old_index(std::mt19937_64& random) {
  static const std::string kOld[] = {"closed0", "closed1", "running"};
  const std::string& old = kOld[below(random, std::size(kOld))];
  copy_all(root_.path() / old / "device0" / "index", root() / "device0" / "index");
  return {"the index of " + old, {}, {FindingKind::unindexed}, false};
}

Damage SpoiltStore::lose_index(std::mt19937_64& random) {
  const std::filesystem::path index = root() / "device0" / "index";
  if (below(random, 2) == 0) {
    std::filesystem::remove_all(index);
  } else {
    std::ofstream(index / "CURRENT") << "nonsense";
  }
  return {"no index", {}, {FindingKind::index}};
}

Damage SpoiltStore::flip_in_index(std::mt19937_64& random) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(root() / "device0" / "index")) {
    const std::string name = entry.path().filename().string();
    const bool counts =
        name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("MANIFEST-");
    if (counts && entry.file_size() > 0) files.push_back(entry.path());
  }
  std::ranges::sort(files);
  const std::filesystem::path& file = files[below(random, files.size())];
  const std::uint64_t at = below(random, std::filesystem::file_size(file));
  flip(file, at, static_cast<unsigned>(below(random, 8)));
  return {"a bit of " + file.string() + " at " + std::to_string(at),
          {},
          {FindingKind::index, FindingKind::index_log, FindingKind::unindexed},
          false};
}

void SpoiltStore::expect_right_or_missing(const std::set<Digest>& lost,
                                          bool others_are_found) const {
  auto opened = BlockStore::open(config());
  ASSERT_OK(opened);
  BlockStore& store = **opened;
  const NamespaceId scope = store.intern(kSpoiltScope).value();
  for (const KnownBlock& block : blocks_) {
    const auto place = look_up(store, scope, block.key);
    Status done = ipc::fail(Errc::not_found, "not found");
    const std::uint64_t bytes = block.place.block_bytes;
    const AlignedMemory got = allocate_aligned(bytes);
    if (place) {
      ASSERT_EQ(place->block_bytes, bytes);
      Answer answer;
      store.read(scope, key_of(block.key), *place, 0, {got.get(), bytes}, IoClass::must_have,
                 answer.done());
      done = answer.wait();
    }
    if (done) {
      const Payload right(bytes, block.seed);
      EXPECT_EQ(std::memcmp(got.get(), right.bytes().data(), bytes), 0) << block.key << " is wrong";
      EXPECT_FALSE(lost.contains(block.digest)) << block.key << " came back";
    } else {
      EXPECT_TRUE(lost.contains(block.digest) || !others_are_found)
          << block.key << ": " << done.error().text;
    }
  }
}

}  // namespace sluice::storage
