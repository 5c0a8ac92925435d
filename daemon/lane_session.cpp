#include "daemon/lane_session.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "daemon/lane_session_impl.h"
#include "ipc/message.h"

namespace sluice::daemon {

namespace wire = ipc::wire;
using ipc::Errc;
using ipc::Error;
using ipc::fail;
using ipc::Untrusted;

namespace {

// Pages that the requests of one turn may name before the turn is over: looking up so many takes
// about a millisecond. Requests that wait cost a client nothing; they may share their lists.
constexpr std::size_t kPagesPerTurn = 1u << 16;

}  // namespace

std::unexpected<Error> small_reply(std::size_t need, std::size_t have) {
  return fail(Errc::invalid_argument, "the reply area has " + std::to_string(have) +
                                          " bytes; this request needs " + std::to_string(need));
}

std::expected<void, SessionEnd> LaneSession::Impl::run(const wire::Submission& request) {
  session->counters.requests.fetch_add(1, std::memory_order_relaxed);
  // A range outside of request memory can only be a bug or an attack: the session ends.
  auto area =
      copier.reply_area(Untrusted(request.reply_offset()), Untrusted(request.reply_length()));
  if (!area) return std::unexpected(end_by(std::move(area.error()), Violation::descriptor));
  return go_on_with(request, *area, execute(request, *area));
}

std::expected<void, SessionEnd> LaneSession::Impl::go_on_with(const wire::Submission& request,
                                                              std::span<std::byte> reply,
                                                              const ipc::Result<LaneReply>& done) {
  if (task && done) {
    begin_task(request, reply);
    return {};
  }
  return running ? go_on() : answer(request, reply, done);
}

std::expected<void, SessionEnd> LaneSession::Impl::answer(const wire::Submission& request,
                                                          std::span<std::byte> area,
                                                          const ipc::Result<LaneReply>& done) {
  LaneReply reply;
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

ipc::Result<LaneReply> LaneSession::Impl::execute(const wire::Submission& request,
                                                  std::span<std::byte> reply) {
  if (auto found = find_pins_for(request, reply)) return std::move(*found);
  switch (static_cast<wire::Op>(request.op())) {
    case wire::Op::nop:
      return LaneReply{};
    case wire::Op::sequence_open:
      return open(request, reply, false);
    case wire::Op::sequence_match_more:
      return open(request, reply, true);
    case wire::Op::sequence_adopt:
      return adopt(request, reply);
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
    case wire::Op::tail_copy:
      return copy_tail(request);
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

LaneSession::LaneSession(std::shared_ptr<Session> session, Coordinator& coordinator,
                         std::function<void()> wake)
    : impl_(std::make_unique<Impl>(std::move(session), coordinator, std::move(wake))) {}

LaneSession::~LaneSession() = default;

std::expected<bool, SessionEnd> LaneSession::serve(int most) {
  bool some = false;
  impl_->named = 0;
  // After a slice of a long resolve, or long lists, it is the others' turn.
  for (int i = 0; i < most && (i == 0 || !impl_->running) && impl_->named < kPagesPerTurn; ++i) {
    if (impl_->task) {
      if (!impl_->task->done.load(std::memory_order_acquire)) break;
      some = true;
      if (auto ran = impl_->end_task(); !ran) return std::unexpected(std::move(ran.error()));
      if (impl_->completions.publish()) impl_->session->bell.ring();
      continue;
    }
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
  return some || impl_->forecasts.run();
}

bool LaneSession::waits_for_device() const {
  const auto& task = impl_->task;
  return task && task->handed_over && !task->done.load(std::memory_order_acquire);
}

void LaneSession::forget_cache(ipc::CacheId cache) { impl_->forecasts.forget_cache(cache); }

std::expected<bool, SessionEnd> LaneSession::prepare_to_sleep() {
  if (impl_->task) return waits_for_device();  // and is woken; requests come afterwards
  auto empty = impl_->requests.prepare_to_sleep();
  if (!empty) return std::unexpected(end_by(std::move(empty.error()), Violation::cursor));
  return *empty;
}
void LaneSession::awake() { impl_->requests.awake(); }
ipc::Doorbell::Drained LaneSession::drain_bell() { return impl_->session->bell.drain(); }

}  // namespace sluice::daemon
