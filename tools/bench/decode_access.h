// Which blocks each layer of each sequence reads in each step of `sluice-bench decode`: those of a
// sparse trace, spread over a model of another shape.
//
// The lists are those of the trace's layers, heads united. Model layer l plays trace layer l mod L
// of L. *Players* are numbered through: sequence s plays player s in the first L layers, player s +
// sequences in the L layers after them, and so on. Player p plays request p mod R of R. Players of
// the same request begin at different steps of it, evenly spread so that all end before it does. A
// request that is shorter than what is played is played backwards behind its last step, and
// forwards again behind its first one; its players are kPlayerShift steps ahead of each other.
// Block b of a request that ends with N blocks is block b * B / N of a sequence of B: counts and
// reuse are the trace's, unless N is more than B, where blocks fall together.
//
// Thread-safety: const calls by any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ipc/error.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

inline constexpr std::uint32_t kDecodeBlockTokens = 16;
inline constexpr std::uint32_t kPlayerShift = 37;

struct DecodeShape {
  std::uint32_t sequences = 0;
  std::uint32_t layers = 0;
  std::uint32_t blocks = 0;  // of a sequence
  std::uint32_t steps = 0;   // that are played
};

class DecodeAccess {
 public:
  // Errors: invalid_argument for a trace without sparse steps, or with blocks of another size.
  static ipc::Result<DecodeAccess> read(const std::string& path, const DecodeShape& shape);
  static DecodeAccess make_up(const DecodeShape& shape);
  DecodeAccess(SparseTrace trace, const DecodeShape& shape);

  // Ascending and distinct.
  std::vector<std::uint32_t> reads(std::uint32_t step, std::uint32_t layer,
                                   std::uint32_t sequence) const;
  // What was forecast about `reads`; if the trace has no forecasts, what the layer read in the step
  // before.
  std::vector<std::uint32_t> forecast(std::uint32_t step, std::uint32_t layer,
                                      std::uint32_t sequence) const;
  bool has_forecasts() const { return has_forecasts_; }
  // Blocks that no list exceeds.
  std::uint32_t longest_list() const { return longest_list_; }
  // Pages that all layers of all sequences read in a step, on average over the first `steps`.
  double pages_per_step(std::uint32_t steps) const;
  bool folds() const { return folds_; }  // some request has more blocks than a sequence
  const std::string& name() const { return trace_.name; }
  const DecodeShape& shape() const { return shape_; }

 private:
  struct Played {
    const SparseRequest& request;
    std::uint32_t step;
    std::uint32_t layer;  // of the trace
  };
  Played played(std::uint32_t step, std::uint32_t layer, std::uint32_t sequence) const;
  std::vector<std::uint32_t> mapped(const SparseRequest& request,
                                    std::span<const std::uint32_t> blocks) const;

  SparseTrace trace_;
  DecodeShape shape_;
  bool has_forecasts_ = false;
  bool folds_ = false;
  std::uint32_t longest_list_ = 0;
};

// A trace with the mean list, the reuse and the forecasts of smollm2_quest_b16 (its figures stand
// in the .cpp), for machines that do not have it.
SparseTrace made_up_trace(std::uint32_t blocks);

}  // namespace sluice::tools
