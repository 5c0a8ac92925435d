#include "storage/io_queue.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace sluice::storage {
namespace {

// Of one request: answers that only say "again".
constexpr std::uint32_t kMaxRetries = 16;
constexpr std::size_t kBatch = 64;
// Of answers it is less: to verify what was read takes time, in which the device should have work.
constexpr std::size_t kAnswers = 8;

bool moves_bytes(IoOp op) { return op == IoOp::read || op == IoOp::write; }

}  // namespace

void IoQueue::push(const IoRequest& request, Finished finished) {
  std::uint32_t place = 0;
  if (free_.empty()) {
    place = static_cast<std::uint32_t>(flights_.size());
    flights_.emplace_back();
  } else {
    place = free_.back();
    free_.pop_back();
  }
  Flight& flight = flights_[place];
  flight.request = request;
  flight.request.tag = place;
  flight.finished = std::move(finished);
  flight.retries = 0;
  flight.in_flight = false;
  waiting_.push_back(place);
}

void IoQueue::submit() {
  while (!waiting_.empty()) {
    std::array<IoRequest, kBatch> batch;
    const std::size_t count = std::min(waiting_.size(), kBatch);
    for (std::size_t i = 0; i < count; ++i) batch[i] = flights_[waiting_[i]].request;
    const std::size_t taken = engine_.submit(std::span(batch).first(count));
    SLUICE_ASSERT(taken <= count);
    const auto now = std::chrono::steady_clock::now();
    for (std::size_t i = 0; i < taken; ++i) {
      Flight& flight = flights_[waiting_.front()];
      flight.in_flight = true;
      flight.since = now;
      waiting_.pop_front();
    }
    in_flight_ += taken;
    if (taken < count) return;
  }
}

void IoQueue::turn(std::chrono::microseconds timeout) {
  submit();
  std::array<IoAnswer, kAnswers> answers;
  const std::size_t count = engine_.reap(answers, timeout);
  for (std::size_t i = 0; i < count; ++i) take(answers[i]);
  submit();
}

void IoQueue::take(const IoAnswer& answer) {
  SLUICE_ASSERT(answer.tag < flights_.size());
  const auto place = static_cast<std::uint32_t>(answer.tag);
  Flight& flight = flights_[place];
  SLUICE_ASSERT(flight.in_flight);
  flight.in_flight = false;
  --in_flight_;
  IoRequest& request = flight.request;
  if (answer.result == -EINTR || answer.result == -EAGAIN) {
    if (++flight.retries > kMaxRetries) return finish(place, EAGAIN);
    return waiting_.push_back(place);
  }
  if (answer.result < 0) return finish(place, static_cast<int>(-answer.result));
  if (!moves_bytes(request.op)) return finish(place, 0);
  const auto moved = static_cast<std::uint64_t>(answer.result);
  if (moved == request.length) return finish(place, 0);
  // O_DIRECT can only go on at a multiple.
  if (moved == 0 || moved > request.length || moved % kIoAlign != 0) return finish(place, ENODATA);
  request.offset += moved;
  request.memory += moved;
  request.length -= moved;
  waiting_.push_front(place);
}

void IoQueue::finish(std::uint32_t place, int error) {
  Finished finished = std::move(flights_[place].finished);
  free_.push_back(place);
  finished(error);
}

std::chrono::milliseconds IoQueue::oldest() const {
  const auto now = std::chrono::steady_clock::now();
  auto since = now;
  for (const Flight& flight : flights_) {
    if (flight.in_flight) since = std::min(since, flight.since);
  }
  return std::chrono::duration_cast<std::chrono::milliseconds>(now - since);
}

}  // namespace sluice::storage
