#include <optional>
#include <string>
#include <vector>

#include "tests/gpu/stress/documents.h"
#include "tests/gpu/stress/stream.h"
#include "tools/replay/slot_memory.h"

namespace sluice::test::stress {

namespace {

using client::Actor;
using client::PageList;
using client::Status;
using engines::CacheShape;
using tools::SlotPage;

constexpr std::uint32_t kRounds = 2;  // resolves of a step, at most

class CallStream final : public Stream {
 public:
  CallStream(const StreamJob& job, bool forecasts)
      : job_(job),
        forecasts_(forecasts),
        random_(job.seed),
        documents_(job.process, job.board, job.row, job.cache, random_) {}

  Status open() override {
    auto arena = job_.cache.arena();
    if (!arena) return std::unexpected(arena.error());
    arena_ = *arena;
    const auto payload = job_.process.shape.payload();
    if (job_.process.cuda) {
      auto slots = tools::make_cuda_slots(payload, arena_);
      if (!slots) return std::unexpected(slots.error());
      slots_ = std::move(*slots);
    } else {
      slots_ = tools::make_host_slots(payload, arena_);
    }
    if (auto ok = open_actor(actor_); !ok) return ok;
    if (forecasts_) {
      if (auto ok = open_actor(forecaster_); !ok) return ok;
    }
    documents_.write_through(*actor_, *slots_);
    if (!job_.process.cuda) return {};
    const sluice_stream stream{SLUICE_STREAM_CUDA, 0, slots_->stream()};
    return actor_->set_stream(&stream);
  }

  Status turn() override {
    for (std::uint32_t place = 0; place < kHeld; ++place) {
      if (documents_.at(place) && below(4) != 0) continue;
      if (auto ok = forget_forecasts(); !ok) return ok;
      if (auto ok = documents_.replace(place); !ok) return ok;
    }
    return step();
  }

  Status finish() override { return forget_forecasts(); }

 private:
  std::uint32_t below(std::uint32_t end) {
    return std::uniform_int_distribution<std::uint32_t>(0, end - 1)(random_);
  }

  Status open_actor(std::optional<Actor>& actor) {
    auto opened = job_.cache.open_actor();
    if (!opened) return std::unexpected(opened.error());
    actor.emplace(std::move(*opened));
    return {};
  }

  // Forecasts read the ids of sequences in their own time.
  Status forget_forecasts() {
    if (!forecaster_ || !job_.process.cuda) return {};
    return forecaster_->set_stream(nullptr);
  }

  void choose_lists() {
    const std::uint32_t capacity = list_capacity(arena_.slots);
    const std::size_t entries = std::size_t{kListsOfLaunch} * capacity;
    blocks_.resize(entries);
    answers_.assign(entries, kUntouched);
    outcomes_.assign(entries, 0xFF);
    lists_.clear();
    for (std::uint32_t l = 0; l < kListsOfLaunch; ++l) {
      const auto& document = documents_.at(l / CacheShape::kPages);
      const std::uint32_t count = document ? below(capacity + 1) : 0;
      if (count == 0) continue;
      const std::size_t at = std::size_t{l} * capacity;
      for (std::uint32_t i = 0; i < count; ++i) blocks_[at + i] = below(kDocumentBlocks);
      lists_.push_back({document->sequence.get(), l % CacheShape::kPages, count, &blocks_[at],
                        &answers_[at], &outcomes_[at]});
    }
  }

  Status forecast() {
    if (!forecaster_ || lists_.empty()) return {};
    if (auto ok = forecaster_->begin_step(); !ok) return ok;
    if (auto ok = forecaster_->forecast(lists_, 1000, 50); !ok) return ok;
    return forecaster_->end_step();
  }

  void take(std::uint64_t seed, std::uint32_t page, std::int32_t slot, std::uint8_t outcome) {
    const bool has_slot = outcome == SLUICE_HIT || outcome == SLUICE_MISS;
    const bool exists = slot >= 0 && static_cast<std::uint32_t>(slot) < arena_.slots;
    if (outcome > SLUICE_ABSENT || has_slot != exists || (!exists && slot != -1)) {
      ++job_.row.absurd;
    } else if (has_slot) {
      if (outcome == SLUICE_MISS) ++job_.row.misses;
      compared_.push_back({seed, slot, page, 0, CacheShape::kBlockTokens});
    } else {
      ++(outcome == SLUICE_NO_ROOM ? job_.row.no_slot : job_.row.absent);
    }
  }

  Status resolve() {
    if (lists_.empty()) return {};
    if (auto counts = actor_->resolve(lists_); !counts) return std::unexpected(counts.error());
    for (const PageList& list : lists_) {
      const auto& first = documents_.at(0);
      const bool is_first = first && first->sequence.get() == list.sequence;
      const Document& document = *documents_.at(is_first ? 0 : 1);
      for (std::uint32_t i = 0; i < list.count; ++i) {
        take(document.seeds[list.blocks[i]], list.page, list.slots[i], list.outcomes[i]);
      }
    }
    return {};
  }

  // All that was resolved in this step.
  Status compare() {
    tools::Comparison found;
    if (auto ok = slots_->compare(compared_, found); !ok) return ok;
    job_.row.compared += compared_.size();
    job_.row.wrong += found.different;
    return {};
  }

  Status step() {
    compared_.clear();
    choose_lists();
    if (auto ok = forecast(); !ok) return ok;
    if (auto ok = actor_->begin_step(); !ok) return ok;
    for (std::uint32_t round = 1 + below(kRounds); round != 0; --round) {
      if (auto ok = resolve(); !ok) return ok;
      if (auto ok = compare(); !ok) return ok;
      if (round > 1) choose_lists();
    }
    // A reference may go in the step: what was resolved stays until the step is left.
    if (below(kStepsPerRelease) == 0) {
      if (auto ok = forget_forecasts(); !ok) return ok;
      if (auto ok = documents_.release_in_step(below(kHeld)); !ok) return ok;
      if (auto ok = compare(); !ok) return ok;
    }
    if (auto ok = actor_->end_step(); !ok) return ok;
    ++job_.row.steps;
    return {};
  }

  static constexpr std::int32_t kUntouched = -2;  // no resolve may leave this

  const StreamJob job_;
  const bool forecasts_;
  std::mt19937_64 random_;
  sluice_arena_view arena_{};
  std::vector<PageList> lists_;
  std::vector<std::uint32_t> blocks_;
  std::vector<std::int32_t> answers_;
  std::vector<std::uint8_t> outcomes_;
  std::vector<SlotPage> compared_;
  // In the order in which they are made; they go the other way round.
  std::unique_ptr<tools::SlotMemory> slots_;
  Documents documents_;
  std::optional<Actor> actor_;
  std::optional<Actor> forecaster_;
};

}  // namespace

std::unique_ptr<Stream> make_call_stream(const StreamJob& job, bool forecasts) {
  return std::make_unique<CallStream>(job, forecasts);
}

}  // namespace sluice::test::stress
