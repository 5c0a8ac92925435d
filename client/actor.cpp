#include "client/actor.h"

#include <algorithm>
#include <string>

#include "client/sequence.h"
#include "kernels/resolve.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

static_assert(SLUICE_HIT == static_cast<int>(kernels::Outcome::hit));
static_assert(SLUICE_MISS == static_cast<int>(kernels::Outcome::filled));
static_assert(SLUICE_NO_ROOM == static_cast<int>(kernels::Outcome::no_slot));
static_assert(SLUICE_ABSENT == static_cast<int>(kernels::Outcome::absent));
static_assert(SLUICE_LOST == static_cast<int>(kernels::Outcome::lost));

namespace {

std::unexpected<ipc::Error> only_on_gpus(const char* what) {
  return fail(Errc::not_supported, std::string(what) +
                                       " of a cache on the host backend: there are none; open the "
                                       "cache with device_type 2");
}

}  // namespace

ipc::Result<std::unique_ptr<Actor>> Actor::open(Cache& cache) {
  Client& client = cache.client();
  if (auto ok = client.check(); !ok) return std::unexpected(ok.error());
  auto number = client.ask(client.deadline(), [&](Link& link) -> ipc::Result<std::uint32_t> {
    if (auto ok = cache.check(); !ok) return std::unexpected(ok.error());
    auto reply = link.control().call(
        [&](auto& builder) { return wire::CreateOpenActor(builder, cache.handle()); },
        client.deadline());
    if (!reply) return std::unexpected(reply.error());
    auto opened = reply->as<wire::ActorOpened>();
    if (!opened) return std::unexpected(opened.error());
    return (*opened)->actor();
  });
  if (!number) return std::unexpected(number.error());
  const std::uint32_t index = *number;
  if (index >= cache.max_actors()) {
    return fail(Errc::peer_violation, "the daemon gave actor " + std::to_string(index) + " of " +
                                          std::to_string(cache.max_actors()));
  }
  if (cache.resolver() != nullptr) {
    auto actor = cache.resolver()->make_actor(cache, index);
    if (!actor) (void)cache.close_actor(index);
    return actor;
  }
  return cache.executor() == wire::Executor::direct ? make_direct_actor(cache, index)
                                                    : make_remote_actor(cache, index);
}

Actor::~Actor() { --cache_.users(); }

ipc::Status Actor::close() {
  Client& client = cache_.client();
  if (auto ok = client.check(); !ok) return ok;
  if (in_step_) {
    if (auto ok = end_step(); !ok) return ok;
  }
  // A step that may have begun; if that is not known in time, the daemon leaves it.
  if (uncertain_) (void)do_end_step();
  if (auto ok = do_close(); !ok) return ok;
  return cache_.close_actor(index_);
}

ipc::Status Actor::begin_step() {
  if (in_step_) {
    return fail(Errc::wrong_state, "the actor is in a step already; end it first");
  }
  Client& client = cache_.client();
  if (auto ok = asks_daemon() ? client.check_alive() : client.check_not_ended(); !ok) return ok;
  if (auto ok = cache_.check(); !ok) return ok;
  if (uncertain_) {
    const ipc::Status ended = do_end_step();
    note_whether_answered(ended);
    if (uncertain_) return ended;
  }
  auto begun = do_begin_step();
  in_step_ = begun.has_value();
  note_whether_answered(begun);
  // The daemon may have failed after the step began; one that takes its place then finds it so.
  uncertain_ = uncertain_ ||
               (!begun && asks_daemon() &&
                (begun.error().code == Errc::io_error || begun.error().code == Errc::device_lost));
  return begun;
}

void Actor::note_whether_answered(const ipc::Status& status) {
  uncertain_ = !status &&
               (status.error().code == Errc::timed_out || status.error().code == Errc::daemon_away);
}

ipc::Status Actor::end_step() {
  if (auto ok = check_in_step(); !ok) return ok;
  auto ended = do_end_step();
  note_whether_answered(ended);
  // A daemon that answers that it could not, whyever, is to be asked again.
  const bool refused = !ended && asks_daemon() && !uncertain_ &&
                       ended.error().code != Errc::wrong_state &&
                       cache_.client().gate().state() != Gate::State::ended;
  in_step_ = refused;
  return ended;
}

ipc::Status Actor::check_in_step() const {
  if (auto ok = cache_.client().check(); !ok) return ok;
  if (in_step_) return {};
  return fail(Errc::wrong_state, "the actor is in no step; begin one first");
}

ipc::Status Actor::check_lists(std::span<const PageList> lists) {
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const PageList& list = lists[i];
    const auto wrong = [&](std::string text) {
      return fail(Errc::invalid_argument, "list " + std::to_string(i) + ": " + std::move(text));
    };
    if (list.sequence == nullptr || &list.sequence->cache() != &cache_) {
      return wrong("its sequence is not one of the actor's cache");
    }
    if (auto ok = list.sequence->check(); !ok) return ok;
    if (auto ok = list.sequence->settle(this); !ok) return ok;
    if (list.page >= cache_.geometry().pages_per_block) {
      return wrong("page " + std::to_string(list.page) + " of a block of " +
                   std::to_string(cache_.geometry().pages_per_block));
    }
    if (list.count > 0 && list.blocks == nullptr) return wrong("blocks is NULL");
    // One comparison for all: this is on the path of every page.
    std::uint32_t largest = 0;
    for (std::uint32_t j = 0; j < list.count; ++j) largest = std::max(largest, list.blocks[j]);
    const std::uint32_t blocks = list.sequence->blocks();
    if (list.count > 0 && largest >= blocks) {
      return wrong("block " + std::to_string(largest) + " of a sequence of " +
                   std::to_string(blocks));
    }
  }
  return {};
}

void Actor::account(const Operation& operation) {
  const Counts& counts = operation.counts;
  CacheStats& stats = cache_.stats();
  const auto add = [](std::atomic<std::uint64_t>& to, std::uint64_t n) {
    if (n != 0) to.fetch_add(n, std::memory_order_relaxed);  // most are 0 in most calls
  };
  add(stats.hits, counts.hits);
  add(stats.misses, counts.misses);
  add(stats.no_slot, counts.no_slot);
  add(stats.absent, counts.absent);
  add(stats.bytes_filled, counts.bytes_filled);
  add(stats.resolves, 1);
  add(stats.forecast_used, operation.forecast_used);
  add(stats.forecast_late, operation.forecast_late);
  add(stats.forecast_issued, operation.forecast_issued);
  add(stats.forecast_dropped, operation.forecast_dropped);
}

ipc::Status Actor::resolve(std::span<const PageList> lists, Counts& counts) {
  if (auto ok = check_in_step(); !ok) return ok;
  if (auto ok = check_lists(lists); !ok) return ok;
  scratch_.lists.assign(lists.begin(), lists.end());
  scratch_.parts.clear();
  scratch_.link.reset();
  scratch_.counts = {};
  scratch_.forecast_used = 0;
  scratch_.forecast_late = 0;
  scratch_.forecast_issued = 0;
  scratch_.forecast_dropped = 0;
  if (auto ok = do_start(scratch_); !ok) return ok;
  if (auto ok = do_finish(scratch_, cache_.client().deadline()); !ok) {
    do_abandon(scratch_);
    return ok;
  }
  counts = scratch_.counts;
  account(scratch_);
  return {};
}

ipc::Result<std::unique_ptr<Operation>> Actor::start(std::span<const PageList> lists) {
  if (auto ok = check_in_step(); !ok) return std::unexpected(ok.error());
  if (auto ok = check_lists(lists); !ok) return std::unexpected(ok.error());
  auto operation = std::make_unique<Operation>();
  operation->lists.assign(lists.begin(), lists.end());
  if (auto ok = do_start(*operation); !ok) return std::unexpected(ok.error());
  return operation;
}

ipc::Status Actor::finish(Operation& operation, ipc::Deadline deadline) {
  if (auto ok = cache_.client().check(); !ok) return ok;
  if (auto ok = do_finish(operation, deadline); !ok) return ok;
  account(operation);
  return {};
}

ipc::Status Actor::forecast(std::span<const PageList> lists, std::uint64_t deadline_us,
                            std::uint32_t confidence) {
  if (auto ok = check_in_step(); !ok) return ok;
  if (auto ok = check_lists(lists); !ok) return ok;
  if (confidence > 100) {
    return fail(Errc::invalid_argument,
                "confidence is " + std::to_string(confidence) + "; expected 0 to 100 per cent");
  }
  return do_forecast(lists, deadline_us, confidence);
}

ipc::Result<std::vector<std::int32_t>> Actor::pin(const Sequence& sequence, std::uint32_t block) {
  if (auto ok = check_in_step(); !ok) return std::unexpected(ok.error());
  if (&sequence.cache() != &cache_) {
    return fail(Errc::invalid_argument, "the sequence and the actor are of different caches");
  }
  return do_pin(sequence, block);
}

// ---- on a GPU only

ipc::Result<Pending> Actor::copy_to_frame(const Sequence&, std::uint32_t, const Sequence&) {
  return only_on_gpus("copies by a stream");
}

ipc::Status Actor::copy_to_slots(const Sequence&, std::uint32_t) {
  return only_on_gpus("copies by a stream");
}

ipc::Status Actor::do_set_stream(const StreamRef&) { return only_on_gpus("streams"); }

ipc::Result<std::unique_ptr<Plan>> Actor::do_make_plan(const PlanOptions&) {
  return only_on_gpus("plans");
}

ipc::Status Actor::set_stream(const StreamRef& stream) {
  if (auto ok = cache_.client().check(); !ok) return ok;
  if (in_step_) {
    return fail(Errc::wrong_state,
                "the actor is in a step, which belongs to its stream; end it "
                "first");
  }
  return do_set_stream(stream);
}

ipc::Result<std::unique_ptr<Plan>> Actor::make_plan(const PlanOptions& options) {
  if (auto ok = cache_.client().check(); !ok) return std::unexpected(ok.error());
  return do_make_plan(options);
}

}  // namespace sluice::client::internal
