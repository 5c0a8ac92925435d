// The daemon executor: steps and resolves are requests over the rings.
#include <algorithm>
#include <cstring>
#include <string>

#include "client/actor.h"
#include "client/requests.h"
#include "client/sequence.h"
#include "ipc/protocol.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

namespace {

// Where things lie in the memory of a resolve of `lists` lists and `pages` pages.
struct ResolvePlaces {
  std::size_t specs = 0;
  std::size_t blocks = 0;
  std::size_t reply = 0;  // ResolveCounts
  std::size_t slots = 0;
  std::size_t outcomes = 0;
  std::size_t bytes = 0;

  ResolvePlaces(std::size_t lists, std::size_t pages) {
    blocks = specs + lists * sizeof(wire::ListSpec);
    reply = round8(blocks + pages * sizeof(std::uint32_t));
    slots = reply + sizeof(wire::ResolveCounts);
    outcomes = slots + pages * sizeof(std::int32_t);
    bytes = std::max(outcomes + pages, reply + ipc::kMaxErrorText);
  }
  std::size_t request_bytes(std::size_t pages) const {
    return blocks + pages * sizeof(std::uint32_t);
  }
};

class RemoteActor final : public Actor {
 public:
  RemoteActor(Cache& cache, std::uint32_t index) : Actor(cache, index) {}

  // The daemon unpins at the seal.
  ipc::Result<Pending> unpin(std::uint32_t, const std::vector<std::int32_t>&) override {
    return nullptr;
  }

  ipc::Result<Pending> copy_to_frame(const Sequence& from, std::uint32_t block,
                                     const Sequence& to) override {
    if (auto ok = copy_tail(from, block, to, ipc::kTailToFrame); !ok) {
      return std::unexpected(ok.error());
    }
    return nullptr;
  }
  ipc::Status copy_to_slots(const Sequence& of, std::uint32_t block) override {
    return copy_tail(of, block, of, 0);
  }

 private:
  Client& client() const { return cache().client(); }
  bool asks_daemon() const override { return true; }

  // A begin or an end of a step that is made again, since the daemon died over it, may find that it
  // was done: then the actor is in no state for it, but in the one that was wanted.
  ipc::Status plain(wire::Op op) {
    int tries = 0;
    return client().ask(client().deadline(), [&](Link& link) -> ipc::Status {
      ++tries;
      auto memory = link.channel().allocate(ipc::kMaxErrorText, client().deadline());
      if (!memory) return std::unexpected(memory.error());
      Channel::Request request;
      request.op = op;
      request.handle = cache().handle();
      request.actor = index();
      request.reply_length = ipc::kMaxErrorText;
      auto answer = link.channel().call(request, std::move(*memory), client().deadline());
      if (answer || (tries > 1 && answer.error().code == Errc::wrong_state)) return {};
      return std::unexpected(answer.error());
    });
  }

  ipc::Status do_begin_step() override { return plain(wire::Op::step_begin); }
  ipc::Status do_end_step() override { return plain(wire::Op::step_end); }

  // Half of request memory, so that two requests of a batch can be under way.
  static std::size_t most_bytes(Link& link) { return link.channel().request_bytes() / 2; }

  // What a resolve found so far, on a daemon that died, counts for nothing.
  static void begin_anew(Operation& operation) {
    operation.parts.clear();
    operation.counts = {};
    operation.forecast_used = operation.forecast_late = 0;
    operation.forecast_issued = operation.forecast_dropped = 0;
  }

  ipc::Status do_start(Operation& operation) override {
    operation.deadline = client().deadline();
    return start_by(operation, operation.deadline);
  }

  ipc::Status start_by(Operation& operation, ipc::Deadline deadline) {
    while (true) {
      auto stay = client().gate().enter(deadline, Gate::Needs::daemon);
      if (!stay) return std::unexpected(stay.error());
      for (const PageList& list : operation.lists) {
        if (auto ok = list.sequence->check(); !ok) return ok;
      }
      begin_anew(operation);
      operation.link = stay->shared_link();
      auto started = start_on(*stay->link(), operation);
      if (started || !client().lost(*stay->link(), started.error())) return started;
    }
  }

  ipc::Status start_on(Link& link, Operation& operation) {
    std::size_t first = 0;
    while (first < operation.lists.size()) {
      std::size_t end = first;
      std::size_t pages = 0;
      while (end < operation.lists.size()) {
        const std::size_t more = pages + operation.lists[end].count;
        if (ResolvePlaces(end - first + 1, more).bytes > most_bytes(link) && end > first) break;
        pages = more;
        ++end;
      }
      if (ResolvePlaces(end - first, pages).bytes > link.channel().request_bytes()) {
        abandon(operation);
        return fail(Errc::list_too_long,
                    "a list of " + std::to_string(pages) + " pages does not fit into " +
                        std::to_string(link.channel().request_bytes()) +
                        " bytes of request memory; cut it, or raise rings.request_memory");
      }
      auto part = submit_in_turn(link, operation, first, end, pages);
      if (!part) {
        abandon(operation);
        return std::unexpected(part.error());
      }
      operation.parts.push_back(*part);
      first = end;
    }
    return {};
  }

  // Submits a part of a batch. Request memory may be full of the parts before it, whose answers
  // nobody has read yet: then reads them first.
  ipc::Result<Operation::Part> submit_in_turn(Link& link, Operation& operation, std::size_t first,
                                              std::size_t end, std::size_t pages) {
    for (auto& earlier : operation.parts) {
      if (!earlier.waiting) continue;
      auto part =
          submit(link, operation, first, end, pages, wire::Op::resolve, 0, 0, ipc::Clock::now());
      if (part || part.error().code != Errc::timed_out) return part;
      if (auto ok = finish_part(operation, earlier, client().deadline()); !ok) {
        return std::unexpected(ok.error());
      }
    }
    return submit(link, operation, first, end, pages, wire::Op::resolve, 0, 0, client().deadline());
  }

  ipc::Result<Operation::Part> submit(Link& link, const Operation& operation, std::size_t first,
                                      std::size_t end, std::size_t pages, wire::Op op,
                                      std::uint64_t value, std::uint16_t flags,
                                      ipc::Deadline memory_deadline) {
    const ResolvePlaces places(end - first, pages);
    auto memory = link.channel().allocate(places.bytes, memory_deadline);
    if (!memory) return std::unexpected(memory.error());
    std::byte* const at = memory->bytes().data();
    std::byte* spec_at = at + places.specs;
    std::byte* block_at = at + places.blocks;
    for (std::size_t i = first; i < end; ++i) {
      const PageList& list = operation.lists[i];
      const wire::ListSpec spec(list.sequence->handle(), list.page, list.count);
      std::memcpy(spec_at, &spec, sizeof(spec));
      spec_at += sizeof(spec);
      if (list.count > 0) {
        std::memcpy(block_at, list.blocks, list.count * sizeof(std::uint32_t));
      }
      block_at += list.count * sizeof(std::uint32_t);
    }
    Channel::Request request;
    request.op = op;
    request.flags = flags;
    request.handle = cache().handle();
    request.actor = index();
    request.value = value;
    request.count = static_cast<std::uint32_t>(end - first);
    request.length = static_cast<std::uint32_t>(places.request_bytes(pages));
    request.reply_offset = static_cast<std::uint32_t>(places.reply);
    request.reply_length = static_cast<std::uint32_t>(places.bytes - places.reply);
    auto ticket = link.channel().submit(request, std::move(*memory), client().deadline());
    if (!ticket) return std::unexpected(ticket.error());
    return Operation::Part{*ticket, first, end, true};
  }

  void do_abandon(Operation& operation) override { abandon(operation); }

  static void abandon(Operation& operation) {
    if (operation.link == nullptr) return;
    for (auto& part : operation.parts) {
      if (part.waiting) operation.link->channel().abandon(part.ticket);
      part.waiting = false;
    }
  }

  // A resolve that is made again finds the same, and the pages that the first had brought in.
  ipc::Status do_finish(Operation& operation, ipc::Deadline deadline) override {
    while (true) {
      if (operation.link != nullptr) {
        auto finished = finish_parts(operation, deadline);
        if (finished || !client().lost(*operation.link, finished.error())) return finished;
        operation.link.reset();
      }
      auto again = start_by(operation, std::min(deadline, operation.deadline));
      if (again) continue;
      const bool wait_again =
          again.error().code == Errc::daemon_away && ipc::Clock::now() < operation.deadline;
      return wait_again ? fail(Errc::timed_out, again.error().text) : again;
    }
  }

  ipc::Status finish_parts(Operation& operation, ipc::Deadline deadline) {
    for (auto& part : operation.parts) {
      if (!part.waiting) continue;
      if (auto ok = finish_part(operation, part, deadline); !ok) return ok;
    }
    return {};
  }

  ipc::Status finish_part(Operation& operation, Operation::Part& part, ipc::Deadline deadline) {
    auto answer = operation.link->channel().wait(part.ticket, deadline);
    if (!answer) {
      if (answer.error().code == Errc::timed_out) return std::unexpected(answer.error());
      part.waiting = false;
      abandon(operation);
      return std::unexpected(answer.error());
    }
    part.waiting = false;
    if (auto ok = take(operation, part, answer->memory.bytes()); !ok) {
      abandon(operation);
      return ok;
    }
    cache().stats().forecast_wasted_bytes.store(
        answer->completion.value1() * cache().geometry().page_bytes, std::memory_order_relaxed);
    return {};
  }

  // Errors: peer_violation (a slot outside of the arena).
  ipc::Status take(Operation& operation, const Operation::Part& part,
                   std::span<const std::byte> memory) const {
    std::size_t pages = 0;
    for (std::size_t i = part.first; i < part.end; ++i) pages += operation.lists[i].count;
    const ResolvePlaces places(part.end - part.first, pages);
    wire::ResolveCounts counts;
    std::memcpy(&counts, memory.data() + places.reply, sizeof(counts));
    operation.counts.hits += counts.hits();
    operation.counts.misses += counts.misses();
    operation.counts.no_slot += counts.no_slot();
    operation.counts.absent += counts.absent();
    operation.counts.bytes_filled += counts.bytes_filled();
    operation.forecast_used += counts.forecast_used();
    operation.forecast_late += counts.forecast_late();
    operation.forecast_issued += counts.forecast_issued();
    operation.forecast_dropped += counts.forecast_dropped();
    std::size_t page = 0;
    for (std::size_t i = part.first; i < part.end; ++i) {
      const PageList& list = operation.lists[i];
      if (list.count == 0) continue;
      if (list.slots != nullptr) {
        std::memcpy(list.slots, memory.data() + places.slots + page * sizeof(std::int32_t),
                    list.count * sizeof(std::int32_t));
        if (!all_slots_exist({list.slots, list.count})) return impossible_slot();
      }
      if (list.outcomes != nullptr) {
        std::memcpy(list.outcomes, memory.data() + places.outcomes + page, list.count);
      }
      page += list.count;
    }
    return {};
  }

  // Or are -1. Looks at the copies: the daemon can still write to its reply.
  bool all_slots_exist(std::span<const std::int32_t> slots) const {
    const auto end = std::int64_t{cache().slots()};
    return std::ranges::all_of(slots, [&](std::int32_t slot) { return slot >= -1 && slot < end; });
  }

  static std::unexpected<ipc::Error> impossible_slot() {
    return fail(Errc::peer_violation, "the daemon gave a slot that does not exist");
  }

  ipc::Status do_forecast(std::span<const PageList> lists, std::uint64_t deadline_us,
                          std::uint32_t confidence) override {
    Operation operation;
    operation.lists.assign(lists.begin(), lists.end());
    std::size_t pages = 0;
    for (const auto& list : lists) pages += list.count;
    // A hint that nobody is there for, or that does not fit, is a hint that is dropped.
    auto stay = client().gate().enter(ipc::Clock::now(), Gate::Needs::nothing);
    if (!stay && stay.error().code != Errc::daemon_away) return std::unexpected(stay.error());
    if (!stay || stay->link() == nullptr ||
        ResolvePlaces(lists.size(), pages).bytes > most_bytes(*stay->link())) {
      cache().stats().forecast_dropped.fetch_add(pages, std::memory_order_relaxed);
      return {};
    }
    auto part = submit(*stay->link(), operation, 0, lists.size(), pages, wire::Op::forecast,
                       deadline_us, static_cast<std::uint16_t>(confidence), client().deadline());
    if (!part) {
      if (client().lost(*stay->link(), part.error())) return {};
      return std::unexpected(part.error());
    }
    stay->link()->channel().abandon(part->ticket);
    return {};
  }

  // Done again it has the same effect.
  ipc::Status copy_tail(const Sequence& pinned, std::uint32_t block, const Sequence& framed,
                        std::uint16_t flags) {
    return client().ask(client().deadline(), [&](Link& link) -> ipc::Status {
      auto memory = link.channel().allocate(ipc::kMaxErrorText, client().deadline());
      if (!memory) return std::unexpected(memory.error());
      Channel::Request request;
      request.op = wire::Op::tail_copy;
      request.flags = flags;
      request.handle = pinned.handle();
      request.value = framed.handle();
      request.count = block;
      request.actor = index();
      request.reply_length = ipc::kMaxErrorText;
      auto answer = link.channel().call(request, std::move(*memory), client().deadline());
      if (!answer) return std::unexpected(answer.error());
      return {};
    });
  }

  // Pinning again gives the same slots.
  ipc::Result<std::vector<std::int32_t>> do_pin(const Sequence& sequence,
                                                std::uint32_t block) override {
    return client().ask(client().deadline(),
                        [&](Link& link) { return pin_on(link, sequence, block); });
  }

  ipc::Result<std::vector<std::int32_t>> pin_on(Link& link, const Sequence& sequence,
                                                std::uint32_t block) {
    const std::size_t pages = cache().geometry().pages_per_block;
    const std::size_t reply_bytes = std::max(pages * sizeof(std::int32_t), ipc::kMaxErrorText);
    auto memory = link.channel().allocate(reply_bytes, client().deadline());
    if (!memory) return std::unexpected(memory.error());
    Channel::Request request;
    request.op = wire::Op::tail_slots;
    request.handle = sequence.handle();
    request.actor = index();
    request.count = block;
    request.reply_length = static_cast<std::uint32_t>(reply_bytes);
    auto answer = link.channel().call(request, std::move(*memory), client().deadline());
    if (!answer) return std::unexpected(answer.error());
    std::vector<std::int32_t> slots(pages);
    std::memcpy(slots.data(), answer->memory.bytes().data(), pages * sizeof(std::int32_t));
    if (!all_slots_exist(slots) || std::ranges::find(slots, -1) != slots.end()) {
      return impossible_slot();
    }
    return slots;
  }
};

}  // namespace

std::unique_ptr<Actor> make_remote_actor(Cache& cache, std::uint32_t index) {
  return std::make_unique<RemoteActor>(cache, index);
}

}  // namespace sluice::client::internal
