// A cache that outlives its daemon.
#include <string>

#include "client/cache.h"
#include "client/resume.h"
#include "client/sequence.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

void Cache::add(Sequence& sequence) {
  const std::lock_guard lock(members_mutex_);
  sequences_.insert(&sequence);
}

void Cache::remove(Sequence& sequence) {
  const std::lock_guard lock(members_mutex_);
  sequences_.erase(&sequence);
}

ipc::Status Cache::check() const {
  if (!is_lost()) return {};
  const std::lock_guard lock(members_mutex_);
  return std::unexpected(lost_why_);
}

void Cache::lose(ipc::Error why) {
  for (Sequence* const sequence : sequences_) sequence->lose(why);
  const std::lock_guard lock(members_mutex_);
  lost_why_ = std::move(why);
  lost_.store(true, std::memory_order_release);
}

bool Cache::is_same(const wire::CacheOpened& opened) const {
  return incarnation_ != 0 && opened.incarnation() == incarnation_ &&
         opened.executor() == executor_ && opened.slots() == sizes_.slots &&
         opened.max_blocks() == sizes_.blocks && opened.table_actors() == sizes_.actors &&
         opened.table_log_capacity() == sizes_.log_capacity &&
         opened.table_hint_capacity() == sizes_.hint_capacity &&
         opened.table_bytes() == table_bytes_ && opened.slot_extents() == slot_extents_ &&
         opened.slot_extent_bytes() == slot_extent_bytes_ &&
         opened.device_table_bytes() == device_table_bytes_ &&
         opened.frame_extent_bytes() == frame_extent_bytes_ &&
         opened.frames_per_extent() == frames_per_extent_ &&
         opened.max_frame_extents() == max_frame_extents_ &&
         opened.frame_extents() <= max_frame_extents_;
}

// What was mapped stays so; the descriptors that come with the answer are of the same memory, and
// closed.
ipc::Status Cache::reopen(Link& link) {
  auto reply = request_open(link, ipc::deadline_in(kResumeTimeout));
  if (!reply) return std::unexpected(reply.error());
  auto body = reply->as<wire::CacheOpened>();
  if (!body) return std::unexpected(body.error());
  const wire::CacheOpened& opened = **body;
  handle_ = opened.cache();
  if (!is_same(opened)) {
    (void)close_on(link);
    return fail(Errc::stale_handle,
                "the daemon that came back has other memory for this cache (" +
                    std::string(incarnation_ == 0 ? "it cannot tell which" : "made anew") + ")");
  }
  // Else it is mapped when it is next spoken of.
  (void)map_frame_extents(link, opened.frame_extents());
  return {};
}

ipc::Status Cache::resume(Link& link) {
  if (is_lost()) return {};
  if (auto opened = reopen(link); !opened) {
    if (link.broken() || opened.error().code == Errc::timed_out) return opened;
    lose({Errc::stale_handle, opened.error().text +
                                  ": what it held is lost; close it, open it anew, and compute "
                                  "again what is not found by its keys"});
    return {};
  }
  for (Sequence* const sequence : sequences_) {
    if (auto ok = sequence->resume(link); !ok) return ok;
  }
  return stock_ == nullptr ? ipc::Status() : stock_->resume(link);
}

void Cache::adjust_stock(Link& link) {
  if (stock_ == nullptr || is_lost()) return;
  std::size_t sequences = 0;
  {
    const std::lock_guard lock(members_mutex_);
    sequences = sequences_.size();
  }
  stock_->adjust(link, sequences);
}

// ---- actors, which keep their numbers

ipc::Status Cache::close_actor(std::uint32_t index) {
  const auto tell = [&](Link& link) -> ipc::Status {
    auto reply = link.control().call(
        [&](auto& builder) { return wire::CreateCloseActor(builder, handle_, index); },
        client_.deadline());
    if (!reply) return std::unexpected(reply.error());
    return {};
  };
  auto stay = client_.gate().enter(client_.deadline(), Gate::Needs::nothing);
  if (!stay) return std::unexpected(stay.error());
  if (is_lost()) return {};
  if (stay->link() != nullptr) {
    auto told = tell(*stay->link());
    if (told || !client_.lost(*stay->link(), told.error())) return told;
  }
  const std::lock_guard lock(members_mutex_);
  closed_actors_.push_back(index);
  return {};
}

// The daemon that died may have closed some of them.
ipc::Status Cache::tell_closed_actors(Link& link) {
  while (!closed_actors_.empty() && !is_lost()) {
    auto reply = link.control().call(
        [&](auto& builder) {
          return wire::CreateCloseActor(builder, handle_, closed_actors_.back());
        },
        ipc::deadline_in(kResumeTimeout));
    if (!reply && (link.broken() || reply.error().code == Errc::timed_out)) {
      return std::unexpected(reply.error());
    }
    closed_actors_.pop_back();
  }
  return {};
}

}  // namespace sluice::client::internal
