#include <array>
#include <atomic>

#include "tools/bench/benchmark.h"
#include "tools/bench/resident.h"

namespace sluice::tools {
namespace {

constexpr std::uint32_t kMeasuredSteps = 20'000;

// What entering a step must do: say that we may read, fence, take a number, say which.
struct Minimal {
  alignas(64) std::atomic<std::uint32_t> clock{0};
  alignas(64) std::atomic<std::uint32_t> active{0};

  double round() {
    const Stopwatch watch;
    for (std::uint32_t i = 0; i < kMeasuredSteps; ++i) {
      active.store(clock.load(std::memory_order_relaxed) | 1, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_seq_cst);
      const std::uint32_t step = clock.fetch_add(2, std::memory_order_acq_rel);
      active.store(step | 1, std::memory_order_release);
      active.store(0, std::memory_order_release);
    }
    return watch.nanoseconds() / kMeasuredSteps;
  }
};

}  // namespace

ipc::Result<Figures> step(const Setting& setting) {
  auto resident =
      Resident::make(setting, "step", RandomLists::kListPages, 1, SLUICE_EXECUTOR_DIRECT);
  if (!resident) return std::unexpected(std::move(resident.error()));
  Minimal minimal;
  const std::array<RoundFunction, 2> sides = {
      [&]() -> ipc::Result<double> {
        const Stopwatch watch;
        for (std::uint32_t i = 0; i < kMeasuredSteps; ++i) {
          if (auto ok = (*resident)->begin_step(); !ok) return std::unexpected(ok.error());
          if (auto ok = (*resident)->end_step(); !ok) return std::unexpected(ok.error());
        }
        return watch.nanoseconds() / kMeasuredSteps;
      },
      [&]() -> ipc::Result<double> { return minimal.round(); },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0], (*series)[1], {}, {}};
}

}  // namespace sluice::tools
