#include "storage/testing/faulty_engine.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <new>
#include <system_error>
#include <vector>

namespace sluice::storage {
namespace {

using std::chrono::microseconds;
using std::chrono::steady_clock;

constexpr std::size_t kReapBatch = 64;
// What a short read leaves behind its end: nothing that a reader may take for data.
constexpr std::byte kGarbage{0xdb};

struct AlignedDelete {
  void operator()(std::byte* bytes) const {
    ::operator delete[](bytes, std::align_val_t(kIoAlign));
  }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;

AlignedBytes aligned_copy(std::span<const std::byte> bytes) {
  AlignedBytes copy(static_cast<std::byte*>(
      ::operator new[](std::max<std::size_t>(bytes.size(), 1), std::align_val_t(kIoAlign))));
  std::ranges::copy(bytes, copy.get());
  return copy;
}

bool changes_file(IoOp op) { return op == IoOp::write || op == IoOp::discard; }

// Some of the sectors, but neither none nor all, where there are several.
std::uint64_t some_sectors(std::uint64_t length, std::uint64_t random) {
  const std::uint64_t sectors = (length + kSectorBytes - 1) / kSectorBytes;
  return sectors < 2 ? 0 : kSectorBytes * (1 + random % (sectors - 1));
}

void flip_bit(std::span<std::byte> bytes, std::uint64_t random) {
  if (bytes.empty()) return;
  const std::uint64_t bit = random % (bytes.size() * 8);
  bytes[bit / 8] ^= std::byte{1} << (bit % 8);
}

std::string path_of(int fd) {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), ignored).string();
}

}  // namespace

void FaultyDisk::add(const FaultRule& rule) {
  const std::lock_guard lock(mutex_);
  plan_.add(rule);
}

void FaultyDisk::clear() {
  const std::lock_guard lock(mutex_);
  plan_.clear();
}

void FaultyDisk::vanish() {
  const std::lock_guard lock(mutex_);
  plan_.set_vanished(true);
}

std::uint64_t FaultyDisk::injected(Fault fault) const {
  const std::lock_guard lock(mutex_);
  return plan_.injected(fault);
}

PowerLoss FaultyDisk::lose_power(std::uint64_t seed) {
  const std::lock_guard lock(mutex_);
  SLUICE_ASSERT(engines_ == 0);
  std::mt19937_64 random(seed);
  PowerLoss loss;
  for (auto& [id, file] : files_) file.changes->lose_power(random, loss);
  files_.clear();
  plan_.set_vanished(false);
  return loss;
}

Result<FaultyDisk::FileId> FaultyDisk::register_file(int fd) {
  struct stat status = {};
  if (fstat(fd, &status) != 0) return ipc::fail_errno("fstat of a file to register");
  const FileId id{status.st_dev, status.st_ino};
  const std::lock_guard lock(mutex_);
  if (!files_.contains(id)) {
    auto opened = UnsyncedFile::open(fd);
    if (!opened) return std::unexpected(opened.error());
    files_[id].changes = std::move(*opened);
  }
  ++files_[id].registered;
  return id;
}

void FaultyDisk::unregister_file(FileId id) {
  const std::lock_guard lock(mutex_);
  const auto file = files_.find(id);
  SLUICE_ASSERT(file != files_.end() && file->second.registered != 0);
  --file->second.registered;
  if (file->second.registered == 0 && file->second.changes->clean()) files_.erase(file);
}

class FaultyEngine final : public IoEngine {
 public:
  FaultyEngine(std::unique_ptr<IoEngine> real, std::shared_ptr<FaultyDisk> disk)
      : disk_(std::move(disk)), slots_(real->depth()), real_(std::move(real)) {
    for (std::uint32_t slot = real_->depth(); slot > 0; --slot) free_slots_.push_back(slot - 1);
    const std::lock_guard lock(disk_->mutex_);
    ++disk_->engines_;
  }

  ~FaultyEngine() override {
    real_.reset();
    const std::lock_guard lock(disk_->mutex_);
    for (const Slot& slot : slots_) {
      if (slot.change != 0) changes_of(slot.request.file).end(slot.change);
    }
    for (const File& file : files_) {
      if (file.registered) --disk_->files_.at(file.id).registered;
    }
    --disk_->engines_;
  }

  std::string_view name() const override { return real_->name(); }
  std::uint32_t depth() const override { return real_->depth(); }

  Result<IoFile> register_file(int fd) override {
    auto file = real_->register_file(fd);
    if (!file) return file;
    const auto id = disk_->register_file(fd);
    if (!id) {
      real_->unregister_file(*file);
      return std::unexpected(id.error());
    }
    if (file->index >= files_.size()) files_.resize(file->index + 1);
    files_[file->index] = {.id = *id, .path = path_of(fd), .registered = true};
    return file;
  }

  void unregister_file(IoFile file) override {
    real_->unregister_file(file);
    files_[file.index].registered = false;
    disk_->unregister_file(files_[file.index].id);
  }

  Status register_memory(std::span<std::byte> memory) override {
    return real_->register_memory(memory);
  }
  void unregister_memory(const std::byte* memory) override { real_->unregister_memory(memory); }

  std::size_t submit(std::span<const IoRequest> requests) override {
    const std::size_t taken = std::min(requests.size(), free_slots_.size());
    std::vector<IoRequest> passed;
    {
      const std::lock_guard lock(disk_->mutex_);
      for (const IoRequest& request : requests.first(taken)) begin(request, passed);
    }
    const std::size_t begun = real_->submit(passed);
    SLUICE_ASSERT(begun == passed.size());
    return taken;
  }

  std::size_t reap(std::span<IoAnswer> answers, microseconds timeout) override {
    const auto end = steady_clock::now() + std::min(timeout, kMaxReapWait);
    for (;;) {
      std::size_t count = give(answers);
      const auto until = held_.empty() ? end : std::min(end, held_.begin()->first);
      const auto wait = count != 0 ? microseconds(0)
                                   : std::chrono::ceil<microseconds>(until - steady_clock::now());
      hold_answers(wait);
      count += give(answers.subspan(count));
      const bool woken = woken_.exchange(false);
      if (count != 0 || woken || steady_clock::now() >= end) return count;
    }
  }

  void wake() override {
    woken_ = true;
    real_->wake();
  }

 private:
  struct File {
    FaultyDisk::FileId id;
    std::string path;
    bool registered = false;
  };

  // A request in flight: from submit() to the reap() that gives its answer.
  struct Slot {
    IoRequest request;  // as the caller gave it
    Injection injection;
    AlignedBytes written;             // instead of the caller's memory
    UnsyncedFile::Change change = 0;  // of a write or discard that the real engine has
    UnsyncedFile::Moment moment = 0;  // of a sync
    bool in_flight = false;
  };

  UnsyncedFile& changes_of(IoFile file) { return *disk_->files_.at(files_[file.index].id).changes; }

  void begin(const IoRequest& request, std::vector<IoRequest>& passed) {
    SLUICE_ASSERT(!overlaps_change(request));
    const std::uint32_t index = free_slots_.back();
    free_slots_.pop_back();
    Slot& slot = slots_[index];
    slot = {.request = request,
            .injection = disk_->plan_.decide(request, files_[request.file.index].path),
            .written = nullptr,
            .change = 0,
            .moment = 0,
            .in_flight = true};
    if (request.op == IoOp::sync) slot.moment = changes_of(request.file).sync_begins();
    if (const auto result = answer_instead(slot)) {
      hold(index, *result);
      return;
    }
    IoRequest pass = request;
    pass.tag = index;
    if (request.op == IoOp::write) replace_written(slot, pass);
    if (changes_file(request.op) && disk_->power_ == Power::may_be_lost) {
      slot.change = changes_of(request.file).begin(request.offset, request.length);
    }
    passed.push_back(pass);
  }

  bool overlaps_change(const IoRequest& request) const {
    return changes_file(request.op) && std::ranges::any_of(slots_, [&](const Slot& slot) {
             const IoRequest& other = slot.request;
             return slot.in_flight && changes_file(other.op) && other.file == request.file &&
                    other.offset < request.offset + request.length &&
                    request.offset < other.offset + other.length;
           });
  }

  // The result of a request that the real engine does not see.
  static std::optional<std::int64_t> answer_instead(const Slot& slot) {
    if (!slot.injection.fault) return std::nullopt;
    switch (*slot.injection.fault) {
      case Fault::io_error:
        return -EIO;
      case Fault::no_space:
        return -ENOSPC;
      case Fault::vanish:
        return -ENODEV;
      case Fault::lost:
        return slot.request.op == IoOp::write ? static_cast<std::int64_t>(slot.request.length) : 0;
      default:
        return std::nullopt;
    }
  }

  // A write of which less, or something else, reaches the disk.
  void replace_written(Slot& slot, IoRequest& pass) {
    const auto fault = slot.injection.fault;
    const bool partial = fault == Fault::torn_write || fault == Fault::short_transfer;
    if (!partial && fault != Fault::flip_write) return;
    const std::span<std::byte> asked(pass.memory, pass.length);
    slot.written = aligned_copy(asked);
    pass.memory = slot.written.get();
    if (!partial) {
      flip_bit({pass.memory, pass.length}, slot.injection.random);
      return;
    }
    const auto before = changes_of(pass.file).read(pass.offset, pass.length);
    const auto kept = static_cast<std::ptrdiff_t>(some_sectors(pass.length, slot.injection.random));
    std::copy(before.begin() + kept, before.end(), pass.memory + kept);
  }

  void hold(std::uint32_t index, std::int64_t result) {
    held_.emplace(steady_clock::now() + slots_[index].injection.delay, Held{index, result});
  }

  void hold_answers(microseconds wait) {
    std::array<IoAnswer, kReapBatch> answers;
    const std::size_t count = real_->reap(answers, wait);
    for (const IoAnswer& answer : std::span(answers).first(count)) {
      hold(static_cast<std::uint32_t>(answer.tag), answer.result);
    }
  }

  // The answers whose time has come.
  std::size_t give(std::span<IoAnswer> answers) {
    const auto now = steady_clock::now();
    std::size_t count = 0;
    while (count < answers.size() && !held_.empty() && held_.begin()->first <= now) {
      const Held held = held_.begin()->second;
      held_.erase(held_.begin());
      Slot& slot = slots_[held.slot];
      const std::int64_t result = end(slot, held.result);
      answers[count++] = {slot.request.tag, result};
      slot = {};
      free_slots_.push_back(held.slot);
    }
    return count;
  }

  std::int64_t end(const Slot& slot, std::int64_t result) {
    const IoRequest& request = slot.request;
    if (request.op == IoOp::read) return spoil_read(slot, result);
    const std::lock_guard lock(disk_->mutex_);
    if (slot.change != 0) changes_of(request.file).end(slot.change);
    // A sync that was lost makes nothing durable, and nobody knows.
    if (request.op == IoOp::sync && slot.injection.fault != Fault::lost) {
      changes_of(request.file).sync_ends(slot.moment, result == 0);
    }
    if (slot.injection.fault != Fault::short_transfer) return result;
    return std::min(result,
                    static_cast<std::int64_t>(some_sectors(request.length, slot.injection.random)));
  }

  static std::int64_t spoil_read(const Slot& slot, std::int64_t result) {
    if (result <= 0) return result;
    const auto length = static_cast<std::uint64_t>(result);
    const std::span<std::byte> got(slot.request.memory, length);
    if (slot.injection.fault == Fault::flip_read) flip_bit(got, slot.injection.random);
    if (slot.injection.fault != Fault::short_transfer) return result;
    const std::uint64_t kept = some_sectors(length, slot.injection.random);
    std::ranges::fill(got.subspan(kept), kGarbage);
    return static_cast<std::int64_t>(kept);
  }

  struct Held {
    std::uint32_t slot;
    std::int64_t result;
  };

  const std::shared_ptr<FaultyDisk> disk_;
  std::vector<File> files_;  // by index
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::multimap<steady_clock::time_point, Held> held_;  // by the time that they are due
  std::atomic<bool> woken_ = false;
  std::unique_ptr<IoEngine> real_;
};

std::unique_ptr<IoEngine> make_faulty_engine(std::unique_ptr<IoEngine> real,
                                             std::shared_ptr<FaultyDisk> disk) {
  return std::make_unique<FaultyEngine>(std::move(real), std::move(disk));
}

}  // namespace sluice::storage
