// The forecast ledger: what a forecaster asked for, and what became of it.
//
// A forecast page is issued once, and ends as one of: used (resolved after it arrived), late
// (resolved before it arrived), wasted (dropped from the arena unused), dropped (never started).
// The difference is still under way, or in the arena and undecided.
#pragma once

#include <cstdint>

namespace sluice::residency {

enum class ForecastEvent : std::uint8_t { issued, used, late, wasted, dropped };

struct ForecastCount {
  std::uint64_t pages = 0;
  std::uint64_t bytes = 0;
  friend bool operator==(const ForecastCount&, const ForecastCount&) = default;
};

struct ForecastLedger {
  ForecastCount issued, used, late, wasted, dropped;

  ForecastCount& of(ForecastEvent event) {
    switch (event) {
      case ForecastEvent::issued:
        return issued;
      case ForecastEvent::used:
        return used;
      case ForecastEvent::late:
        return late;
      case ForecastEvent::wasted:
        return wasted;
      default:
        return dropped;
    }
  }

  void add(ForecastEvent event, std::uint64_t pages, std::uint64_t page_bytes) {
    of(event).pages += pages;
    of(event).bytes += pages * page_bytes;
  }

  ForecastLedger& operator+=(const ForecastLedger& other) {
    const auto add_count = [](ForecastCount& to, const ForecastCount& from) {
      to.pages += from.pages;
      to.bytes += from.bytes;
    };
    add_count(issued, other.issued);
    add_count(used, other.used);
    add_count(late, other.late);
    add_count(wasted, other.wasted);
    add_count(dropped, other.dropped);
    return *this;
  }
  friend bool operator==(const ForecastLedger&, const ForecastLedger&) = default;
};

}  // namespace sluice::residency
