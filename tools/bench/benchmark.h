// What a benchmark is: a figure of Sluice, a ceiling that no implementation on this machine can
// beat, and what the figure should be.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ipc/error.h"
#include "tools/bench/measure.h"

namespace sluice::tools {

// Where and how long to measure.
struct Setting {
  std::string socket;   // of an existing daemon; empty: a private one per benchmark
  std::string sluiced;  // the program of the private one
  double seconds = 2;   // of measuring, per benchmark
  double scale = 1;     // part of the blocks and pages that the benchmark is defined for
};

struct Figures {
  Series value;
  Series ceiling;
  std::vector<std::pair<std::string, Series>> also;  // further figures in the same unit
  std::string note = {};                             // what was different from the definition
};

// Bounds of the median value and of the ratio; none: a figure to look at.
struct Target {
  std::optional<double> most_value = std::nullopt;
  std::optional<double> least_value = std::nullopt;
  std::optional<double> most_ratio = std::nullopt;
  std::optional<double> least_ratio = std::nullopt;

  bool any() const { return most_value || least_value || most_ratio || least_ratio; }
};

struct Benchmark {
  const char* name;
  const char* unit;
  const char* measures;    // for --help: what the value is
  const char* ceiling_is;  // and what the ceiling
  Target target;
  ipc::Result<Figures> (*run)(const Setting&);
};

// All of them, in the order in which they run.
std::span<const Benchmark> benchmarks();

// nullptr: there is none of that name.
const Benchmark* find_benchmark(std::string_view name);

// The runs, by file: ring.cpp, resolve.cpp, miss.cpp, sequences.cpp, steps.cpp.
ipc::Result<Figures> ring_round_trip(const Setting& setting);
ipc::Result<Figures> resolve_hit(const Setting& setting);
ipc::Result<Figures> resolve_scale(const Setting& setting);
ipc::Result<Figures> resolve_daemon(const Setting& setting);
ipc::Result<Figures> resolve_miss_64k(const Setting& setting);
ipc::Result<Figures> open_sequence(const Setting& setting);
ipc::Result<Figures> extend_seal(const Setting& setting);
ipc::Result<Figures> step(const Setting& setting);

}  // namespace sluice::tools
