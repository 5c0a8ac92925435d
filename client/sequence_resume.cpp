// Sequences: adoption by a daemon that came back.
#include <algorithm>
#include <cstring>
#include <string>

#include "client/requests.h"
#include "client/resume.h"
#include "client/sequence.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

namespace {

// A request of which nothing but its completion is of interest if it fails.
ipc::Status tell_released(Link& link, std::uint64_t handle) {
  Channel::Request request;
  request.op = wire::Op::sequence_release;
  request.handle = handle;
  auto answer = link.channel().call(request, ipc::RequestPiece(), ipc::deadline_in(kResumeTimeout));
  if (!answer) return std::unexpected(answer.error());
  return {};
}

bool link_failed(Link& link, const ipc::Error& error) {
  return link.broken() || error.code == Errc::timed_out;
}

}  // namespace

// What is to be adopted, and what comes of it.
struct Sequence::Adoption {
  std::uint64_t handle = 0;
  std::vector<std::uint32_t> ids;
  std::vector<std::uint32_t> frames;
  std::vector<Replaced> replaced;
  PutOffSeals seals;
  std::vector<std::uint64_t> borrowed;  // sequences that hold blocks until they are adopted
};

void Sequence::lose(ipc::Error why) {
  {
    const std::lock_guard lock(mutex_);
    handle_ = 0;
    // Plans find a sequence without blocks.
    if (row_) (void)cache_.device()->update_row(*row_, {}, 0);
    lost_why_ = std::move(why);
    told_.fetch_or(kToldLost, std::memory_order_acq_rel);
  }
  // The daemon gives its blocks to others when it is told, or the resume is done.
  wait_for_streams();
}

ipc::Status Sequence::adopt_part(Link& link, Adoption& adoption, std::size_t first,
                                 std::size_t count) {
  const std::size_t spec_bytes = sizeof(wire::AdoptSpec);
  const std::size_t id_area = round8(count * sizeof(std::uint32_t));
  const std::size_t reply_bytes = std::max(count * sizeof(wire::BlockRef), ipc::kMaxErrorText);
  const ipc::Deadline deadline = ipc::deadline_in(kResumeTimeout);
  auto memory = link.channel().allocate(spec_bytes + id_area + reply_bytes, deadline);
  if (!memory) return std::unexpected(memory.error());
  std::byte* const at = memory->bytes().data();
  const wire::AdoptSpec spec(cache_.handle(), bytes_u32(count), 0);
  std::memcpy(at, &spec, spec_bytes);
  if (count > 0) {
    std::memcpy(at + spec_bytes, adoption.ids.data() + first, count * sizeof(std::uint32_t));
  }
  Channel::Request request;
  request.op = wire::Op::sequence_adopt;
  request.handle = adoption.handle;
  request.length = bytes_u32(spec_bytes + count * sizeof(std::uint32_t));
  request.reply_offset = bytes_u32(spec_bytes + id_area);
  request.reply_length = bytes_u32(reply_bytes);
  auto answer = link.channel().call(request, std::move(*memory), deadline);
  if (!answer) return std::unexpected(answer.error());
  adoption.handle = answer->completion.value0();
  const std::byte* const refs = answer->memory.bytes().data() + request.reply_offset;
  for (std::size_t i = 0; i < count; ++i) {
    wire::BlockRef ref;
    std::memcpy(&ref, refs + i * sizeof(ref), sizeof(ref));
    if (ref.id() != adoption.ids[first + i]) {
      return fail(Errc::peer_violation, "the daemon adopted another block in the place of one");
    }
    adoption.frames[first + i] = ref.frame();
  }
  // Else they are mapped when they are next spoken of.
  (void)cache_.map_frame_extents(link, answer->completion.frame_extents());
  return {};
}

// A block of ours was taken for one that was known by its key, and the answer was lost: that one
// takes its place. False: there is no such block among these.
ipc::Result<bool> Sequence::replace_known(Link& link, Adoption& adoption, std::size_t first,
                                          std::size_t count) {
  bool some = false;
  for (const Seal& seal : adoption.seals.all()) {
    if (!seal.uncertain || seal.index < first || seal.index >= first + count) continue;
    const std::size_t key_area = round8(seal.key.size());
    const ipc::Deadline deadline = ipc::deadline_in(kResumeTimeout);
    auto memory =
        link.channel().allocate(sizeof(wire::OpenSpec) + key_area + ipc::kMaxErrorText, deadline);
    if (!memory) return std::unexpected(memory.error());
    std::byte* const at = memory->bytes().data();
    const wire::OpenSpec spec(cache_.handle(), bytes_u32(seal.key.size()), 1);
    std::memcpy(at, &spec, sizeof spec);
    std::memcpy(at + sizeof spec, seal.key.data(), seal.key.size());
    Channel::Request request;
    request.op = wire::Op::sequence_open;
    request.length = bytes_u32(sizeof spec + seal.key.size());
    request.reply_offset = bytes_u32(sizeof spec + key_area);
    request.reply_length = ipc::kMaxErrorText;
    auto answer = link.channel().call(request, std::move(*memory), deadline);
    if (!answer) return std::unexpected(answer.error());
    adoption.borrowed.push_back(answer->completion.value0());
    if (answer->completion.value1() == 0) continue;
    wire::BlockRef ref;
    std::memcpy(&ref, answer->memory.bytes().data() + request.reply_offset, sizeof(ref));
    if (ref.id() == adoption.ids[seal.index]) continue;
    adoption.ids[seal.index] = ref.id();
    adoption.replaced.push_back({seal.index, ref.id(), ref.frame()});
    some = true;
  }
  return some;
}

ipc::Status Sequence::adopt(Link& link, Adoption& adoption) {
  std::size_t first = 0;
  do {
    const std::size_t count =
        std::min<std::size_t>(adoption.ids.size() - first, kMaxBlocksPerRequest);
    auto adopted = adopt_part(link, adoption, first, count);
    if (!adopted && adopted.error().code == Errc::stale_handle) {
      const auto replaced = replace_known(link, adoption, first, count);
      if (!replaced) return std::unexpected(replaced.error());
      if (*replaced) adopted = adopt_part(link, adoption, first, count);
    }
    if (!adopted) return adopted;
    first += count;
  } while (first < adoption.ids.size());
  return {};
}

// Errors: peer_violation (a private block's bytes are elsewhere).
ipc::Status Sequence::take_adopted(const Adoption& adoption) {
  const std::lock_guard lock(mutex_);
  handle_ = adoption.handle;
  for (std::uint32_t i = 0; i < blocks(); ++i) {
    if (blocks_[i].frame == adoption.frames[i]) continue;
    if (blocks_[i].sealed) {
      blocks_[i].frame = adoption.frames[i];
    } else if (seals_.find(i) == nullptr && ids_[i] == adoption.ids[i]) {
      return fail(Errc::peer_violation, "the daemon that came back has private block " +
                                            std::to_string(i) + " elsewhere");
    }
  }
  for (Replaced& block : replaced_) block.frame = adoption.frames[block.index];
  if (adoption.replaced.empty()) return {};
  std::uint32_t first = blocks();
  for (const Replaced& block : adoption.replaced) {
    replaced_.push_back({block.index, block.id, adoption.frames[block.index]});
    first = std::min(first, block.index);
  }
  told_.fetch_or(kToldReplaced, std::memory_order_acq_rel);
  return row_ ? cache_.device()->update_row(*row_, adoption.ids, first) : ipc::Status();
}

void Sequence::take_replaced() {
  for (const Replaced& block : replaced_) {
    pins_.erase(block.index);  // the daemon drops the pins of what they were of
    seals_.drop(block.index);
    ids_[block.index] = block.id;
    if (!blocks_[block.index].sealed) ++sealed_;
    blocks_[block.index] = {block.frame, true, false};
    cache_.stats().blocks_deduplicated.fetch_add(1, std::memory_order_relaxed);
  }
  replaced_.clear();
  told_.fetch_and(static_cast<std::uint8_t>(~kToldReplaced), std::memory_order_acq_rel);
}

ipc::Status Sequence::resume(Link& link) {
  handle_ = 0;
  // Nobody can use it, so it is not adopted.
  if (unanswered_ || (told_.load(std::memory_order_acquire) & kToldLost) != 0) {
    wait_for_streams();
    return {};
  }
  Adoption adoption;
  {
    const std::lock_guard lock(mutex_);
    adoption.ids = ids_;
    adoption.seals = seals_;
    for (const Replaced& block : replaced_) adoption.ids[block.index] = block.id;
  }
  adoption.frames.resize(adoption.ids.size());
  auto adopted = adopt(link, adoption);
  for (const std::uint64_t handle : adoption.borrowed) {
    if (auto ok = tell_released(link, handle); !ok && link_failed(link, ok.error())) return ok;
  }
  if (!adopted && link_failed(link, adopted.error())) return adopted;
  if (adopted) adopted = take_adopted(adoption);
  if (adopted) return {};
  lose({Errc::stale_handle,
        "the daemon that came back no longer has all blocks of this sequence (" +
            adopted.error().text + "): release it, and open it again by its keys"});
  if (adoption.handle == 0) return {};
  auto told = tell_released(link, adoption.handle);
  return !told && link_failed(link, told.error()) ? told : ipc::Status();
}

}  // namespace sluice::client::internal
