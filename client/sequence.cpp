#include "client/sequence.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>

#include "client/actor.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

namespace {

// Between two tries of a request that the daemon answered with busy: memory comes back when running
// steps end, within microseconds to milliseconds, and a new extent takes the daemon milliseconds.
constexpr std::chrono::microseconds kLeastPause{50};
constexpr std::chrono::microseconds kMostPause{5'000};

// The tries of one request for memory.
class Tries {
 public:
  explicit Tries(ipc::Deadline deadline) : deadline_(deadline) {}

  // Whether the request is to be made again, after a pause.
  bool again(const ipc::Error& error) {
    if (error.code != Errc::busy || ipc::Clock::now() + pause_ >= deadline_) return false;
    std::this_thread::sleep_for(pause_);
    pause_ = std::min(pause_ * 2, kMostPause);
    return true;
  }

 private:
  ipc::Deadline deadline_;
  std::chrono::microseconds pause_ = kLeastPause;
};

std::uint32_t bytes_u32(std::size_t bytes) { return static_cast<std::uint32_t>(bytes); }

std::unexpected<ipc::Error> impossible_frame() {
  return fail(Errc::peer_violation, "the daemon gave a frame that does not exist");
}

}  // namespace

Sequence::~Sequence() {
  if (row_) cache_.device()->remove_row(*row_);
  --cache_.users();
}

ipc::Result<Channel::Answer> Sequence::request(Channel::Request request, ipc::RequestPiece memory) {
  if (auto ok = cache_.client().check(); !ok) return std::unexpected(ok.error());
  if (request.op != wire::Op::sequence_release) {
    if (auto ok = check(); !ok) return std::unexpected(ok.error());
  }
  auto answer =
      cache_.client().channel().call(request, std::move(memory), cache_.client().deadline());
  if (!answer && answer.error().code == Errc::timed_out) unanswered_ = true;
  return answer;
}

ipc::Status Sequence::check() const {
  if (!unanswered_) return {};
  return fail(Errc::wrong_state,
              "an earlier request of this sequence was not answered in time, so nobody knows which "
              "blocks it has; release it and open it again");
}

void Sequence::append(std::uint32_t id, const Block& block) {
  ids_.push_back(id);
  blocks_.push_back(block);
}

// ---- opening

ipc::Result<std::uint32_t> Sequence::match(const Keys& keys, std::size_t first,
                                           std::uint32_t count) {
  Client& client = cache_.client();
  const std::size_t spec_bytes = sizeof(wire::OpenSpec);
  const std::size_t key_area = (std::size_t{count} * keys.key_bytes + 7) / 8 * 8;
  const std::size_t reply_bytes =
      std::max(std::size_t{count} * sizeof(wire::BlockRef), ipc::kMaxErrorText);
  auto memory = client.channel().allocate(spec_bytes + key_area + reply_bytes, client.deadline());
  if (!memory) return std::unexpected(memory.error());
  std::byte* const at = memory->bytes().data();
  const wire::OpenSpec spec(cache_.handle(), keys.key_bytes, count);
  std::memcpy(at, &spec, spec_bytes);
  for (std::uint32_t i = 0; i < count; ++i) {
    std::memcpy(at + spec_bytes + std::size_t{i} * keys.key_bytes,
                keys.data + (first + i) * keys.stride, keys.key_bytes);
  }
  Channel::Request open;
  open.op = first == 0 ? wire::Op::sequence_open : wire::Op::sequence_match_more;
  open.handle = handle_;
  open.length = bytes_u32(spec_bytes + std::size_t{count} * keys.key_bytes);
  open.reply_offset = bytes_u32(spec_bytes + key_area);
  open.reply_length = bytes_u32(reply_bytes);
  auto answer = request(open, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  const auto& completion = answer->completion;
  handle_ = completion.value0();
  const auto matched =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(completion.value1(), count));
  const std::byte* const refs = answer->memory.bytes().data() + open.reply_offset;
  for (std::uint32_t i = 0; i < matched; ++i) {
    wire::BlockRef ref;
    std::memcpy(&ref, refs + i * sizeof(ref), sizeof(ref));
    append(ref.id(), {ref.frame(), true, false});
  }
  sealed_ += matched;
  cache_.stats().blocks_matched.fetch_add(matched, std::memory_order_relaxed);
  if (auto ok = cache_.map_frame_extents(completion.frame_extents()); !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = cache_.check_pinning(); !ok) return std::unexpected(ok.error());
  return matched;
}

ipc::Result<std::unique_ptr<Sequence>> Sequence::open(Cache& cache, const Keys& keys,
                                                      std::uint32_t& matched) {
  std::unique_ptr<Sequence> sequence(new Sequence(cache));
  std::size_t first = 0;
  matched = 0;
  do {
    const auto count =
        static_cast<std::uint32_t>(std::min<std::size_t>(keys.count - first, kMaxBlocksPerRequest));
    auto some = sequence->match(keys, first, count);
    if (!some) {
      if (sequence->handle_ != 0) (void)sequence->release();
      return std::unexpected(some.error());
    }
    matched += *some;
    if (*some < count) break;
    first += count;
  } while (first < keys.count);
  return sequence;
}

// ---- growing and shrinking

ipc::Result<std::uint32_t> Sequence::extend(std::uint32_t count) {
  if (count == 0) return fail(Errc::invalid_argument, "extend by 0 blocks; at least 1");
  Client& client = cache_.client();
  if (count > cache_.max_blocks()) {
    return fail(Errc::quota_exceeded, std::to_string(count) +
                                          " blocks asked for; the cache has room for " +
                                          std::to_string(cache_.max_blocks()) + " in all");
  }
  const std::uint32_t first = blocks();
  std::uint32_t left = count;
  const ipc::Deadline deadline = client.deadline();
  Tries tries(deadline);
  while (left > 0) {
    const std::uint32_t some = std::min(left, kMaxBlocksPerRequest);
    const std::size_t reply_bytes =
        std::max(std::size_t{some} * sizeof(wire::BlockRef), ipc::kMaxErrorText);
    auto memory = client.channel().allocate(reply_bytes, deadline);
    if (!memory) {
      if (blocks() > first) (void)truncate(first);  // all or none
      return std::unexpected(memory.error());
    }
    Channel::Request extend;
    extend.op = wire::Op::sequence_extend;
    extend.handle = handle_;
    extend.count = some;
    extend.reply_length = bytes_u32(reply_bytes);
    auto answer = request(extend, std::move(*memory));
    if (!answer) {
      if (tries.again(answer.error())) continue;
      // All or none.
      if (blocks() > first) (void)truncate(first);
      return std::unexpected(answer.error());
    }
    if (answer->completion.value0() != blocks()) {
      return fail(Errc::peer_violation, "the daemon extended the sequence at block " +
                                            std::to_string(answer->completion.value0()) +
                                            "; it ends at " + std::to_string(blocks()));
    }
    const std::byte* const refs = answer->memory.bytes().data();
    for (std::uint32_t i = 0; i < some; ++i) {
      wire::BlockRef ref;
      std::memcpy(&ref, refs + i * sizeof(ref), sizeof(ref));
      append(ref.id(), {ref.frame(), false, false});
    }
    auto ready = cache_.map_frame_extents(answer->completion.frame_extents());
    if (ready) ready = cache_.check_pinning();
    if (!ready) {
      (void)truncate(first);
      return std::unexpected(ready.error());
    }
    left -= some;
  }
  if (auto ok = update_row(first); !ok) return std::unexpected(ok.error());
  return first;
}

ipc::Status Sequence::truncate(std::uint32_t count) {
  if (count > blocks()) {
    return fail(Errc::invalid_argument, "truncate to " + std::to_string(count) +
                                            " blocks; the sequence has " +
                                            std::to_string(blocks()));
  }
  auto memory = cache_.client().channel().allocate(ipc::kMaxErrorText, cache_.client().deadline());
  if (!memory) return std::unexpected(memory.error());
  Channel::Request truncate;
  truncate.op = wire::Op::sequence_truncate;
  truncate.handle = handle_;
  truncate.count = count;
  truncate.reply_length = ipc::kMaxErrorText;
  auto answer = request(truncate, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  while (blocks() > count) {
    pins_.erase(blocks() - 1);
    if (blocks_.back().sealed) --sealed_;
    blocks_.pop_back();
    ids_.pop_back();
  }
  return update_row(blocks());
}

ipc::Status Sequence::release() {
  auto memory = cache_.client().channel().allocate(ipc::kMaxErrorText, cache_.client().deadline());
  if (!memory) return std::unexpected(memory.error());
  Channel::Request release;
  release.op = wire::Op::sequence_release;
  release.handle = handle_;
  release.reply_length = ipc::kMaxErrorText;
  auto answer = request(release, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  return {};
}

ipc::Result<Channel::Answer> Sequence::request_fork() {
  Client& client = cache_.client();
  const auto unsealed = static_cast<std::size_t>(blocks() - sealed_);
  const std::size_t reply_bytes = std::max(unsealed * sizeof(wire::ForkedRef), ipc::kMaxErrorText);
  const ipc::Deadline deadline = client.deadline();
  Tries tries(deadline);
  while (true) {
    auto memory = client.channel().allocate(reply_bytes, deadline);
    if (!memory) return std::unexpected(memory.error());
    Channel::Request fork;
    fork.op = wire::Op::sequence_fork;
    fork.handle = handle_;
    fork.reply_length = bytes_u32(reply_bytes);
    auto answer = request(fork, std::move(*memory));
    if (answer || !tries.again(answer.error())) return answer;
  }
}

ipc::Result<std::unique_ptr<Sequence>> Sequence::fork(Actor* actor) {
  if (has_pins() && cache_.device() != nullptr) {
    if (auto ok = check_actor(pins_.begin()->first, actor, "fork the sequence"); !ok) {
      return std::unexpected(ok.error());
    }
  }
  auto answer = request_fork();
  if (!answer) return std::unexpected(answer.error());
  std::unique_ptr<Sequence> child(new Sequence(cache_));
  child->handle_ = answer->completion.value0();
  child->ids_ = ids_;
  child->blocks_ = blocks_;
  child->sealed_ = sealed_;
  if (auto ok = cache_.map_frame_extents(answer->completion.frame_extents()); !ok) {
    (void)child->release();
    return std::unexpected(ok.error());
  }
  const std::byte* const refs = answer->memory.bytes().data();
  const std::size_t copies = std::min<std::size_t>(answer->completion.value1(), blocks() - sealed_);
  for (std::size_t i = 0; i < copies; ++i) {
    wire::ForkedRef ref;
    std::memcpy(&ref, refs + i * sizeof(ref), sizeof(ref));
    if (ref.index() >= blocks()) continue;
    Block& block = child->blocks_[ref.index()];
    child->ids_[ref.index()] = ref.id();
    block.frame = ref.frame();
    std::byte* const to = cache_.frame(block.frame);
    if (to == nullptr) {
      (void)child->release();
      return impossible_frame();
    }
    if (const auto* slots = pinned(ref.index()); slots != nullptr) {
      if (auto ok = copy_to_frame(*slots, block.frame, actor); !ok) {
        (void)child->release();
        return std::unexpected(ok.error());
      }
      block.in_frame = true;
    } else if (block.in_frame) {
      std::memcpy(to, cache_.frame(blocks_[ref.index()].frame), cache_.geometry().block_bytes);
    }
  }
  return child;
}

// ---- writing

ipc::Result<Sequence::Block*> Sequence::private_block(std::uint32_t block) {
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  if (block >= blocks()) {
    return fail(Errc::invalid_argument,
                "block " + std::to_string(block) + " of a sequence of " + std::to_string(blocks()));
  }
  if (blocks_[block].sealed) {
    return fail(Errc::wrong_state,
                "block " + std::to_string(block) + " is sealed, so its bytes can no longer change");
  }
  return &blocks_[block];
}

const std::vector<std::int32_t>* Sequence::pinned(std::uint32_t block) const {
  const auto found = pins_.find(block);
  return found == pins_.end() ? nullptr : &found->second;
}

ipc::Result<std::span<std::byte>> Sequence::map(std::uint32_t index) {
  auto block = private_block(index);
  if (!block) return std::unexpected(block.error());
  if (pinned(index) != nullptr) {
    return fail(Errc::wrong_state, "the pages of block " + std::to_string(index) +
                                       " are pinned slots; write there until the seal");
  }
  std::byte* const data = cache_.frame((*block)->frame);
  if (data == nullptr) return impossible_frame();
  (*block)->in_frame = true;
  return std::span(data, cache_.geometry().block_bytes);
}

ipc::Status Sequence::copy_to_frame(const std::vector<std::int32_t>& slots, std::uint32_t frame,
                                    Actor* actor) const {
  if (cache_.device() != nullptr) return actor->copy_to_frame(slots, frame);
  std::byte* const to = cache_.frame(frame);
  const std::size_t page_bytes = cache_.geometry().page_bytes;
  for (std::size_t page = 0; page < slots.size(); ++page) {
    std::memcpy(to + page * page_bytes, cache_.slot(slots[page]), page_bytes);
  }
  return {};
}

ipc::Status Sequence::copy_to_slots(const std::vector<std::int32_t>& slots, std::uint32_t frame,
                                    Actor& actor) const {
  if (cache_.device() != nullptr) return actor.copy_to_slots(slots, frame);
  const std::byte* const from = cache_.frame(frame);
  const std::size_t page_bytes = cache_.geometry().page_bytes;
  for (std::size_t page = 0; page < slots.size(); ++page) {
    std::memcpy(cache_.slot(slots[page]), from + page * page_bytes, page_bytes);
  }
  return {};
}

ipc::Status Sequence::check_actor(std::uint32_t block, const Actor* actor, const char* what) const {
  if (actor != nullptr && &actor->cache() == &cache_ && actor->in_step()) return {};
  return fail(Errc::invalid_argument, "block " + std::to_string(block) +
                                          " has pinned slots: " + what +
                                          " in a step of an actor of its cache, and name "
                                          "that actor");
}

// ---- the row

ipc::Result<std::uint32_t> Sequence::row() {
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  if (cache_.device() == nullptr) {
    return fail(Errc::not_supported,
                "rows of sequences are for plans, and those for caches on a GPU (device_type 2)");
  }
  if (!row_) {
    auto row = cache_.device()->add_row(ids_);
    if (!row) return row;
    row_ = *row;
  }
  return *row_;
}

ipc::Status Sequence::update_row(std::uint32_t first) {
  if (!row_) return {};
  return cache_.device()->update_row(*row_, ids_, first);
}

ipc::Status Sequence::pin(std::uint32_t index, Actor& actor, std::int32_t* slots) {
  auto block = private_block(index);
  if (!block) return std::unexpected(block.error());
  auto found = pins_.find(index);
  if (found == pins_.end()) {
    if ((*block)->in_frame && cache_.device() != nullptr) {
      // Before anything is claimed, since it may take long.
      auto ok = cache_.wait_pinned_frame((*block)->frame, cache_.client().deadline());
      if (!ok) return ok;
    }
    auto pins = actor.pin(*this, index);
    if (!pins) return std::unexpected(pins.error());
    found = pins_.emplace(index, std::move(*pins)).first;
    if ((*block)->in_frame) {
      if (auto ok = copy_to_slots(found->second, (*block)->frame, actor); !ok) return ok;
    }
  }
  std::copy(found->second.begin(), found->second.end(), slots);
  return {};
}

ipc::Result<bool> Sequence::seal(std::uint32_t index, std::span<const std::byte> key,
                                 std::uint64_t valid_bytes, Actor* actor) {
  if (index >= blocks()) return std::unexpected(private_block(index).error());
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  const auto pins = pins_.find(index);
  if (pins != pins_.end()) {
    if (auto ok = check_actor(index, actor, "seal it"); !ok) return std::unexpected(ok.error());
    if (cache_.frame(blocks_[index].frame) == nullptr) return impossible_frame();
    if (auto ok = copy_to_frame(pins->second, blocks_[index].frame, actor); !ok) {
      return std::unexpected(ok.error());
    }
  }
  const std::size_t spec_bytes = sizeof(wire::KeySpec);
  const std::size_t key_area = (key.size() + 7) / 8 * 8;
  auto memory = cache_.client().channel().allocate(spec_bytes + key_area + ipc::kMaxErrorText,
                                                   cache_.client().deadline());
  if (!memory) return std::unexpected(memory.error());
  std::byte* const at = memory->bytes().data();
  const wire::KeySpec spec(bytes_u32(key.size()), 1);
  std::memcpy(at, &spec, spec_bytes);
  std::memcpy(at + spec_bytes, key.data(), key.size());
  Channel::Request seal;
  seal.op = wire::Op::seal;
  seal.handle = handle_;
  seal.value = valid_bytes;
  seal.count = index;
  seal.length = bytes_u32(spec_bytes + key.size());
  seal.reply_offset = bytes_u32(spec_bytes + key_area);
  seal.reply_length = ipc::kMaxErrorText;
  auto answer = request(seal, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  Block& block = blocks_[index];
  const bool deduplicated = answer->completion.value0() != 0;
  ipc::Status settled;
  if (pins != pins_.end()) {
    // After a deduplication the old id retires, pins and all; it may even be somebody else's by
    // now.
    if (!deduplicated) settled = actor->unpin(ids_[index], pins->second);
    pins_.erase(pins);
  }
  wire::BlockRef ref;
  std::memcpy(&ref, answer->memory.bytes().data() + seal.reply_offset, sizeof(ref));
  ids_[index] = ref.id();
  block.frame = ref.frame();
  if (!block.sealed) ++sealed_;
  block.sealed = true;
  block.in_frame = false;
  // The existing block may lie in an extent that another session made the cache grow by.
  if (auto ok = cache_.map_frame_extents(answer->completion.frame_extents()); !ok) {
    return std::unexpected(ok.error());
  }
  if (deduplicated) {
    cache_.stats().blocks_deduplicated.fetch_add(1, std::memory_order_relaxed);
    settled = update_row(index);
  }
  if (!settled) return std::unexpected(settled.error());
  return deduplicated;
}

}  // namespace sluice::client::internal
