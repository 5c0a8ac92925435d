#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>

#include "tools/replay/engine.h"
#include "tools/replay/layer_graphs.h"
#include "tools/replay/page_batch.h"
#include "tools/replay/shortage.h"

namespace sluice::tools {
namespace {

using client::Error;
using client::Status;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kForecastConfidence = 70;  // about the recall of the recorded forecasts

struct Active {
  std::uint32_t index = 0;  // in the trace
  const SparseRequest* request = nullptr;
  client::Sequence sequence;
  std::uint32_t next_step = 0;
  std::uint64_t delay = 0;  // iterations behind the recording
  std::uint32_t blocks = 0;
  std::vector<std::uint64_t> seeds;      // payload seed of each block
  std::vector<std::int32_t> tail_slots;  // pinned slots of the partial block; empty: not pinned
  std::uint32_t tail_tokens = 0;         // of the partial block, written
  std::vector<bool> decode_seen;         // [page][decode block]: read before
};

using Waiting = WaitingRequest;

class SparseEngine {
 public:
  SparseEngine(const SparseTrace& trace, const EngineJob& job, EngineLink& link,
               EngineProgress& progress);
  Status run();
  // What is left to do; nothing that the engine holds is of use any more.
  void save(EngineProgress& progress) const;

 private:
  const SparseStep& step_of(const Active& a) const {
    return trace_.step_of(*a.request, a.next_step);
  }
  std::uint32_t new_token_block(const Active& a) const {
    return (step_of(a).tokens - 1) / tokens_per_block_;
  }
  std::uint64_t next_iteration(std::uint64_t from) const;
  std::uint64_t seed_of(const Active& a, std::uint32_t block) const;
  std::unexpected<Error> located(const Active& a, Error error) const;

  Status admit_arrivals(std::uint64_t now);
  Status admit(const Waiting& waiting, std::uint64_t now);
  Status prefill(Active& a, std::uint32_t matched, std::uint32_t full_blocks);
  Status collect_due(std::uint64_t now);
  Status iterate();
  Status write_new_tokens(std::uint64_t now);
  Status resolve_layer(std::uint32_t layer);
  Status forecast_layer(std::uint32_t layer);
  bool waits_for_store() const { return !job_.options->nvme.empty(); }
  client::Result<client::ResolveCounts> resolve(std::uint32_t layer, const PageBatch& batch);
  client::Result<client::ResolveCounts> resolve_wait(const PageBatch& batch);
  Status resolve_absent();
  Status check_answers(const PageBatch& batch, std::span<Active* const> owners,
                       const client::ResolveCounts& counts);
  Status check_page(Active& a, const sluice_page_list& list, std::uint32_t position);
  Status compare();
  Status open_graphs();
  client::Result<std::uint32_t> extend(Active& a, std::uint32_t count);
  void rate(Active& a, const sluice_page_list& list);
  Status store_full_blocks();
  Status seal_full_blocks();
  Status finish_steps();
  Status handle_shortage(std::uint64_t now);
  Status collect_stats();
  void stall(Active& a, std::uint64_t now, const Error& why);

  const SparseTrace& trace_;
  const EngineJob& job_;
  EngineLink& link_;
  EngineBoard& board_;
  const PayloadShape& shape_;
  const std::uint32_t tokens_per_block_;
  Counters counters_;
  std::deque<Waiting> waiting_;
  std::vector<Active> active_;  // in request order
  std::vector<Active*> due_;    // of active_, in this iteration
  PageBatch batch_;
  PageBatch forecast_batch_;
  std::vector<Active*> owner_;  // of each list of batch_
  struct AbsentPage {
    Active* owner;
    std::uint32_t page;
    std::uint32_t block;
  };
  std::vector<AbsentPage> absent_;  // of the layer
  PageBatch again_;
  std::unique_ptr<LayerGraphs> graphs_;
  std::vector<SlotPage> to_write_;
  std::vector<SlotPage> to_compare_;
  struct Place {
    const Active* owner;
    std::uint32_t block;
  };
  std::vector<Place> compared_;  // of to_compare_
  Comparison comparison_;
  std::uint64_t now_ = 0;
  double layer_us_ = 100;  // moving average
  std::string shortage_;   // the last error for lack of memory
  ShortageClock waited_;
};

SparseEngine::SparseEngine(const SparseTrace& trace, const EngineJob& job, EngineLink& link,
                           EngineProgress& progress)
    : trace_(trace),
      job_(job),
      link_(link),
      board_(job.mine()),
      shape_(job.plan->shape.payload),
      tokens_per_block_(trace.block_tokens),
      counters_(progress.counters) {
  if (progress.waiting) {
    waiting_ = std::move(*progress.waiting);
    return;
  }
  for (const std::uint32_t index : job.requests()) {
    waiting_.push_back({index, 0, trace.requests[index].arrive});
  }
}

void SparseEngine::save(EngineProgress& progress) const {
  progress.counters = counters_;
  progress.waiting.emplace();
  for (const Active& a : active_) progress.waiting->push_back({a.index, a.next_step, now_});
  progress.waiting->insert(progress.waiting->end(), waiting_.begin(), waiting_.end());
}

std::unexpected<Error> SparseEngine::located(const Active& a, Error error) const {
  error.text = "request " + std::to_string(a.request->id) + ", step " +
               std::to_string(a.next_step) + ": " + error.text;
  return std::unexpected(std::move(error));
}

std::uint64_t SparseEngine::seed_of(const Active& a, std::uint32_t block) const {
  const std::string_view key = trace_.key_of(*a.request, block);
  if (!key.empty()) return payload_seed(link_.tenant, key);
  // A block that never fills has no key and is nobody else's: any name will do that is its own.
  return payload_seed(link_.tenant, "private/" + std::to_string(job_.engine) + "/" +
                                        std::to_string(a.index) + "/" + std::to_string(block));
}

Status SparseEngine::open_graphs() {
  LayerGraphsShape shape;
  shape.layers = trace_.layers;
  shape.lists_per_layer = trace_.lists_per_layer();
  shape.page_bytes = shape_.page_bytes();
  std::uint64_t iteration = kLeft;
  std::uint32_t sequences = 0;  // of this engine that take a step in the iteration
  for (const SparseStep& step : trace_.steps) {
    if (step.request % job_.options->engines != job_.engine) continue;
    sequences = step.iter == iteration ? sequences + 1 : 1;
    iteration = step.iter;
    shape.sequences = std::max(shape.sequences, sequences);
    for (std::uint32_t page = 0; page < trace_.pages_per_block(); ++page) {
      const std::size_t length = trace_.select(step, page).size();
      shape.longest_list = std::max(shape.longest_list, static_cast<std::uint32_t>(length));
    }
  }
  auto graphs = in_call("graphs", make_layer_graphs(link_.actor, link_.slots->stream(), shape));
  if (!graphs) return std::unexpected(graphs.error());
  graphs_ = std::move(*graphs);
  return {};
}

Status SparseEngine::run() {
  if (job_.options->graphs) {
    if (auto s = open_graphs(); !s) return s;
  }
  now_ = next_iteration(0);
  while (!waiting_.empty() || !active_.empty()) {
    if (job_.board->stopping()) return {};
    if (job_.options->lockstep) {
      if (auto met = job_.board->meet(job_.engine, now_); !met) {
        return std::unexpected(Error{SLUICE_TIMED_OUT, met.error().text});
      }
    }
    if (auto s = admit_arrivals(now_); !s) return s;
    if (auto s = collect_due(now_); !s) return s;
    if (due_.empty()) {
      if (auto s = handle_shortage(now_); !s) return s;
    } else {
      const auto begin = Clock::now();
      if (auto s = iterate(); !s) return s;
      board_.note_step(Clock::now() - begin);
    }
    board_.publish(counters_);
    now_ = next_iteration(now_ + 1);
  }
  return collect_stats();
}

// The next iteration, `from` at least, in which there is something to do.
std::uint64_t SparseEngine::next_iteration(std::uint64_t from) const {
  std::uint64_t next = kLeft;
  for (const Active& a : active_) next = std::min(next, step_of(a).iter + a.delay);
  if (!waiting_.empty()) next = std::min(next, waiting_.front().ready);
  return next == kLeft ? from : std::max(from, next);
}

// In order of arrival: who waits for memory is not overtaken.
// While the daemon is away nobody can be admitted, and who runs goes on.
Status SparseEngine::admit_arrivals(std::uint64_t now) {
  if (!active_.empty() && !waiting_.empty() && waiting_.front().ready <= now &&
      job_.options->executor == Executor::direct) {
    const auto info = in_call("sluice_client_get_info", link_.client.info());
    if (!info) return std::unexpected(info.error());
    if (info->away != 0) return {};
  }
  while (!waiting_.empty() && waiting_.front().ready <= now) {
    const Status admitted = admit(waiting_.front(), now);
    if (admitted) {
      waiting_.pop_front();
      waited_.restart();
      continue;
    }
    if (!is_shortage(admitted.error())) return admitted;
    shortage_ = admitted.error().text;
    ++counters_.memory_waits;
    return {};
  }
  return {};
}

Status SparseEngine::admit(const Waiting& waiting, std::uint64_t now) {
  const SparseRequest& request = trace_.requests[waiting.index];
  const std::uint32_t tokens = request.prompt_tokens + waiting.next_step;
  const std::uint32_t full_blocks = tokens / tokens_per_block_;
  sluice_keys keys{};
  keys.data = request.keys.data();
  keys.key_bytes = trace_.key_bytes;
  keys.count = full_blocks;
  auto opened = in_call("sluice_sequence_open", link_.cache.open_sequence(keys));

  if (!opened) {
    opened.error().text = "request " + std::to_string(request.id) + ": " + opened.error().text;
    return std::unexpected(opened.error());
  }
  Active a{waiting.index,
           &request,
           std::move(opened->sequence),
           waiting.next_step,
           0,
           full_blocks,
           {},
           {},
           0,
           {}};
  const SparseStep& step = step_of(a);
  a.delay = now > step.iter ? now - step.iter : 0;
  const std::uint32_t final_blocks = trace_.final_blocks(request);
  for (std::uint32_t block = 0; block < final_blocks; ++block) a.seeds.push_back(seed_of(a, block));
  const std::uint32_t prompt_blocks =
      (request.prompt_tokens + tokens_per_block_ - 1) / tokens_per_block_;
  a.decode_seen.resize(std::size_t{final_blocks - prompt_blocks} * trace_.pages_per_block());

  if (auto s = link_.wait_pinned(); !s) return located(a, s.error());
  if (auto s = prefill(a, opened->matched_blocks, full_blocks); !s) return located(a, s.error());
  if (tokens % tokens_per_block_ != 0) {
    if (auto first = extend(a, 1); !first) return located(a, first.error());
    ++a.blocks;
  }
  counters_.blocks_opened += full_blocks;
  counters_.blocks_matched += opened->matched_blocks;
  const auto place = std::find_if(active_.begin(), active_.end(),
                                  [&](const Active& other) { return other.index > a.index; });
  active_.insert(place, std::move(a));
  return {};
}

client::Result<std::uint32_t> SparseEngine::extend(Active& a, std::uint32_t count) {
  auto first = in_call("sluice_sequence_extend", a.sequence.extend(count));
  if (!first) return first;
  if (auto s = link_.wait_pinned(); !s) return std::unexpected(s.error());
  return first;
}

// Writes what is not known yet of the first `full_blocks` blocks, and seals it.
Status SparseEngine::prefill(Active& a, std::uint32_t matched, std::uint32_t full_blocks) {
  for (std::uint32_t begin = matched; begin < full_blocks;) {
    const std::uint32_t count = std::min(job_.plan->prefill_chunk, full_blocks - begin);
    const auto first = extend(a, count);
    if (!first) return std::unexpected(first.error());
    if (*first != begin) {
      return std::unexpected(Error{
          SLUICE_INTERNAL, "sluice_sequence_extend: the first new block is " +
                               std::to_string(*first) + ", expected " + std::to_string(begin)});
    }
    for (std::uint32_t block = begin; block < begin + count; ++block) {
      const auto frame = in_call("sluice_block_map", a.sequence.map(block));
      if (!frame) return std::unexpected(frame.error());
      for (std::uint32_t page = 0; page < shape_.pages_per_block; ++page) {
        write_page(shape_, a.seeds[block], page, 0, tokens_per_block_,
                   frame->data() + page * shape_.page_bytes());
      }
      const std::string_view key = trace_.key_of(*a.request, block);
      const auto sealed =
          in_call("sluice_seal", a.sequence.seal(block, std::as_bytes(std::span(key))));
      if (!sealed) return std::unexpected(sealed.error());
      counters_.bytes_written += shape_.block_bytes();
      counters_.blocks_deduplicated += *sealed ? 1 : 0;
      ++counters_.blocks_sealed;
    }
    begin += count;
  }
  return link_.wait_pinned();  // what took the place of a block may lie in another extent
}

// Who takes a step now: everybody whose turn it is and who has a block for the new token.
Status SparseEngine::collect_due(std::uint64_t now) {
  due_.clear();
  for (Active& a : active_) {
    if (step_of(a).iter + a.delay > now) continue;
    if (new_token_block(a) == a.blocks) {
      const auto first = extend(a, 1);
      if (!first) {
        if (!is_shortage(first.error())) return located(a, first.error());
        stall(a, now, first.error());
        continue;
      }
      ++a.blocks;
      a.tail_tokens = 0;
    }
    due_.push_back(&a);
  }
  return {};
}

void SparseEngine::stall(Active& a, std::uint64_t now, const Error& why) {
  a.delay = now + 1 - step_of(a).iter;
  shortage_ = why.text;
  ++counters_.memory_waits;
}

Status SparseEngine::iterate() {
  if (auto s = in_call("sluice_step_begin", link_.actor.begin_step()); !s) return s;
  if (auto s = write_new_tokens(now_); !s) return s;
  if (!due_.empty()) {
    for (std::uint32_t layer = 0; layer < trace_.layers; ++layer) {
      const auto begin = Clock::now();
      if (auto s = forecast_layer(layer + 1); !s) return s;
      if (auto s = resolve_layer(layer); !s) return s;
      const std::chrono::duration<double, std::micro> took = Clock::now() - begin;
      layer_us_ += (took.count() - layer_us_) / 16;
    }
    if (auto s = seal_full_blocks(); !s) return s;
  }
  if (auto s = in_call("sluice_step_end", link_.actor.end_step()); !s) return s;
  return finish_steps();
}

Status SparseEngine::write_new_tokens(std::uint64_t now) {
  std::vector<Active*> written;
  to_write_.clear();
  for (Active* const a : due_) {
    const std::uint32_t block = new_token_block(*a);
    if (a->tail_slots.empty()) {
      a->tail_slots.resize(shape_.pages_per_block);
      const auto pinned =
          in_call("sluice_block_pin", a->sequence.pin(block, link_.actor, a->tail_slots));
      if (!pinned) {
        a->tail_slots.clear();
        if (pinned.error().code != SLUICE_NO_SLOT && !is_shortage(pinned.error())) {
          return located(*a, pinned.error());
        }
        stall(*a, now, pinned.error());
        continue;
      }
    }
    const std::uint32_t end = (step_of(*a).tokens - 1) % tokens_per_block_ + 1;
    for (std::uint32_t page = 0; page < shape_.pages_per_block; ++page) {
      const std::int32_t slot = a->tail_slots[page];
      if (!link_.is_slot(slot)) {
        return located(*a, Error{SLUICE_INTERNAL, "sluice_block_pin gave the impossible slot " +
                                                      std::to_string(slot)});
      }
      to_write_.push_back({a->seeds[block], slot, page, a->tail_tokens, end});
    }
    a->tail_tokens = end;
    written.push_back(a);
  }
  due_ = std::move(written);
  if (auto s = link_.slots->write(to_write_); !s) return s;
  return store_full_blocks();
}

// Behind what was written in the same stream, so that the seals wait for nothing else. The daemon's
// executor copies at once instead, which is left to the seal.
Status SparseEngine::store_full_blocks() {
  if (job_.options->executor == Executor::daemon) return {};
  for (Active* const a : due_) {
    if (a->tail_tokens != tokens_per_block_) continue;
    const auto stored =
        in_call("sluice_block_store", a->sequence.store(new_token_block(*a), link_.actor));
    if (!stored) return located(*a, stored.error());
  }
  return {};
}

Status SparseEngine::resolve_layer(std::uint32_t layer) {
  const std::uint32_t lists = trace_.lists_per_layer();
  batch_.clear();
  owner_.clear();
  for (Active* const a : due_) {
    for (std::uint32_t page = layer * lists; page < (layer + 1) * lists; ++page) {
      if (batch_.add(a->sequence.get(), page, trace_.select(step_of(*a), page)))
        owner_.push_back(a);
    }
  }
  batch_.place_answers();
  const auto begin = Clock::now();
  const auto counts = resolve(layer, batch_);
  const auto took = Clock::now() - begin;
  if (!counts) {
    Error error = counts.error();
    error.text = "iteration " + std::to_string(now_) + ", layer " + std::to_string(layer) + ", " +
                 std::to_string(batch_.pages()) + " pages: " + error.text;
    return std::unexpected(error);
  }
  board_.resolve.add(static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(took).count()));

  for (std::size_t i = 0; i < batch_.lists().size(); ++i) rate(*owner_[i], batch_.lists()[i]);
  counters_.pages_requested += batch_.pages();
  absent_.clear();
  if (auto s = check_answers(batch_, owner_, *counts); !s) return s;
  return resolve_absent();
}

client::Result<client::ResolveCounts> SparseEngine::resolve(std::uint32_t layer,
                                                            const PageBatch& batch) {
  if (graphs_ != nullptr) {
    return in_call("the graph of a layer", graphs_->resolve(layer, batch.lists()));
  }
  if (!waits_for_store()) return in_call("sluice_resolve", link_.actor.resolve(batch.lists()));
  return resolve_wait(batch);
}

client::Result<client::ResolveCounts> SparseEngine::resolve_wait(const PageBatch& batch) {
  return in_call("sluice_resolve_wait", link_.actor.resolve_wait(batch.lists(), kStoreWaitUs));
}

// What did not come within a wait comes when the step is over: blocks that it may still read keep
// their place in DRAM until then.
Status SparseEngine::resolve_absent() {
  for (int steps = 0; !absent_.empty(); ++steps) {
    if (steps == kMaxStepsForStore) {
      return std::unexpected(Error{SLUICE_TIMED_OUT, std::to_string(absent_.size()) +
                                                         " pages of a layer did not come from the "
                                                         "block store"});
    }
    if (auto s = in_call("sluice_step_end", link_.actor.end_step()); !s) return s;
    if (auto s = in_call("sluice_step_begin", link_.actor.begin_step()); !s) return s;
    ++counters_.steps_for_store;
    counters_.absent -= absent_.size();
    const std::vector<AbsentPage> asked = std::exchange(absent_, {});
    std::vector<std::uint32_t> blocks;
    blocks.reserve(asked.size());
    for (const AbsentPage& page : asked) blocks.push_back(page.block);
    again_.clear();
    std::vector<Active*> owners;
    for (std::size_t at = 0; at < asked.size();) {
      std::size_t end = at;
      while (end < asked.size() && asked[end].owner == asked[at].owner &&
             asked[end].page == asked[at].page) {
        ++end;
      }
      again_.add(asked[at].owner->sequence.get(), asked[at].page,
                 std::span(blocks).subspan(at, end - at));
      owners.push_back(asked[at].owner);
      at = end;
    }
    again_.place_answers();
    const auto counts = resolve_wait(again_);
    if (!counts) return std::unexpected(counts.error());
    if (auto s = check_answers(again_, owners, *counts); !s) return s;
  }
  return {};
}

Status SparseEngine::check_answers(const PageBatch& batch, std::span<Active* const> owners,
                                   const client::ResolveCounts& counts) {
  const Counters before = counters_;
  to_compare_.clear();
  compared_.clear();
  for (std::size_t i = 0; i < batch.lists().size(); ++i) {
    const sluice_page_list& list = batch.lists()[i];
    for (std::uint32_t position = 0; position < list.count; ++position) {
      if (auto s = check_page(*owners[i], list, position); !s) {
        return located(*owners[i], s.error());
      }
    }
  }
  if (auto s = compare(); !s) return s;
  counters_.bytes_filled += counts.bytes_filled;
  if (counters_.hits - before.hits != counts.hits ||
      counters_.misses - before.misses != counts.misses ||
      counters_.no_slot - before.no_slot != counts.no_slot ||
      counters_.absent - before.absent != counts.absent) {
    return std::unexpected(Error{
        SLUICE_INTERNAL, "sluice_resolve: the counts disagree with the pages' outcomes: " +
                             std::to_string(counts.hits) + "/" + std::to_string(counts.misses) +
                             "/" + std::to_string(counts.no_slot) + "/" +
                             std::to_string(counts.absent) + " hits/misses/no_slot/absent"});
  }
  return {};
}

Status SparseEngine::check_page(Active& a, const sluice_page_list& list, std::uint32_t position) {
  const std::uint32_t block = list.blocks[position];
  const std::int32_t slot = list.slots[position];
  const std::uint8_t outcome = list.outcomes[position];
  const bool has_slot = outcome == SLUICE_HIT || outcome == SLUICE_MISS;
  const std::uint8_t last = waits_for_store() ? SLUICE_LOST : SLUICE_NO_ROOM;
  if (outcome > last || has_slot != link_.is_slot(slot) || (!has_slot && slot != -1)) {
    return std::unexpected(Error{
        SLUICE_INTERNAL, "sluice_resolve: page " + std::to_string(list.page) + " of block " +
                             std::to_string(block) + " has outcome " + std::to_string(outcome) +
                             " with the impossible slot " + std::to_string(slot)});
  }
  counters_.hits += outcome == SLUICE_HIT ? 1 : 0;
  counters_.misses += outcome == SLUICE_MISS ? 1 : 0;
  counters_.no_slot += outcome == SLUICE_NO_ROOM ? 1 : 0;
  counters_.absent += outcome == SLUICE_ABSENT || outcome == SLUICE_LOST ? 1 : 0;
  counters_.lost += outcome == SLUICE_LOST ? 1 : 0;
  if (outcome == SLUICE_ABSENT) absent_.push_back({&a, list.page, block});
  if (!has_slot) return {};
  const std::uint32_t tokens =
      std::min(step_of(a).tokens - block * tokens_per_block_, tokens_per_block_);
  to_compare_.push_back({a.seeds[block], slot, list.page, 0, tokens});
  compared_.push_back({&a, block});
  ++counters_.verified_pages;
  counters_.verified_bytes += std::uint64_t{tokens} * shape_.row_bytes * shape_.groups_per_page;
  return {};
}

Status SparseEngine::compare() {
  if (auto s = in_call("comparing slots", link_.slots->compare(to_compare_, comparison_)); !s) {
    return s;
  }
  counters_.mismatches += comparison_.different;
  for (const Difference& at : comparison_.places) {
    const SlotPage& page = to_compare_[at.index];
    const Active& a = *compared_[at.index].owner;
    board_.record(
        {a.request->id, a.next_step, page.page, compared_[at.index].block, page.slot, at.offset});
  }
  return {};
}

// The reference leaves out a request's first step, which fills the buffer, and the first use of
// what decode made, which nobody could have kept.
void SparseEngine::rate(Active& a, const sluice_page_list& list) {
  const std::uint32_t first_decode =
      (a.request->prompt_tokens + tokens_per_block_ - 1) / tokens_per_block_;
  for (std::uint32_t position = 0; position < list.count; ++position) {
    const std::uint32_t block = list.blocks[position];
    if (block >= first_decode) {
      auto seen =
          a.decode_seen[std::size_t{block - first_decode} * trace_.pages_per_block() + list.page];
      if (!seen) {
        seen = true;
        continue;
      }
    }
    if (a.next_step == 0) continue;
    ++counters_.rated_pages;
    counters_.rated_hits += list.outcomes[position] == SLUICE_HIT ? 1 : 0;
  }
}

Status SparseEngine::forecast_layer(std::uint32_t layer) {
  const Forecast mode = job_.options->forecast;
  if (mode == Forecast::none || layer >= trace_.layers) return {};
  const std::uint32_t lists = trace_.lists_per_layer();
  forecast_batch_.clear();
  for (const Active* const a : due_) {
    if (mode == Forecast::previous_step && a->next_step == 0) continue;
    for (std::uint32_t page = layer * lists; page < (layer + 1) * lists; ++page) {
      const auto blocks = mode == Forecast::recorded
                              ? trace_.forecast(step_of(*a), page)
                              : trace_.select(trace_.step_of(*a->request, a->next_step - 1), page);
      forecast_batch_.add(a->sequence.get(), page, blocks);
    }
  }
  if (forecast_batch_.lists().empty()) return {};
  if (auto s = in_call("sluice_step_begin", link_.forecaster.begin_step()); !s) return s;
  const auto forecast = in_call(
      "sluice_forecast",
      link_.forecaster.forecast(forecast_batch_.lists(), static_cast<std::uint64_t>(layer_us_) + 1,
                                kForecastConfidence));
  if (!forecast) return forecast;
  return in_call("sluice_step_end", link_.forecaster.end_step());
}

// Whoever resolves in a stream of its own copies what is there when it is asked to.
Status SparseEngine::seal_full_blocks() {
  if (job_.options->executor == Executor::daemon) {
    if (auto s = link_.slots->settle(); !s) return s;
  }
  for (Active* const a : due_) {
    if (a->tail_tokens != tokens_per_block_) continue;
    const std::uint32_t block = new_token_block(*a);
    const std::string_view key = trace_.key_of(*a->request, block);
    const auto sealed = in_call(
        "sluice_seal", a->sequence.seal(block, std::as_bytes(std::span(key)), &link_.actor));
    if (!sealed) return located(*a, sealed.error());
    // The block that took its place may lie in an extent of another engine's.
    if (*sealed) {
      if (auto s = link_.wait_pinned(); !s) return located(*a, s.error());
    }
    counters_.blocks_deduplicated += *sealed ? 1 : 0;
    ++counters_.blocks_sealed;
    counters_.bytes_written += shape_.block_bytes();
    a->tail_slots.clear();
    a->tail_tokens = 0;
  }
  return {};
}

Status SparseEngine::finish_steps() {
  if (!due_.empty()) waited_.restart();
  for (Active* const a : due_) {
    ++a->next_step;
    ++counters_.steps;
  }
  due_.clear();
  for (Active& a : active_) {
    if (a.next_step < a.request->steps) continue;
    if (auto s = in_call("sluice_sequence_release", a.sequence.release()); !s)
      return located(a, s.error());
    ++counters_.requests_done;
  }
  std::erase_if(active_, [](const Active& a) { return a.next_step >= a.request->steps; });
  return {};
}

// Nobody could take a step. Either nobody is due yet, or memory is short: then wait, and after a
// while give up the youngest request, which comes back when there is room. Engines do so one after
// another, so that those that hold a part each do not all give up at once.
Status SparseEngine::handle_shortage(std::uint64_t now) {
  const bool short_of_memory =
      (!waiting_.empty() && waiting_.front().ready <= now) ||
      std::any_of(active_.begin(), active_.end(), [](const Active& a) { return a.delay > 0; });
  if (!short_of_memory) {
    waited_.restart();
    return {};
  }
  if (waited_.for_any_engine(*job_.board) > kShortageTimeout) {
    return std::unexpected(Error{SLUICE_TIMED_OUT, "no request could go on for " +
                                                       std::to_string(kShortageTimeout.count()) +
                                                       " ms for lack of memory: " + shortage_});
  }
  if (waited_.for_this_engine() > kPreemptAfter * (job_.engine + 1) && !active_.empty()) {
    Active& youngest = active_.back();
    if (auto s = in_call("sluice_sequence_release", youngest.sequence.release()); !s) {
      return located(youngest, s.error());
    }
    waiting_.push_front({youngest.index, youngest.next_step, now + 1});
    active_.pop_back();
    ++counters_.preemptions;
    waited_.restart();
  }
  std::this_thread::sleep_for(kShortagePause);
  return {};
}

Status SparseEngine::collect_stats() {
  const auto stats = in_call("sluice_cache_get_stats", link_.cache.stats());
  if (!stats) return std::unexpected(stats.error());
  counters_.forecast_issued = stats->forecast_issued;
  counters_.forecast_used = stats->forecast_used;
  counters_.forecast_late = stats->forecast_late;
  counters_.forecast_wasted_bytes = stats->forecast_wasted_bytes;
  board_.publish(counters_);
  return {};
}

}  // namespace

Status run_sparse_engine(const SparseTrace& trace, const EngineJob& job, EngineLink& link,
                         EngineProgress& progress) {
  SparseEngine engine(trace, job, link, progress);
  Status status = engine.run();
  if (!status) engine.save(progress);
  return status;
}

}  // namespace sluice::tools
