#include "daemon/lane_session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "daemon/coordinator.h"
#include "daemon/session.h"
#include "ipc/message.h"
#include "ipc/validated.h"
#include "kernels/forecast.h"
#include "kernels/pins.h"
#include "kernels/resolve.h"
#include "kernels/steps.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::Error;
using ipc::fail;
using ipc::Handle;
using ipc::Untrusted;

namespace {

// Pages that one resolve may name: request memory bounds it too.
constexpr std::uint32_t kMaxPagesPerRequest = 1u << 24;
constexpr std::uint32_t kMaxListsPerRequest = 1u << 20;
// Forecasts of one session that wait; older ones are dropped for newer ones.
constexpr std::size_t kMaxQueuedForecasts = 64;
constexpr std::size_t kMaxQueuedForecastPages = 1u << 18;
// Pages that a forecast brings in before the lane looks for requests again.
constexpr std::size_t kForecastSlice = 64;
// What a resolve brings in before the other sessions of the lane get their turn: a request may name
// as many pages as fit into request memory.
constexpr std::uint64_t kResolveSliceBytes = std::uint64_t{4} << 20;
// Pages that the requests of one turn may name before the turn is over: looking up so many takes
// about a millisecond. Requests that wait cost a client nothing; they may share their lists.
constexpr std::size_t kPagesPerTurn = 1u << 16;

// What a request gives back, besides what it writes into the reply area.
struct Reply {
  std::uint64_t value0 = 0;
  std::uint64_t value1 = 0;
  std::uint32_t frame_extents = 0;
};

struct LaneSequence {
  std::uint32_t generation = 0;  // 0: free
  std::shared_ptr<CacheMemory> memory;
  ipc::CacheId cache;
  std::vector<std::uint32_t> ids;
  std::unordered_map<std::uint32_t, std::vector<kernels::Slot>> pins;  // by block index
};

// A step of an actor that the daemon runs.
struct LaneActor {
  std::uint64_t opened = 0;  // which opening of the seat this is about
  bool in_step = false;
  kernels::Step step = 0;
};

// A resolve that is not over: the pages that it misses are brought in slice by slice.
struct RunningResolve {
  wire::Submission request;
  std::span<std::byte> reply;
  SessionCache cache;
  kernels::Step step = 0;
  kernels::ResolveList list;
  kernels::Resolving progress;
  std::chrono::steady_clock::time_point start;
};

// Pages that a client expects to resolve, waiting for the lane to have nothing better to do.
struct QueuedForecast {
  SessionCache cache;
  std::vector<kernels::Page> pages;
  std::size_t done = 0;  // of pages
  kernels::Step min_age = 1;
  std::chrono::steady_clock::time_point deadline;
};

constexpr std::uint64_t kMaxForecastDeadlineUs = 60'000'000;

std::uint64_t announced_key(ipc::CacheId cache, kernels::Page page) {
  return (std::uint64_t{cache.value} << 32) | page;
}

template <class T>
void put(std::byte* to, const T& value) {
  std::memcpy(to, &value, sizeof(T));
}

}  // namespace

struct LaneSession::Impl {
  Impl(std::shared_ptr<Session> its_session, Coordinator& its_coordinator)
      : session(std::move(its_session)),
        coordinator(its_coordinator),
        requests(session->memory.submission_ring()),
        completions(session->memory.completion_ring()),
        copier(session->memory.request_memory()),
        resolve_time(coordinator.resolve_histogram(session->tenant)) {}

  using Ran = std::expected<void, SessionEnd>;
  Ran run(const wire::Submission& request);
  // A slice of the resolve that is running.
  Ran go_on();
  Ran answer(const wire::Submission& request, std::span<std::byte> area,
             const ipc::Result<Reply>& done);
  ipc::Result<Reply> execute(const wire::Submission& request, std::span<std::byte> reply);

  ipc::Result<Reply> open(const wire::Submission& request, std::span<std::byte> reply, bool more);
  ipc::Result<Reply> extend(const wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<Reply> fork(const wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<Reply> truncate(const wire::Submission& request);
  ipc::Result<Reply> release(const wire::Submission& request);
  ipc::Result<Reply> seal(const wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<Reply> pin(const wire::Submission& request, std::span<std::byte> reply);
  ipc::Result<Reply> begin_step(const wire::Submission& request);
  ipc::Result<Reply> end_step(const wire::Submission& request);
  ipc::Result<Reply> begin_resolve(const wire::Submission& request, std::span<std::byte> reply);
  Reply end_resolve();
  wire::ResolveCounts take_results(const SessionCache& cache, const kernels::ResolveCounts& counts);
  ipc::Result<Reply> forecast(const wire::Submission& request);
  bool run_forecast();
  void drop_forecast();
  void count_dropped(const QueuedForecast& waiting);
  std::optional<std::uint32_t> forecast_actor(const SessionCache& cache);

  ipc::Result<std::span<const std::byte>> copy(const wire::Submission& request) {
    return copier.copy(Untrusted(request.offset()), Untrusted(request.length()),
                       session->memory.request_memory().size());
  }
  ipc::Result<residency::KeyView> keys_of(ipc::ByteCursor& cursor, std::uint32_t key_bytes,
                                          std::uint32_t count);
  ipc::Result<LaneSequence*> sequence(std::uint64_t bits);
  LaneSequence& add_sequence(Handle handle);
  ipc::Result<SessionCache> cache_of(const wire::Submission& request, wire::Executor executor);
  ipc::Result<LaneActor*> actor_of(const SessionCache& cache, std::uint32_t actor, bool in_step);
  ipc::Result<std::uint64_t> gather(const SessionCache& cache, const wire::Submission& request);

  std::shared_ptr<Session> session;
  Coordinator& coordinator;
  ipc::SubmissionConsumer requests;
  ipc::CompletionProducer completions;
  ipc::RequestCopier copier;
  Histogram& resolve_time;
  std::vector<LaneSequence> sequences;                  // by handle index
  std::unordered_map<std::uint64_t, LaneActor> actors;  // by cache and actor
  std::vector<residency::BlockRef> blocks;              // scratch
  std::vector<residency::ForkedBlock> copies;
  std::deque<QueuedForecast> forecasts;
  struct ForecastActor {
    std::weak_ptr<CacheMemory> memory;
    std::uint32_t index = 0;
  };
  std::unordered_map<std::uint32_t, ForecastActor> forecast_actors;  // by cache id
  std::uint32_t forecast_issued = 0;  // pages, since the last resolve told the client
  std::uint32_t forecast_dropped = 0;
  std::unordered_set<std::uint64_t> announced;  // cache and page of what waits in `forecasts`
  // Of the request at hand: slots that are known because they are pinned, and the pages of the
  // rest.
  std::vector<kernels::Slot> slots;
  std::vector<std::uint8_t> outcomes;
  std::vector<kernels::Page> pages;
  std::vector<kernels::Slot> found_slots;
  std::vector<kernels::Outcome> found_outcomes;
  std::optional<RunningResolve> running;  // then nothing else of the session runs
  std::size_t named = 0;                  // pages, by the requests of this turn
};

// ---- one request

namespace {

std::unexpected<Error> small_reply(std::size_t need, std::size_t have) {
  return fail(Errc::invalid_argument, "the reply area has " + std::to_string(have) +
                                          " bytes; this request needs " + std::to_string(need));
}

}  // namespace

std::expected<void, SessionEnd> LaneSession::Impl::run(const wire::Submission& request) {
  session->counters.requests.fetch_add(1, std::memory_order_relaxed);
  // A range outside of request memory can only be a bug or an attack: the session ends.
  auto area =
      copier.reply_area(Untrusted(request.reply_offset()), Untrusted(request.reply_length()));
  if (!area) return std::unexpected(end_by(std::move(area.error()), Violation::descriptor));
  const auto done = execute(request, *area);
  return running ? go_on() : answer(request, *area, done);
}

std::expected<void, SessionEnd> LaneSession::Impl::go_on() {
  const CacheMemory& memory = *running->cache.memory;
  const std::uint64_t slice =
      std::max<std::uint64_t>(1, kResolveSliceBytes / memory.store().page_bytes);
  const bool over = kernels::resolve_part(
      memory.table(), memory.store(), running->request.actor(), running->step, running->list,
      running->progress,
      static_cast<std::uint32_t>(std::min<std::uint64_t>(slice, running->list.count)));
  if (!over) return {};
  const Reply reply = end_resolve();
  const RunningResolve done = *std::exchange(running, std::nullopt);
  return answer(done.request, done.reply, reply);
}

std::expected<void, SessionEnd> LaneSession::Impl::answer(const wire::Submission& request,
                                                          std::span<std::byte> area,
                                                          const ipc::Result<Reply>& done) {
  Reply reply;
  Errc code = Errc::ok;
  if (done) {
    reply = *done;
  } else {
    if (done.error().code == Errc::peer_violation) {
      return std::unexpected(end_by(done.error(), Violation::descriptor));
    }
    session->counters.failures.fetch_add(1, std::memory_order_relaxed);
    code = done.error().code;
    const std::size_t bytes = std::min({done.error().text.size(), area.size(), ipc::kMaxErrorText});
    std::memcpy(area.data(), done.error().text.data(), bytes);
    reply.value0 = bytes;
  }
  auto pushed =
      completions.push(wire::Completion(request.user_data(), reply.value0, reply.value1,
                                        static_cast<std::uint16_t>(code), 0, reply.frame_extents));
  if (!pushed) return std::unexpected(end_by(std::move(pushed.error()), Violation::cursor));
  if (!*pushed) {
    Error full{Errc::peer_violation,
               "the completion ring is full: the client made more requests than it has room for "
               "answers, or does not read them"};
    return std::unexpected(end_by(std::move(full), Violation::flood));
  }
  return {};
}

ipc::Result<Reply> LaneSession::Impl::execute(const wire::Submission& request,
                                              std::span<std::byte> reply) {
  switch (static_cast<wire::Op>(request.op())) {
    case wire::Op::nop:
      return Reply{};
    case wire::Op::sequence_open:
      return open(request, reply, false);
    case wire::Op::sequence_match_more:
      return open(request, reply, true);
    case wire::Op::sequence_extend:
      return extend(request, reply);
    case wire::Op::sequence_fork:
      return fork(request, reply);
    case wire::Op::sequence_truncate:
      return truncate(request);
    case wire::Op::sequence_release:
      return release(request);
    case wire::Op::seal:
      return seal(request, reply);
    case wire::Op::tail_slots:
      return pin(request, reply);
    case wire::Op::step_begin:
      return begin_step(request);
    case wire::Op::step_end:
      return end_step(request);
    case wire::Op::resolve:
      return begin_resolve(request, reply);
    case wire::Op::forecast:
      return forecast(request);
    default:
      return fail(Errc::peer_violation, "operation " + std::to_string(request.op()) +
                                            " does not exist in this version of the protocol");
  }
}

// ---- sequences

ipc::Result<LaneSequence*> LaneSession::Impl::sequence(std::uint64_t bits) {
  const Handle handle = Handle::from_bits(bits);
  if (handle.generation == 0 || handle.index >= sequences.size() ||
      sequences[handle.index].generation != handle.generation) {
    return fail(Errc::stale_handle,
                "no sequence of this session has that handle; it was released, "
                "or belongs to another session");
  }
  return &sequences[handle.index];
}

LaneSequence& LaneSession::Impl::add_sequence(Handle handle) {
  if (handle.index >= sequences.size()) sequences.resize(handle.index + 1);
  sequences[handle.index] = {};
  sequences[handle.index].generation = handle.generation;
  return sequences[handle.index];
}

ipc::Result<residency::KeyView> LaneSession::Impl::keys_of(ipc::ByteCursor& cursor,
                                                           std::uint32_t key_bytes,
                                                           std::uint32_t count) {
  if (key_bytes == 0 || key_bytes > residency::kMaxKeyBytes) {
    return fail(Errc::invalid_argument, "a key of " + std::to_string(key_bytes) +
                                            " bytes; expected 1 to " +
                                            std::to_string(residency::kMaxKeyBytes));
  }
  auto bytes = cursor.take_bytes(std::size_t{key_bytes} * count, "keys");
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  return residency::KeyView{bytes->data(), key_bytes, key_bytes, count};
}

ipc::Result<Reply> LaneSession::Impl::open(const wire::Submission& request,
                                           std::span<std::byte> reply, bool more) {
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  ipc::ByteCursor cursor(*bytes);
  auto spec = cursor.take<wire::OpenSpec>("OpenSpec");
  if (!spec) return std::unexpected(std::move(spec.error()));
  auto keys = keys_of(cursor, spec->key_bytes(), spec->keys());
  if (!keys) return std::unexpected(std::move(keys.error()));
  const std::size_t need = std::size_t{spec->keys()} * sizeof(wire::BlockRef);
  if (reply.size() < need) return small_reply(need, reply.size());

  auto cache = session->cache(Handle::from_bits(spec->cache()));
  if (!cache) return std::unexpected(std::move(cache.error()));
  LaneSequence* target = nullptr;
  if (more) {
    auto found = sequence(request.handle());
    if (!found) return std::unexpected(std::move(found.error()));
    target = *found;
  }
  auto opened = more ? coordinator.append_known(session->id, Handle::from_bits(request.handle()),
                                                *keys, blocks)
                     : coordinator.open_sequence(session->id, cache->id, *keys, blocks);
  if (!opened) return std::unexpected(std::move(opened.error()));
  if (!more) {
    target = &add_sequence(opened->sequence);
    target->memory = cache->memory;
    target->cache = cache->id;
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    target->ids.push_back(blocks[i].id.value);
    put(reply.data() + i * sizeof(wire::BlockRef),
        wire::BlockRef(blocks[i].id.value, blocks[i].frame.value));
  }
  return Reply{more ? request.handle() : opened->sequence.bits(), blocks.size(),
               target->memory->frame_extents()};
}

ipc::Result<Reply> LaneSession::Impl::extend(const wire::Submission& request,
                                             std::span<std::byte> reply) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  const std::size_t need = std::size_t{request.count()} * sizeof(wire::BlockRef);
  if (reply.size() < need) return small_reply(need, reply.size());
  auto first = coordinator.extend(session->id, (*found)->cache, Handle::from_bits(request.handle()),
                                  request.count(), blocks);
  if (!first) return std::unexpected(std::move(first.error()));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    (*found)->ids.push_back(blocks[i].id.value);
    put(reply.data() + i * sizeof(wire::BlockRef),
        wire::BlockRef(blocks[i].id.value, blocks[i].frame.value));
  }
  return Reply{*first, blocks.size(), (*found)->memory->frame_extents()};
}

ipc::Result<Reply> LaneSession::Impl::fork(const wire::Submission& request,
                                           std::span<std::byte> reply) {
  auto parent = sequence(request.handle());
  if (!parent) return std::unexpected(std::move(parent.error()));
  auto child =
      coordinator.fork(session->id, (*parent)->cache, Handle::from_bits(request.handle()), copies);
  if (!child) return std::unexpected(std::move(child.error()));
  const std::size_t need = copies.size() * sizeof(wire::ForkedRef);
  if (reply.size() < need) {
    (void)coordinator.release(session->id, *child);
    return small_reply(need, reply.size());
  }
  std::vector<std::uint32_t> ids = (*parent)->ids;
  std::shared_ptr<CacheMemory> memory = (*parent)->memory;
  const ipc::CacheId cache = (*parent)->cache;
  for (std::size_t i = 0; i < copies.size(); ++i) {
    const residency::ForkedBlock& block = copies[i];
    ids[block.index] = block.child.id.value;
    put(reply.data() + i * sizeof(wire::ForkedRef),
        wire::ForkedRef(block.index, block.parent.id.value, block.parent.frame.value,
                        block.child.id.value, block.child.frame.value));
  }
  LaneSequence& made = add_sequence(*child);
  made.ids = std::move(ids);
  made.memory = std::move(memory);
  made.cache = cache;
  return Reply{child->bits(), copies.size(), made.memory->frame_extents()};
}

ipc::Result<Reply> LaneSession::Impl::truncate(const wire::Submission& request) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  auto done =
      coordinator.truncate(session->id, Handle::from_bits(request.handle()), request.count());
  if (!done) return std::unexpected(std::move(done.error()));
  (*found)->ids.resize(request.count());
  std::erase_if((*found)->pins, [&](const auto& pin) { return pin.first >= request.count(); });
  return Reply{};
}

ipc::Result<Reply> LaneSession::Impl::release(const wire::Submission& request) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  auto done = coordinator.release(session->id, Handle::from_bits(request.handle()));
  if (!done) return std::unexpected(std::move(done.error()));
  **found = {};
  return Reply{};
}

ipc::Result<Reply> LaneSession::Impl::seal(const wire::Submission& request,
                                           std::span<std::byte> reply) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  ipc::ByteCursor cursor(*bytes);
  auto spec = cursor.take<wire::KeySpec>("KeySpec");
  if (!spec) return std::unexpected(std::move(spec.error()));
  auto keys = keys_of(cursor, spec->key_bytes(), 1);
  if (!keys) return std::unexpected(std::move(keys.error()));
  if (reply.size() < sizeof(wire::BlockRef)) {
    return small_reply(sizeof(wire::BlockRef), reply.size());
  }
  const std::uint32_t index = request.count();
  auto sealed = coordinator.seal(session->id, Handle::from_bits(request.handle()), index,
                                 (*keys)[0], request.value());
  if (!sealed) return std::unexpected(std::move(sealed.error()));
  LaneSequence& target = **found;
  // After a deduplication the old id retires, pins and all; it may even be somebody else's by now.
  if (sealed->deduplicated) target.pins.erase(index);
  if (const auto pins = target.pins.find(index); pins != target.pins.end()) {
    const kernels::HotTable& table = target.memory->table();
    kernels::seal_pins(table, target.ids[index], kernels::clock_of(table), pins->second.data());
    target.pins.erase(pins);
  }
  target.ids[index] = sealed->block.id.value;
  put(reply.data(), wire::BlockRef(sealed->block.id.value, sealed->block.frame.value));
  return Reply{sealed->deduplicated ? 1U : 0U, 0, target.memory->frame_extents()};
}

// ---- steps

ipc::Result<SessionCache> LaneSession::Impl::cache_of(const wire::Submission& request,
                                                      wire::Executor executor) {
  auto cache = session->cache(Handle::from_bits(request.handle()));
  if (!cache) return cache;
  if (cache->executor != executor) {
    return fail(Errc::wrong_state,
                "this cache was opened for executor direct: its steps and "
                "resolves run in the client");
  }
  return cache;
}

ipc::Result<LaneActor*> LaneSession::Impl::actor_of(const SessionCache& cache, std::uint32_t actor,
                                                    bool in_step) {
  if (!cache.memory->owns_actor(session->id, actor)) {
    return fail(Errc::stale_handle,
                "actor " + std::to_string(actor) + " is not one of this session");
  }
  LaneActor& found = actors[(std::uint64_t{cache.id.value} << 32) | actor];
  if (const std::uint64_t opened = cache.memory->opened(actor); found.opened != opened) {
    found = {opened, false, 0};
  }
  if (found.in_step != in_step) {
    return fail(Errc::wrong_state, in_step ? "the actor is in no step; begin one first"
                                           : "the actor is in a step already; end it first");
  }
  return &found;
}

ipc::Result<Reply> LaneSession::Impl::begin_step(const wire::Submission& request) {
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto actor = actor_of(*cache, request.actor(), false);
  if (!actor) return std::unexpected(std::move(actor.error()));
  (*actor)->step = kernels::enter_step(cache->memory->table(), request.actor());
  (*actor)->in_step = true;
  return Reply{(*actor)->step, 0, cache->memory->frame_extents()};
}

ipc::Result<Reply> LaneSession::Impl::end_step(const wire::Submission& request) {
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto actor = actor_of(*cache, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  kernels::leave_step(cache->memory->table(), request.actor());
  (*actor)->in_step = false;
  return Reply{};
}

ipc::Result<Reply> LaneSession::Impl::pin(const wire::Submission& request,
                                          std::span<std::byte> reply) {
  auto found = sequence(request.handle());
  if (!found) return std::unexpected(std::move(found.error()));
  LaneSequence& target = **found;
  const std::uint32_t index = request.count();
  const kernels::HotTable& table = target.memory->table();
  const std::uint32_t per_block = table.sizes.pages_per_block;
  const std::size_t need = std::size_t{per_block} * sizeof(std::int32_t);
  if (reply.size() < need) return small_reply(need, reply.size());
  if (index >= target.ids.size()) {
    return fail(Errc::invalid_argument, "block " + std::to_string(index) + " of a sequence of " +
                                            std::to_string(target.ids.size()));
  }
  auto actor =
      actor_of({target.cache, target.memory, wire::Executor::daemon}, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  auto& pins = target.pins[index];
  if (pins.empty()) {
    // Only a private block has no frame that resolvers know.
    if (kernels::frame_of(table, target.ids[index]) != kernels::kNoFrame) {
      target.pins.erase(index);
      return fail(Errc::wrong_state, "block " + std::to_string(index) + " is sealed");
    }
    pins.resize(per_block);
    if (!kernels::claim_pins(table, table.sizes.slots, target.ids[index], (*actor)->step,
                             pins.data())) {
      target.pins.erase(index);
      return fail(Errc::no_slot,
                  "the arena has no " + std::to_string(per_block) +
                      " slots that running steps do not use; end a step, or give the "
                      "cache more HBM");
    }
  }
  std::memcpy(reply.data(), pins.data(), need);
  return Reply{};
}

// Reads the lists of a request: `slots` gets an entry per page, with the slot if the page is pinned
// by this session, and `pages` the others. Returns how many there are in all. A page is named by
// its place in a sequence of this session and never by its id.
ipc::Result<std::uint64_t> LaneSession::Impl::gather(const SessionCache& cache,
                                                     const wire::Submission& request) {
  auto bytes = copy(request);
  if (!bytes) return std::unexpected(std::move(bytes.error()));
  auto lists = Untrusted(request.count()).in_range(0, kMaxListsPerRequest, "number of lists");
  if (!lists) return std::unexpected(std::move(lists.error()));
  ipc::ByteCursor cursor(*bytes);
  auto specs = cursor.take_array<wire::ListSpec>(*lists, "ListSpec");
  if (!specs) return std::unexpected(std::move(specs.error()));
  const std::uint32_t per_block = cache.memory->shape().table.pages_per_block;
  pages.clear();
  slots.clear();
  for (const wire::ListSpec& list : *specs) {
    auto indices = cursor.take_array<std::uint32_t>(list.count(), "block indices");
    if (!indices) return std::unexpected(std::move(indices.error()));
    if (slots.size() + indices->size() > kMaxPagesPerRequest) {
      return fail(Errc::list_too_long,
                  "more than " + std::to_string(kMaxPagesPerRequest) + " pages in one request");
    }
    auto found = sequence(list.sequence());
    if (!found) return std::unexpected(std::move(found.error()));
    const LaneSequence& target = **found;
    if (target.cache != cache.id) {
      return fail(Errc::invalid_argument, "the sequence of a list is of another cache");
    }
    if (list.page_in_block() >= per_block) {
      return fail(Errc::invalid_argument, "page " + std::to_string(list.page_in_block()) +
                                              " of a block of " + std::to_string(per_block));
    }
    const kernels::Page first =
        kernels::page_number(cache.memory->table(), 0, list.page_in_block());
    for (const std::uint32_t index : *indices) {
      if (index >= target.ids.size()) {
        return fail(Errc::invalid_argument, "block " + std::to_string(index) +
                                                " of a sequence of " +
                                                std::to_string(target.ids.size()));
      }
      kernels::Slot pinned = kernels::kNoSlot;
      if (!target.pins.empty()) {
        const auto pins = target.pins.find(index);
        if (pins != target.pins.end()) pinned = pins->second[list.page_in_block()];
      }
      slots.push_back(pinned);
      if (pinned == kernels::kNoSlot) {
        pages.push_back(first + target.ids[index]);
      }
    }
  }
  named += slots.size();
  return slots.size();
}

ipc::Result<Reply> LaneSession::Impl::begin_resolve(const wire::Submission& request,
                                                    std::span<std::byte> reply) {
  const auto start = std::chrono::steady_clock::now();
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto actor = actor_of(*cache, request.actor(), true);
  if (!actor) return std::unexpected(std::move(actor.error()));
  auto count = gather(*cache, request);
  if (!count) return std::unexpected(std::move(count.error()));
  const std::size_t need = sizeof(wire::ResolveCounts) + *count * (sizeof(std::int32_t) + 1);
  if (reply.size() < need) return small_reply(need, reply.size());

  found_slots.resize(pages.size());
  found_outcomes.resize(pages.size());
  RunningResolve& begun =
      running.emplace(RunningResolve{request, reply, *cache, (*actor)->step, {}, {}, start});
  begun.list.pages = pages.data();
  begun.list.count = static_cast<std::uint32_t>(pages.size());
  begun.list.slots = found_slots.data();
  begun.list.outcomes = found_outcomes.data();
  kernels::begin_resolve(cache->memory->table(), cache->memory->store(), begun.step, begun.list,
                         begun.progress);
  return Reply{};
}

Reply LaneSession::Impl::end_resolve() {
  const wire::ResolveCounts counts = take_results(running->cache, running->progress.counts);
  std::byte* const to = running->reply.data();
  put(to, counts);
  std::memcpy(to + sizeof(counts), slots.data(), slots.size() * sizeof(std::int32_t));
  std::memcpy(to + sizeof(counts) + slots.size() * sizeof(std::int32_t), outcomes.data(),
              outcomes.size());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - running->start;
  resolve_time.observe(took.count());
  const CacheMemory& memory = *running->cache.memory;
  return Reply{0, memory.forecast_wasted(), memory.frame_extents()};
}

// Puts what was found for `pages` into the places of `slots` that are open, and into `outcomes`.
wire::ResolveCounts LaneSession::Impl::take_results(const SessionCache& cache,
                                                    const kernels::ResolveCounts& counts) {
  outcomes.assign(slots.size(), static_cast<std::uint8_t>(kernels::Outcome::hit));
  std::size_t next = 0;
  std::uint32_t late = 0;
  for (std::size_t i = 0; i < slots.size(); ++i) {
    if (slots[i] != kernels::kNoSlot) continue;
    slots[i] = found_slots[next];
    outcomes[i] = std::min(static_cast<std::uint8_t>(found_outcomes[next]),
                           static_cast<std::uint8_t>(kernels::Outcome::absent));
    if (!announced.empty() && found_outcomes[next] == kernels::Outcome::filled &&
        announced.erase(announced_key(cache.id, pages[next])) != 0) {
      ++late;
    }
    ++next;
  }
  if (late != 0) coordinator.forecast(cache.id, residency::ForecastEvent::late, late);
  const std::size_t pinned = slots.size() - pages.size();
  return wire::ResolveCounts(
      static_cast<std::uint32_t>(counts.hits + pinned), static_cast<std::uint32_t>(counts.fills),
      static_cast<std::uint32_t>(counts.no_slot),
      static_cast<std::uint32_t>(counts.absent + counts.pinned + counts.invalid),
      counts.filled_bytes, static_cast<std::uint32_t>(counts.forecast_used), late,
      std::exchange(forecast_issued, 0), std::exchange(forecast_dropped, 0));
}

// ---- forecasts

ipc::Result<Reply> LaneSession::Impl::forecast(const wire::Submission& request) {
  auto cache = cache_of(request, wire::Executor::daemon);
  if (!cache) return std::unexpected(std::move(cache.error()));
  auto count = gather(*cache, request);
  if (!count) return std::unexpected(std::move(count.error()));
  while (!forecasts.empty() && (forecasts.size() == kMaxQueuedForecasts ||
                                announced.size() + pages.size() > kMaxQueuedForecastPages)) {
    drop_forecast();
  }
  if (pages.size() > kMaxQueuedForecastPages) pages.resize(kMaxQueuedForecastPages);
  const auto deadline = std::min<std::uint64_t>(request.value(), kMaxForecastDeadlineUs);
  for (const kernels::Page page : pages) announced.insert(announced_key(cache->id, page));
  forecasts.push_back({*cache, pages, 0, kernels::forecast_min_age(request.flags()),
                       std::chrono::steady_clock::now() + std::chrono::microseconds(deadline)});
  return Reply{};
}

void LaneSession::Impl::drop_forecast() {
  count_dropped(forecasts.front());
  forecasts.pop_front();
}

void LaneSession::Impl::count_dropped(const QueuedForecast& waiting) {
  std::uint64_t dropped = 0;
  for (std::size_t i = waiting.done; i < waiting.pages.size(); ++i) {
    dropped += announced.erase(announced_key(waiting.cache.id, waiting.pages[i]));
  }
  if (dropped == 0) return;
  coordinator.forecast(waiting.cache.id, residency::ForecastEvent::dropped, dropped);
  forecast_dropped += static_cast<std::uint32_t>(dropped);
}

// A slice of the oldest forecast; whether there was one.
bool LaneSession::Impl::run_forecast() {
  if (forecasts.empty()) return false;
  QueuedForecast& next = forecasts.front();
  const auto actor = forecast_actor(next.cache);
  if (!actor || next.done == next.pages.size() ||
      std::chrono::steady_clock::now() > next.deadline) {
    drop_forecast();
    return true;
  }
  const kernels::HotTable& table = next.cache.memory->table();
  kernels::ForecastList list;
  list.pages = next.pages.data() + next.done;
  list.count = static_cast<std::uint32_t>(std::min(kForecastSlice, next.pages.size() - next.done));
  list.budget_bytes = ~std::uint64_t{0};
  list.min_age = next.min_age;
  const kernels::Step step = kernels::enter_step(table, *actor);
  const kernels::ForecastCounts counts =
      kernels::forecast(table, next.cache.memory->store(), *actor, step, list);
  kernels::leave_step(table, *actor);
  for (std::uint32_t i = 0; i < list.count; ++i) {
    announced.erase(announced_key(next.cache.id, list.pages[i]));
  }
  next.done += list.count;
  forecast_issued += static_cast<std::uint32_t>(counts.issued);
  forecast_dropped += static_cast<std::uint32_t>(counts.dropped);
  if (counts.dropped != 0) {
    coordinator.forecast(next.cache.id, residency::ForecastEvent::dropped, counts.dropped);
  }
  return true;
}

// The lane's own actor for this session's forecasts in a cache.
std::optional<std::uint32_t> LaneSession::Impl::forecast_actor(const SessionCache& cache) {
  // A cache's id and address may have been another's before; the weak pointer tells them apart.
  const auto found = forecast_actors.find(cache.id.value);
  if (found != forecast_actors.end() && found->second.memory.lock() == cache.memory) {
    return found->second.index;
  }
  auto opened = coordinator.open_lane_actor(session->id, *cache.memory);
  if (!opened) return std::nullopt;
  forecast_actors[cache.id.value] = {cache.memory, *opened};
  return *opened;
}

// ---- the lane's side

LaneSession::LaneSession(std::shared_ptr<Session> session, Coordinator& coordinator)
    : impl_(std::make_unique<Impl>(std::move(session), coordinator)) {}

LaneSession::~LaneSession() = default;

std::expected<bool, SessionEnd> LaneSession::serve(int most) {
  bool some = false;
  impl_->named = 0;
  // After a slice of a long resolve, or long lists, it is the others' turn.
  for (int i = 0; i < most && (i == 0 || !impl_->running) && impl_->named < kPagesPerTurn; ++i) {
    if (impl_->running) {
      some = true;
      if (auto ran = impl_->go_on(); !ran) return std::unexpected(std::move(ran.error()));
      if (impl_->completions.publish()) impl_->session->bell.ring();
      continue;
    }
    auto request = impl_->requests.next();
    if (!request) return std::unexpected(end_by(std::move(request.error()), Violation::cursor));
    if (!*request) break;
    some = true;
    if (auto ran = impl_->run(**request); !ran) return std::unexpected(std::move(ran.error()));
    // One at a time: a long request must not hold back the answers before it.
    if (impl_->completions.publish()) impl_->session->bell.ring();
  }
  return some || impl_->run_forecast();
}

void LaneSession::forget_cache(ipc::CacheId cache) {
  std::erase_if(impl_->forecasts, [&](const QueuedForecast& forecast) {
    if (forecast.cache.id != cache) return false;
    impl_->count_dropped(forecast);
    return true;
  });
}

std::expected<bool, SessionEnd> LaneSession::prepare_to_sleep() {
  auto empty = impl_->requests.prepare_to_sleep();
  if (!empty) return std::unexpected(end_by(std::move(empty.error()), Violation::cursor));
  return *empty;
}
void LaneSession::awake() { impl_->requests.awake(); }
ipc::Doorbell::Drained LaneSession::drain_bell() { return impl_->session->bell.drain(); }

}  // namespace sluice::daemon
