// sluice-bench decode: a decode step end to end, with its KV in Sluice and all in HBM.
//
// A loop of the shape of an 8B model with sparse attention: per layer the matrix work, the resolve
// of the pages that the layer reads of each sequence, and attention over their slots. Its time
// stands beside that of the same loop with all KV in HBM, at the same batch and at the batch that
// fits into the HBM that Sluice was given.
//
// Thread-safety: one thread, in a process that has not used CUDA yet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice::tools {

enum class MatrixChoice : std::uint8_t { automatic, cublas, stand_in };
enum class ForecastPriority : std::uint8_t { high, low };

struct DecodeOptions {
  std::string trace;  // empty: made up, with the figures of a recorded one
  std::uint32_t sequences = 64;
  std::uint32_t tokens = 8192;  // of a sequence
  std::uint32_t layers = 32;
  std::vector<double> hbm_factors = {1.5, 2};  // HBM for KV, in pages of a step
  std::uint32_t steps = 64;                    // that are timed
  std::uint32_t warm_steps = 32;               // before them
  MatrixChoice matrix = MatrixChoice::automatic;
  ForecastPriority forecast_priority = ForecastPriority::high;
  std::uint64_t forecast_budget = 0;  // bytes per layer; 0: what the link moves beside its work
  bool json = false;
  std::string sluiced;  // the program of the private daemons; empty: beside this one
};

// Runs and prints. Returns an exit code of options.h: kBenchUnreachable without a GPU, or in a
// build without CUDA.
int run_decode(const DecodeOptions& options);

}  // namespace sluice::tools
