// Sequences: opening, growing and shrinking. Forks, writing, seals and resumes are in files of
// their own.
#include "client/sequence.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "client/actor.h"
#include "client/requests.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

Sequence::~Sequence() {
  if (cache_.client().in_owner()) {
    const std::lock_guard lock(mutex_);
    for (const Pending& pending : in_streams_) (void)wait_for(pending);
  }
  if (registered_ && cache_.client().in_owner()) {
    const Gate::Stay stay = cache_.client().gate().hold();
    be_forgotten();
  }
  // What was enqueued is the cache's, which may go when it has no users.
  pins_.clear();
  in_streams_.clear();
  if (row_) cache_.device()->remove_row(*row_);
  if (!hidden_) --cache_.users();
}

void Sequence::be_registered() {
  cache_.add(*this);
  registered_ = true;
}

void Sequence::be_forgotten() {
  if (registered_) cache_.remove(*this);
  registered_ = false;
}

ipc::Result<Gate::Stay> Sequence::enter(ipc::Deadline deadline, Gate::Needs needs) {
  auto stay = cache_.client().gate().enter(deadline, needs);
  if (!stay) return stay;
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  return stay;
}

ipc::Result<Channel::Answer> Sequence::call(Link& link, const Channel::Request& request,
                                            ipc::RequestPiece memory) {
  auto answer = link.channel().call(request, std::move(memory), cache_.client().deadline());
  if (!answer && answer.error().code == Errc::timed_out) unanswered_ = true;
  return answer;
}

ipc::Status Sequence::check_what_was_told() {
  if ((told_.load(std::memory_order_acquire) & kToldReplaced) != 0) {
    const std::lock_guard lock(mutex_);
    take_replaced();
  }
  if ((told_.load(std::memory_order_acquire) & kToldLost) != 0) {
    const std::lock_guard lock(mutex_);
    return std::unexpected(lost_why_);
  }
  if (!unanswered_) return {};
  return fail(Errc::wrong_state,
              "an earlier request of this sequence was not answered in time, so nobody knows which "
              "blocks it has; release it and open it again");
}

void Sequence::append(std::uint32_t id, const Block& block) {
  ids_.push_back(id);
  blocks_.push_back(block);
}

void Sequence::cut(std::uint32_t count) {
  seals_.cut(count);
  while (blocks() > count) {
    pins_.erase(blocks() - 1);
    if (blocks_.back().sealed) --sealed_;
    blocks_.pop_back();
    ids_.pop_back();
  }
}

// ---- opening

ipc::Result<std::uint32_t> Sequence::match(Link& link, const Keys& keys, std::size_t first,
                                           std::uint32_t count) {
  const std::size_t spec_bytes = sizeof(wire::OpenSpec);
  const std::size_t key_area = round8(std::size_t{count} * keys.key_bytes);
  const std::size_t reply_bytes =
      std::max(std::size_t{count} * sizeof(wire::BlockRef), ipc::kMaxErrorText);
  auto memory =
      link.channel().allocate(spec_bytes + key_area + reply_bytes, cache_.client().deadline());
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
  auto answer = call(link, open, std::move(*memory));
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
  if (auto ok = cache_.map_frame_extents(link, completion.frame_extents()); !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = cache_.check_pinning(); !ok) return std::unexpected(ok.error());
  return matched;
}

ipc::Status Sequence::match_all(Link& link, const Keys& keys, std::uint32_t& matched) {
  std::size_t first = 0;
  matched = 0;
  do {
    const auto count =
        static_cast<std::uint32_t>(std::min<std::size_t>(keys.count - first, kMaxBlocksPerRequest));
    auto some = match(link, keys, first, count);
    if (!some) {
      if (handle_ != 0) (void)release_on(link);
      return std::unexpected(some.error());
    }
    matched += *some;
    if (*some < count) break;
    first += count;
  } while (first < keys.count);
  return {};
}

ipc::Result<std::unique_ptr<Sequence>> Sequence::open(Cache& cache, const Keys& keys,
                                                      std::uint32_t& matched) {
  Client& client = cache.client();
  return client.ask(client.deadline(), [&](Link& link) -> ipc::Result<std::unique_ptr<Sequence>> {
    if (auto ok = cache.check(); !ok) return std::unexpected(ok.error());
    std::unique_ptr<Sequence> sequence(new Sequence(cache));
    if (auto ok = sequence->match_all(link, keys, matched); !ok) {
      return std::unexpected(ok.error());
    }
    sequence->be_registered();
    cache.adjust_stock(link);
    return sequence;
  });
}

// ---- growing and shrinking

ipc::Result<std::uint32_t> Sequence::extend(std::uint32_t count) {
  if (count == 0) return fail(Errc::invalid_argument, "extend by 0 blocks; at least 1");
  if (count > cache_.max_blocks()) {
    return fail(Errc::quota_exceeded, std::to_string(count) +
                                          " blocks asked for; the cache has room for " +
                                          std::to_string(cache_.max_blocks()) + " in all");
  }
  if (auto ok = settle(nullptr); !ok) return std::unexpected(ok.error());
  Client& client = cache_.client();
  Stock* const stock = cache_.stock();
  const ipc::Deadline deadline = client.deadline();
  auto needs = stock != nullptr ? Gate::Needs::nothing : Gate::Needs::daemon;
  while (true) {
    auto stay = enter(deadline, needs);
    if (!stay) return std::unexpected(stay.error());
    const std::uint32_t first = blocks();
    if (stay->link() == nullptr) {
      if (stock->take(*this, count)) return updated(first);
      needs = Gate::Needs::daemon;
      continue;
    }
    const auto extended = extend_with_stock(*stay->link(), count, deadline);
    if (extended) {
      cache_.adjust_stock(*stay->link());
      return updated(first);
    }
    if (!client.lost(*stay->link(), extended.error())) return std::unexpected(extended.error());
    cut(first);  // what it had got so far is given up by the resume
    if (stock != nullptr) needs = Gate::Needs::nothing;
  }
}

ipc::Result<std::uint32_t> Sequence::updated(std::uint32_t first) {
  if (auto ok = update_row(first); !ok) return std::unexpected(ok.error());
  return first;
}

// What is held in advance does not stand in the way of what is needed now.
ipc::Status Sequence::extend_with_stock(Link& link, std::uint32_t count, ipc::Deadline deadline) {
  Stock* const stock = cache_.stock();
  if (stock == nullptr || stock->blocks() == 0) return extend_on(link, count, deadline);
  auto extended = extend_on(link, count, std::min(deadline, ipc::deadline_in(kStockPatience)));
  if (extended || !is_for_memory(extended.error().code)) return extended;
  (void)stock->give_back(link);
  return extend_on(link, count, deadline);
}

ipc::Status Sequence::extend_on(Link& link, std::uint32_t count, ipc::Deadline deadline) {
  const std::uint32_t first = blocks();
  const auto all_or_none = [&](const ipc::Error& error) -> ipc::Status {
    if (blocks() > first) (void)truncate_on(link, first);
    return std::unexpected(error);
  };
  std::uint32_t left = count;
  Tries tries(deadline);
  while (left > 0) {
    const std::uint32_t some = std::min(left, kMaxBlocksPerRequest);
    const std::size_t reply_bytes =
        std::max(std::size_t{some} * sizeof(wire::BlockRef), ipc::kMaxErrorText);
    auto memory = link.channel().allocate(reply_bytes, deadline);
    if (!memory) return all_or_none(memory.error());
    Channel::Request extend;
    extend.op = wire::Op::sequence_extend;
    extend.handle = handle_;
    extend.count = some;
    extend.reply_length = bytes_u32(reply_bytes);
    auto answer = call(link, extend, std::move(*memory));
    if (!answer) {
      if (tries.again(answer.error())) continue;
      return all_or_none(answer.error());
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
    auto ready = cache_.map_frame_extents(link, answer->completion.frame_extents());
    if (ready) ready = cache_.check_pinning();
    if (!ready) return all_or_none(ready.error());
    left -= some;
  }
  return {};
}

// A daemon that dies over it, or is away, is told by the resume what is left.
ipc::Status Sequence::truncate(std::uint32_t count) {
  if (auto ok = settle(nullptr); !ok) return ok;
  wait_for_streams();
  auto stay = enter(cache_.client().deadline(), Gate::Needs::nothing);
  if (!stay) return std::unexpected(stay.error());
  if (count > blocks()) {
    return fail(Errc::invalid_argument, "truncate to " + std::to_string(count) +
                                            " blocks; the sequence has " +
                                            std::to_string(blocks()));
  }
  if (stay->link() == nullptr) {
    cut(count);
  } else if (auto ok = truncate_on(*stay->link(), count); !ok) {
    if (!cache_.client().lost(*stay->link(), ok.error())) return ok;
    cut(count);
  }
  return update_row(blocks());
}

ipc::Status Sequence::truncate_on(Link& link, std::uint32_t count) {
  auto memory = link.channel().allocate(ipc::kMaxErrorText, cache_.client().deadline());
  if (!memory) return std::unexpected(memory.error());
  Channel::Request truncate;
  truncate.op = wire::Op::sequence_truncate;
  truncate.handle = handle_;
  truncate.count = count;
  truncate.reply_length = ipc::kMaxErrorText;
  auto answer = call(link, truncate, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  cut(count);
  return {};
}

// What no resume adopts is given up; so it is enough to be forgotten. Seals that were put off are
// done first, where they can be: others may look for these blocks.
ipc::Status Sequence::release() {
  for (std::uint32_t left = seals_.promised(); left > 0 && !settle_seals(nullptr, true); --left) {
  }
  wait_for_streams();
  auto stay = cache_.client().gate().enter(cache_.client().deadline(), Gate::Needs::nothing);
  if (!stay) return std::unexpected(stay.error());
  be_forgotten();
  if (stay->link() == nullptr || handle_ == 0) return {};
  auto released = release_on(*stay->link());
  if (!released && cache_.client().lost(*stay->link(), released.error())) return {};
  if (released) cache_.adjust_stock(*stay->link());
  return released;
}

ipc::Status Sequence::release_on(Link& link) {
  auto memory = link.channel().allocate(ipc::kMaxErrorText, cache_.client().deadline());
  if (!memory) return std::unexpected(memory.error());
  Channel::Request release;
  release.op = wire::Op::sequence_release;
  release.handle = handle_;
  release.reply_length = ipc::kMaxErrorText;
  auto answer = call(link, release, std::move(*memory));
  if (!answer) return std::unexpected(answer.error());
  return {};
}

// ---- the row

ipc::Result<std::uint32_t> Sequence::row() {
  if (auto ok = check(); !ok) return std::unexpected(ok.error());
  if (auto ok = settle(nullptr); !ok) return std::unexpected(ok.error());
  if (cache_.resolver() == nullptr) {
    return fail(
        Errc::not_supported,
        "rows of sequences are for plans, and those for caches on a GPU (device_type 2) with "
        "executor direct");
  }
  const std::lock_guard lock(mutex_);
  take_replaced();
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

}  // namespace sluice::client::internal
