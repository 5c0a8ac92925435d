#include "tests/storage/support.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <utility>

#include "storage/bytes.h"
#include "storage/device_directory.h"

namespace sluice::storage {

TemporaryDirectory::TemporaryDirectory(bool fast) {
  const std::filesystem::path memory = "/dev/shm";
  const bool in_memory = fast && access(memory.c_str(), W_OK) == 0;
  std::string name =
      ((in_memory ? memory : std::filesystem::temp_directory_path()) / "sluice-store-XXXXXX")
          .string();
  if (mkdtemp(name.data()) == nullptr) std::abort();
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

PlainEngine::PlainEngine(std::uint32_t depth, Fault fault)
    : depth_(depth), fault_(std::move(fault)) {}

Result<IoFile> PlainEngine::register_file(int fd) {
  files_.push_back(fd);
  return IoFile{static_cast<std::uint32_t>(files_.size() - 1)};
}

void PlainEngine::unregister_file(IoFile file) { files_[file.index] = -1; }

std::int64_t PlainEngine::perform(const IoRequest& request) const {
  const int fd = files_[request.file.index];
  const auto offset = static_cast<off_t>(request.offset);
  std::int64_t result = -1;
  switch (request.op) {
    case IoOp::read:
      result = pread(fd, request.memory, request.length, offset);
      break;
    case IoOp::write:
      result = pwrite(fd, request.memory, request.length, offset);
      break;
    case IoOp::sync:
      result = fdatasync(fd);
      break;
    case IoOp::discard:
      result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                         static_cast<off_t>(request.length));
      break;
  }
  return result < 0 ? -errno : result;
}

void PlainEngine::answer(const IoRequest& request) {
  const Perform plainly = [this](const IoRequest& what) { return perform(what); };
  const std::int64_t result = fault_ ? fault_(request, plainly) : perform(request);
  if (result == kNoAnswer) {
    held_.push_back(request);
  } else {
    answers_.push_back({request.tag, result});
  }
}

std::size_t PlainEngine::submit(std::span<const IoRequest> requests) {
  std::size_t taken = 0;
  for (const IoRequest& request : requests) {
    if (answers_.size() + held_.size() >= depth_) break;
    answer(request);
    ++taken;
  }
  return taken;
}

std::size_t PlainEngine::reap(std::span<IoAnswer> answers, std::chrono::microseconds timeout) {
  for (const IoRequest& request : std::exchange(held_, {})) answer(request);
  std::size_t count = 0;
  while (count < answers.size() && !answers_.empty()) {
    answers[count++] = answers_.front();
    answers_.pop_front();
  }
  if (count > 0) return count;
  std::unique_lock lock(mutex_);
  woken_.wait_for(lock, timeout, [&] { return wake_; });
  wake_ = false;
  return 0;
}

void PlainEngine::wake() {
  const std::lock_guard lock(mutex_);
  wake_ = true;
  woken_.notify_one();
}

Payload::Payload(std::uint64_t bytes, std::uint64_t seed)
    : bytes_(bytes), memory_(allocate_aligned(bytes)) {
  std::uint64_t word = seed * 0x9e3779b97f4a7c15U + 1;
  for (std::uint64_t at = 0; at < bytes; at += sizeof word) {
    word ^= word << 13;
    word ^= word >> 7;
    word ^= word << 17;
    std::memcpy(memory_.get() + at, &word, sizeof word);
  }
}

std::span<const std::byte> key_of(std::string_view text) { return as_bytes(text); }

Done Answer::done() {
  return [state = state_](Status status) {
    const std::lock_guard lock(state->mutex);
    state->status = std::move(status);
    state->changed.notify_all();
  };
}

Status Answer::wait() {
  std::unique_lock lock(state_->mutex);
  if (!state_->changed.wait_for(lock, kPatience, [&] { return state_->status.has_value(); })) {
    return ipc::fail(Errc::timed_out, "no answer");
  }
  return *state_->status;
}

StoreTest::StoreTest() {
  config.devices = {{directory(), 16 * kMiB}};
  config.segment_bytes = 1 * kMiB;
  config.part_bytes = 16 * kKiB;
  config.depth = 8;
  config.io = IoKind::threads;
}

void StoreTest::open() {
  store.reset();
  auto opened = BlockStore::open(config);
  ASSERT_OK(opened);
  store = std::move(*opened);
  own_scope = intern("t");
}

NamespaceId StoreTest::intern(const std::string& tenant) {
  const auto scope = store->intern({tenant, "model", "salt", "layout", "shard"});
  EXPECT_OK(scope);
  return scope.value_or(NamespaceId{});
}

void StoreTest::break_device(Fault fault, std::size_t device) {
  config.engine = [fault = std::move(fault),
                   device](std::size_t opened) -> Result<std::unique_ptr<IoEngine>> {
    return std::make_unique<PlainEngine>(8, opened == device ? fault : Fault{});
  };
}

std::filesystem::path StoreTest::segment_of(const StoredBlock& block) const {
  return directory(block.device) / segment_name(block.segment);
}

std::filesystem::path StoreTest::directory(std::size_t device) const {
  return root.path() / ("device" + std::to_string(device));
}

Status StoreTest::write(NamespaceId scope, std::string_view key, const Payload& payload,
                        Reuse reuse) {
  Answer answer;
  store->write(scope, key_of(key), payload.bytes(), payload.bytes().size(), IoClass::write_back,
               answer.done(), reuse);
  return answer.wait();
}

Status StoreTest::write(std::string_view key, const Payload& payload) {
  return write(own_scope, key, payload);
}

std::optional<StoredBlock> StoreTest::find(NamespaceId scope, std::string_view key) {
  const std::span<const std::byte> one[] = {key_of(key)};
  const auto found = store->find(scope, one);
  EXPECT_OK(found);
  return found ? found->front() : std::nullopt;
}

std::optional<StoredBlock> StoreTest::find(std::string_view key) { return find(own_scope, key); }

Status StoreTest::read(NamespaceId scope, std::string_view key, const StoredBlock& block,
                       std::uint64_t offset, std::span<std::byte> to) {
  Answer answer;
  store->read(scope, key_of(key), block, offset, to, IoClass::must_have, answer.done());
  return answer.wait();
}

testing::AssertionResult StoreTest::holds(std::string_view key, const Payload& payload) {
  const auto block = find(key);
  if (!block) return testing::AssertionFailure() << key << " is not found";
  Payload got(payload.bytes().size(), 999);
  if (const Status done = read(own_scope, key, *block, 0, got.memory()); !done) {
    return testing::AssertionFailure() << key << ": " << done.error().text;
  }
  if (!std::ranges::equal(got.bytes(), payload.bytes())) {
    return testing::AssertionFailure() << key << " has wrong bytes";
  }
  return testing::AssertionSuccess();
}

TenantStats StoreTest::tenant(const std::string& name) const {
  for (const TenantStats& stats : store->stats().tenants) {
    if (stats.name == name) return stats;
  }
  return {};
}

void wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void damage(const std::filesystem::path& file, std::uint64_t offset) {
  const auto opened = open_file(file, O_RDWR);
  ASSERT_OK(opened);
  const AlignedMemory page = allocate_aligned(kIoAlign);
  const std::uint64_t at = offset / kIoAlign * kIoAlign;
  ASSERT_OK(read_at(opened->file.fd(), at, {page.get(), kIoAlign}));
  page.get()[offset - at] ^= std::byte{0x10};
  ASSERT_OK(write_at(opened->file.fd(), at, {page.get(), kIoAlign}));
}

}  // namespace sluice::storage
