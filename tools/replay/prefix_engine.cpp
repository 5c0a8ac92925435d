#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include "tools/replay/engine.h"
#include "tools/replay/page_batch.h"
#include "tools/replay/shortage.h"

namespace sluice::tools {
namespace {

using client::Error;
using client::Status;
using Clock = std::chrono::steady_clock;

class PrefixEngine {
 public:
  PrefixEngine(const PrefixTrace& trace, const EngineJob& job, EngineLink& link,
               EngineProgress& progress)
      : progress_(progress),
        counters_(progress.counters),
        trace_(trace),
        job_(job),
        link_(link),
        board_(job.mine()),
        shape_(job.plan->shape.payload) {}
  Status run();

 private:
  Status serve(const PrefixRequest& request);
  Status verify(const PrefixRequest& request, client::Sequence& sequence, std::uint32_t matched);
  bool waits_for_store() const { return !job_.options->nvme.empty(); }
  Status verify_absent(const PrefixRequest& request, client::Sequence& sequence);
  void rate(std::uint8_t outcome);
  Status check_page(const PrefixRequest& request, const sluice_page_list& list,
                    std::uint32_t position);
  Status compare(const PrefixRequest& request);
  Status write_rest(const PrefixRequest& request, client::Sequence& sequence,
                    std::uint32_t matched);

  std::string_view key_of(const PrefixRequest& request, std::uint32_t block) const {
    return {reinterpret_cast<const char*>(&request.block_ids[block]), sizeof(std::uint64_t)};
  }
  std::uint64_t seed_of(const PrefixRequest& request, std::uint32_t block) const {
    return payload_seed(link_.tenant, key_of(request, block));
  }
  // Tokens of a block: fewer in the last one.
  static std::uint32_t tokens_of(const PrefixRequest& request, std::uint32_t block) {
    return std::min(request.input_tokens - block * PrefixTrace::kBlockTokens,
                    PrefixTrace::kBlockTokens);
  }

  EngineProgress& progress_;
  Counters& counters_;  // of progress_
  const PrefixTrace& trace_;
  const EngineJob& job_;
  EngineLink& link_;
  EngineBoard& board_;
  const PayloadShape& shape_;
  PageBatch batch_;
  std::vector<std::uint32_t> blocks_;
  std::vector<SlotPage> to_compare_;
  std::vector<std::uint32_t> compared_blocks_;  // of the same length
  std::vector<std::uint32_t> absent_;
  Comparison comparison_;
};

Status PrefixEngine::run() {
  for (; progress_.next_request < job_.requests().size(); ++progress_.next_request) {
    const std::uint32_t index = job_.requests()[progress_.next_request];
    const std::uint64_t round = progress_.next_request;
    if (job_.board->stopping()) return {};
    if (job_.options->lockstep) {
      if (auto met = job_.board->meet(job_.engine, round); !met) {
        return std::unexpected(Error{SLUICE_TIMED_OUT, met.error().text});
      }
    }
    ShortageClock waited;
    for (;;) {
      const Status served = serve(trace_.requests[index]);
      if (served) break;
      // The sequence is gone already; what other engines hold may become free.
      if (is_shortage(served.error()) && waited.for_any_engine(*job_.board) < kShortageTimeout) {
        ++counters_.memory_waits;
        std::this_thread::sleep_for(kShortagePause);
        continue;
      }
      Error error = served.error();
      error.text = "request " + std::to_string(trace_.requests[index].id) + ": " + error.text;
      return std::unexpected(error);
    }
    ++counters_.requests_done;
    board_.publish(counters_);
  }
  board_.publish(counters_);
  return {};
}

Status PrefixEngine::serve(const PrefixRequest& request) {
  sluice_keys keys{};
  keys.data = request.block_ids.data();
  keys.key_bytes = sizeof(std::uint64_t);
  keys.count = request.block_ids.size();
  auto opened = in_call("sluice_sequence_open", link_.cache.open_sequence(keys));
  if (!opened) return std::unexpected(opened.error());
  if (auto s = link_.wait_pinned(); !s) return s;
  if (opened->matched_blocks > 0) {
    if (auto s = verify(request, opened->sequence, opened->matched_blocks); !s) return s;
  }
  if (auto s = write_rest(request, opened->sequence, opened->matched_blocks); !s) return s;
  counters_.blocks_opened += request.block_ids.size();
  counters_.blocks_matched += opened->matched_blocks;
  return in_call("sluice_sequence_release", opened->sequence.release());
}

Status PrefixEngine::verify(const PrefixRequest& request, client::Sequence& sequence,
                            std::uint32_t matched) {
  blocks_.resize(matched);
  std::iota(blocks_.begin(), blocks_.end(), 0u);
  batch_.clear();
  batch_.add(sequence.get(), 0, blocks_);
  batch_.place_answers();
  if (auto s = in_call("sluice_step_begin", link_.actor.begin_step()); !s) return s;
  const auto begin = Clock::now();
  const auto counts =
      waits_for_store()
          ? in_call("sluice_resolve_wait", link_.actor.resolve_wait(batch_.lists(), kStoreWaitUs))
          : in_call("sluice_resolve", link_.actor.resolve(batch_.lists()));
  const auto took = Clock::now() - begin;
  if (!counts) return std::unexpected(counts.error());
  board_.resolve.add(static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(took).count()));
  to_compare_.clear();
  compared_blocks_.clear();
  absent_.clear();
  for (std::uint32_t block = 0; block < matched; ++block) {
    if (auto s = check_page(request, batch_.lists()[0], block); !s) return s;
    rate(batch_.lists()[0].outcomes[block]);
  }
  if (auto s = compare(request); !s) return s;
  if (auto s = verify_absent(request, sequence); !s) return s;
  counters_.pages_requested += matched;
  counters_.bytes_filled += counts->bytes_filled;
  ++counters_.steps;
  return in_call("sluice_step_end", link_.actor.end_step());
}

// As SparseEngine's resolve_absent.
Status PrefixEngine::verify_absent(const PrefixRequest& request, client::Sequence& sequence) {
  for (int steps = 0; !absent_.empty(); ++steps) {
    if (steps == kMaxStepsForStore) {
      return std::unexpected(Error{SLUICE_TIMED_OUT, std::to_string(absent_.size()) +
                                                         " blocks did not come from the block "
                                                         "store"});
    }
    if (auto s = in_call("sluice_step_end", link_.actor.end_step()); !s) return s;
    if (auto s = in_call("sluice_step_begin", link_.actor.begin_step()); !s) return s;
    ++counters_.steps_for_store;
    counters_.absent -= absent_.size();
    const std::vector<std::uint32_t> asked = std::exchange(absent_, {});
    batch_.clear();
    batch_.add(sequence.get(), 0, asked);
    batch_.place_answers();
    const auto counts =
        in_call("sluice_resolve_wait", link_.actor.resolve_wait(batch_.lists(), kStoreWaitUs));
    if (!counts) return std::unexpected(counts.error());
    counters_.bytes_filled += counts->bytes_filled;
    to_compare_.clear();
    compared_blocks_.clear();
    for (std::uint32_t i = 0; i < asked.size(); ++i) {
      if (auto s = check_page(request, batch_.lists()[0], i); !s) return s;
    }
    if (auto s = compare(request); !s) return s;
  }
  return {};
}

void PrefixEngine::rate(std::uint8_t outcome) {
  ++counters_.rated_pages;
  counters_.rated_hits += outcome == SLUICE_HIT ? 1 : 0;
}

Status PrefixEngine::check_page(const PrefixRequest& request, const sluice_page_list& list,
                                std::uint32_t position) {
  const std::uint32_t block = list.blocks[position];
  const std::int32_t slot = list.slots[position];
  const std::uint8_t outcome = list.outcomes[position];
  const bool has_slot = outcome == SLUICE_HIT || outcome == SLUICE_MISS;
  const std::uint8_t last = waits_for_store() ? SLUICE_LOST : SLUICE_NO_ROOM;
  if (outcome > last || has_slot != link_.is_slot(slot) || (!has_slot && slot != -1)) {
    return std::unexpected(Error{SLUICE_INTERNAL, "sluice_resolve: block " + std::to_string(block) +
                                                      " has outcome " + std::to_string(outcome) +
                                                      " with the impossible slot " +
                                                      std::to_string(slot)});
  }
  counters_.hits += outcome == SLUICE_HIT ? 1 : 0;
  counters_.misses += outcome == SLUICE_MISS ? 1 : 0;
  counters_.no_slot += outcome == SLUICE_NO_ROOM ? 1 : 0;
  counters_.absent += outcome == SLUICE_ABSENT || outcome == SLUICE_LOST ? 1 : 0;
  counters_.lost += outcome == SLUICE_LOST ? 1 : 0;
  if (outcome == SLUICE_ABSENT) absent_.push_back(block);
  if (!has_slot) return {};
  const std::uint32_t tokens = tokens_of(request, block);
  to_compare_.push_back({seed_of(request, block), slot, 0, 0, tokens});
  compared_blocks_.push_back(block);
  ++counters_.verified_pages;
  counters_.verified_bytes += std::uint64_t{tokens} * shape_.row_bytes;
  return {};
}

Status PrefixEngine::compare(const PrefixRequest& request) {
  if (auto s = link_.slots->compare(to_compare_, comparison_); !s) return s;
  counters_.mismatches += comparison_.different;
  for (const Difference& at : comparison_.places) {
    board_.record(
        {request.id, 0, 0, compared_blocks_[at.index], to_compare_[at.index].slot, at.offset});
  }
  return {};
}

Status PrefixEngine::write_rest(const PrefixRequest& request, client::Sequence& sequence,
                                std::uint32_t matched) {
  const auto blocks = static_cast<std::uint32_t>(request.block_ids.size());
  for (std::uint32_t begin = matched; begin < blocks;) {
    const std::uint32_t count = std::min(job_.plan->prefill_chunk, blocks - begin);
    const auto first = in_call("sluice_sequence_extend", sequence.extend(count));
    if (!first) return std::unexpected(first.error());
    if (auto s = link_.wait_pinned(); !s) return s;
    for (std::uint32_t block = begin; block < begin + count; ++block) {
      const auto frame = in_call("sluice_block_map", sequence.map(block));
      if (!frame) return std::unexpected(frame.error());
      const std::uint32_t tokens = tokens_of(request, block);
      write_page(shape_, seed_of(request, block), 0, 0, tokens, frame->data());
      const std::uint64_t valid_bytes =
          tokens == PrefixTrace::kBlockTokens ? 0 : std::uint64_t{tokens} * shape_.row_bytes;
      const auto sealed = in_call(
          "sluice_seal", sequence.seal(block, std::as_bytes(std::span(key_of(request, block))),
                                       nullptr, valid_bytes));
      if (!sealed) return std::unexpected(sealed.error());
      counters_.bytes_written += std::uint64_t{tokens} * shape_.row_bytes;
      counters_.blocks_deduplicated += *sealed ? 1 : 0;
      ++counters_.blocks_sealed;
    }
    begin += count;
  }
  return {};
}

}  // namespace

Status run_prefix_engine(const PrefixTrace& trace, const EngineJob& job, EngineLink& link,
                         EngineProgress& progress) {
  return PrefixEngine(trace, job, link, progress).run();
}

}  // namespace sluice::tools
