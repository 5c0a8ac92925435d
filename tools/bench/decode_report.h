// What `sluice-bench decode` says about a configuration, for programs and for people. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/bench/gpu_report.h"
#include "tools/bench/measure.h"

namespace sluice::tools {

enum class DecodeHome : std::uint8_t {
  all_in_hbm,   // at the whole batch
  fits_in_hbm,  // at the batch whose KV fits into the HBM that Sluice was given
  sluice
};

struct DecodeRun {
  DecodeHome home = DecodeHome::all_in_hbm;
  double hbm_factor = 0;  // of the pages of a step; 0: of all_in_hbm
  bool forecasts = false;
  std::uint32_t sequences = 0;
  std::uint64_t hbm_bytes = 0;  // of KV
  std::string note;             // or empty
  Series step_us;
  double attention_us = 0;  // alone, of a step, as the following
  double matrix_us = 0;
  // Of Sluice. Pages are of a step, on average.
  double resolve_us = 0;       // alone, with the misses of the trace and no forecasts
  double resolve_hits_us = 0;  // alone, without misses
  double hits = 0;
  double misses = 0;
  double without_slot = 0;
  double forecast_issued = 0;
  double forecast_used = 0;
  double forecast_dropped = 0;  // for lack of budget or of spare slots
  double page_bytes = 0;
  double copy_only_gb_per_s = 0;

  double tokens_per_s() const;
  double bytes_swapped() const { return (misses + forecast_issued) * page_bytes; }
  double hit_rate() const { return hits / (hits + misses + without_slot); }
  double gb_per_s() const;    // over the link, during a step
  double link_share() const;  // of the copy-only rate
};

// What a run is compared with; null where that could not run.
struct DecodeAgainst {
  const DecodeRun* all_in_hbm = nullptr;
  const DecodeRun* fits_in_hbm = nullptr;
};
DecodeAgainst against(const DecodeRun& run, const std::vector<DecodeRun>& all);

// {bench: "decode", name, ...}; ratios: time of a step over that of all_in_hbm, tokens per second
// over those of fits_in_hbm of the same factor.
GpuRow decode_row(const DecodeRun& run, const DecodeAgainst& others);

// All of them, one line each under a heading.
std::string decode_table(const std::vector<DecodeRun>& runs);

}  // namespace sluice::tools
