// Lets a block store lose power again and again, and compares with what it had acknowledged.
//
// Each round opens the store on what the last one left, looks for every block that was ever
// acknowledged, writes more, and loses power in the middle: of what no sync made durable in a
// segment, some goes and some is torn (storage/testing/faulty_engine.h), and the index is what it
// was then, or what it was after the last sync that the store waited for.
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "storage/block_store.h"
#include "storage/bytes.h"
#include "storage/file.h"
#include "storage/testing/faulty_engine.h"
#include "tests/crash/content.h"

namespace {

namespace fs = std::filesystem;
using namespace sluice;           // NOLINT(google-build-using-namespace): the entry of its program
using namespace sluice::storage;  // NOLINT(google-build-using-namespace): likewise

constexpr std::uint32_t kPool = 300;  // blocks; all of them are a third of what the store holds
constexpr std::uint32_t kMostWrites = 60;
constexpr std::uint32_t kMostPages = 24;
constexpr std::uint64_t kCapacity = std::uint64_t{64} << 20;
constexpr std::uint64_t kSegment = std::uint64_t{1} << 20;
constexpr std::chrono::seconds kPatience{30};
constexpr int kMostDelayUs = 6000;

std::string key_of(std::uint32_t block) { return "block" + std::to_string(block); }
std::uint64_t bytes_of(std::uint32_t block) {
  return kIoAlign * (1 + crash::mixed(block + 1) % kMostPages);
}

// Copies what is there; files of a running index may go meanwhile.
void copy_index(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  fs::remove_all(to, ignored);
  fs::create_directories(to, ignored);
  for (const auto& file : fs::directory_iterator(from, ignored)) {
    if (file.is_regular_file(ignored)) {
      fs::copy_file(file.path(), to / file.path().filename(), ignored);
    }
  }
}

class PowerLosses {
 public:
  PowerLosses(const fs::path& root, std::uint64_t seed)
      : root_(root), random_(seed), disk_(std::make_shared<FaultyDisk>(seed)) {
    for (auto& durable : durable_) durable = false;
  }

  struct Counts {
    std::uint64_t losses = 0, written = 0, compared = 0, older_index = 0;
    PowerLoss changes;
  } counts;

  // What went wrong, or nothing.
  std::optional<std::string> lose_once() {
    auto store = BlockStore::open(config());
    if (!store) return "the store does not open: " + store.error().text;
    const auto scope = (*store)->intern({"tenant", "model", "", "layout", ""});
    if (!scope) return "intern: " + scope.error().text;
    if (auto wrong = compare(**store, *scope)) return wrong;
    forget_some(**store, *scope);
    std::vector<AlignedMemory> memory;
    write_some(**store, *scope, memory);
    if (!(*store)->drain(kPatience)) return "writes are not answered";
    // A new segment's first batch waits for a sync of the index: behind the answers it is done.
    const std::uint64_t segments = (*store)->stats().devices[0].segment_count;
    copy_index(index(), older());
    write_some(**store, *scope, memory);
    std::this_thread::sleep_for(std::chrono::microseconds(below(kMostDelayUs)));
    const bool same = (*store)->stats().devices[0].segment_count == segments;
    disk_->vanish();
    copy_index(index(), latest());
    store->reset();
    const PowerLoss loss = disk_->lose_power(random_());
    counts.changes.kept += loss.kept;
    counts.changes.dropped += loss.dropped;
    counts.changes.torn += loss.torn;
    const bool take_older = same && below(2) == 0;
    counts.older_index += take_older ? 1 : 0;
    copy_index(take_older ? older() : latest(), index());
    ++counts.losses;
    return std::nullopt;
  }

 private:
  fs::path index() const { return root_ / "index"; }
  fs::path older() const { return root_ / "index-older"; }
  fs::path latest() const { return root_ / "index-latest"; }

  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  StoreConfig config() {
    StoreConfig config;
    config.devices.push_back({root_ / "store", kCapacity});
    config.index_directory = index();
    config.segment_bytes = kSegment;
    config.part_bytes = 4 * kIoAlign;
    config.engine = [disk = disk_](std::size_t) -> Result<std::unique_ptr<IoEngine>> {
      auto engine = make_io_engine(IoKind::automatic, 64);
      if (!engine) return std::unexpected(std::move(engine.error()));
      return make_faulty_engine(std::move(*engine), disk);
    };
    return config;
  }

  std::optional<std::string> compare(BlockStore& store, NamespaceId scope) {
    for (std::uint32_t block = 0; block < kPool; ++block) {
      const std::string key = key_of(block);
      const std::span<const std::byte> bytes = std::as_bytes(std::span(key));
      const auto found = store.find(scope, {&bytes, 1});
      if (!found) return "find: " + found.error().text;
      if (!found->at(0)) {
        if (durable_[block]) return key + " was acknowledged as durable and is not found";
        continue;
      }
      AlignedMemory memory = allocate_aligned(bytes_of(block));
      std::optional<Status> answer;
      const std::span<std::byte> to(memory.get(), bytes_of(block));
      store.read(scope, bytes, *found->at(0), 0, to, IoClass::must_have,
                 [&](Status status) { answer = std::move(status); });
      if (!store.drain(kPatience)) return "a read is not answered";
      // A record of no acknowledged write may be torn, and then it is a miss.
      if (!*answer && durable_[block]) return key + " cannot be read: " + answer->error().text;
      if (*answer && crash::wrong_words(to, block + 1) > 0) return key + " has wrong bytes";
      ++counts.compared;
    }
    return std::nullopt;
  }

  void forget_some(BlockStore& store, NamespaceId scope) {
    for (std::uint32_t i = 0; i < kMostWrites; ++i) {
      const auto block = static_cast<std::uint32_t>(below(kPool));
      durable_[block] = false;
      const std::string key = key_of(block);
      (void)store.forget(scope, std::as_bytes(std::span(key)));
    }
  }

  void write_some(BlockStore& store, NamespaceId scope, std::vector<AlignedMemory>& memory) {
    const std::uint64_t writes = 1 + below(kMostWrites);
    for (std::uint64_t i = 0; i < writes; ++i) {
      const auto block = static_cast<std::uint32_t>(below(kPool));
      memory.push_back(allocate_aligned(bytes_of(block)));
      const std::span<std::byte> payload(memory.back().get(), bytes_of(block));
      crash::fill(payload, block + 1);
      const std::string key = key_of(block);
      store.write(scope, std::as_bytes(std::span(key)), payload, payload.size(),
                  IoClass::write_back, [this, block](const Status& status) {
                    if (!status) return;
                    durable_[block] = true;
                    ++written_;
                  });
    }
    counts.written = written_;
  }

  fs::path root_;
  std::mt19937_64 random_;
  std::shared_ptr<FaultyDisk> disk_;
  std::array<std::atomic<bool>, kPool> durable_;
  std::atomic<std::uint64_t> written_{0};
};

bool parse(int count, char** words, std::uint64_t& losses, std::uint64_t& seed) {
  if (count % 2 == 0) return false;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view word = words[i];
    const std::string_view value = words[i + 1];
    std::uint64_t& out = word == "--losses" ? losses : seed;
    if (word != "--losses" && word != "--seed") return false;
    if (std::from_chars(value.data(), value.data() + value.size(), out).ec != std::errc()) {
      return false;
    }
  }
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t losses = 300;
  std::uint64_t seed = 1;
  if (!parse(argc, argv, losses, seed)) {
    std::fprintf(stderr,
                 "usage: power_loss [--losses N] [--seed S]\n"
                 "Exit status: 0 all that was acknowledged was there, 1 it was not, 2 usage.\n");
    return 2;
  }
  std::string folder = fs::temp_directory_path() / "sluice-power.XXXXXX";
  if (mkdtemp(folder.data()) == nullptr) return 1;
  std::optional<std::string> wrong;
  {
    PowerLosses test(folder, seed);
    while (!wrong && test.counts.losses < losses) wrong = test.lose_once();
    const auto& counts = test.counts;
    std::printf(
        "%llu power losses: %llu changes kept, %llu dropped, %llu torn, %llu times an older "
        "index; %llu blocks acknowledged, %llu compared\n",
        static_cast<unsigned long long>(counts.losses),
        static_cast<unsigned long long>(counts.changes.kept),
        static_cast<unsigned long long>(counts.changes.dropped),
        static_cast<unsigned long long>(counts.changes.torn),
        static_cast<unsigned long long>(counts.older_index),
        static_cast<unsigned long long>(counts.written),
        static_cast<unsigned long long>(counts.compared));
    if (wrong) {
      std::fprintf(stderr, "power_loss: seed %llu, after %llu losses: %s\nthe store is in %s\n",
                   static_cast<unsigned long long>(seed),
                   static_cast<unsigned long long>(counts.losses), wrong->c_str(), folder.c_str());
    }
  }
  std::error_code ignored;
  if (!wrong) fs::remove_all(folder, ignored);
  return wrong ? 1 : 0;
}
