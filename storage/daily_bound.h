// A bound on what is written to the devices in a day (of UTC), so that a cache does not wear them
// out. Counts what cleaning writes too, which it does not refuse.
//
// Thread-safety: any thread.
#pragma once

#include <cstdint>
#include <mutex>

#include "storage/block_store.h"
#include "storage/index.h"

namespace sluice::storage {

// Once one of so many bytes of a day is written, blocks that are unlikely to be read again are not.
inline constexpr std::uint64_t kUnlikelyDivisor = 2;

class DailyBound {
 public:
  // 0: no bound.
  explicit DailyBound(std::uint64_t bytes_per_day) : bound_(bytes_per_day) {}

  void restore(const DayBytes& written) {
    const std::lock_guard lock(mutex_);
    written_ = written;
  }

  enum class Taken : std::uint8_t {
    yes,
    no,            // they would be too many for today
    not_unlikely,  // and these for blocks that are unlikely to be read again
  };

  // Counted if they may be written.
  Taken take(std::uint64_t bytes, std::uint32_t now_s, Reuse reuse) {
    const std::lock_guard lock(mutex_);
    turn(now_s);
    if (bound_ != 0 && !fits(bytes, bound_)) return Taken::no;
    if (bound_ != 0 && reuse == Reuse::unlikely && !fits(bytes, bound_ / kUnlikelyDivisor)) {
      return Taken::not_unlikely;
    }
    written_.bytes += bytes;
    return Taken::yes;
  }

  void count(std::uint64_t bytes, std::uint32_t now_s) {
    const std::lock_guard lock(mutex_);
    turn(now_s);
    written_.bytes += bytes;
  }

  DayBytes value() const {
    const std::lock_guard lock(mutex_);
    return written_;
  }

 private:
  static constexpr std::uint32_t kDaySeconds = 86400;

  bool fits(std::uint64_t bytes, std::uint64_t bound) const {
    return bytes <= bound && written_.bytes <= bound - bytes;
  }

  // A clock that goes back does not give the day again.
  void turn(std::uint32_t now_s) {
    const std::uint32_t day = now_s / kDaySeconds;
    if (day > written_.day) written_ = {day, 0};
  }

  const std::uint64_t bound_;
  mutable std::mutex mutex_;
  DayBytes written_;
};

}  // namespace sluice::storage
