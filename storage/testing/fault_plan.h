// Which requests fail, and how: rules that count the requests they match, or draw by probability.
//
// The same seed, rules and order of requests give the same faults.
//
// Thread-safety: none.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "storage/io_engine.h"

namespace sluice::storage {

enum class Fault : std::uint8_t {
  io_error,        // -EIO, and nothing is done
  short_transfer,  // of a read or a write: only some sectors, and the answer says so
  no_space,        // of a write: -ENOSPC, and nothing is done
  lost,            // of a write, a sync, a discard: the answer is good, and nothing is done
  torn_write,      // the answer is good; only the first sectors are written
  flip_read,       // one bit of what was read is wrong
  flip_write,      // one bit is written wrong
  stall,           // nothing but the rule's delay
  vanish,          // the device is gone: this and all later requests are answered -ENODEV
};
inline constexpr std::size_t kFaults = 9;

// What a disk writes whole.
inline constexpr std::uint64_t kSectorBytes = 512;

inline constexpr std::uint64_t kEveryTime = std::numeric_limits<std::uint64_t>::max();

struct FaultRule {
  Fault fault = Fault::io_error;
  // Requests that match: of this op (nullopt: all ops that the fault is for), of files whose path
  // has this in it, that touch these bytes (a sync touches none and matches always).
  std::optional<IoOp> op = {};
  std::string path_part = {};
  std::uint64_t from_offset = 0;
  std::uint64_t to_offset = std::numeric_limits<std::uint64_t>::max();
  // Of those, `count` from the `first` on (the first one is 1), each with this probability.
  std::uint64_t first = 1;
  std::uint64_t count = 1;
  double probability = 1;
  // The answer comes so much later; the thread that reaps does not sleep meanwhile.
  std::chrono::microseconds delay{0};
};

// What happens to one request. `random` says where: which sector, which bit.
struct Injection {
  std::optional<Fault> fault;
  std::chrono::microseconds delay{0};
  std::uint64_t random = 0;
};

class FaultPlan {
 public:
  explicit FaultPlan(std::uint64_t seed) : random_(seed) {}

  void add(const FaultRule& rule) { rules_.push_back({rule, 0}); }
  // Without rules. A device that vanished stays away.
  void clear() { rules_.clear(); }
  void set_vanished(bool vanished) { vanished_ = vanished; }

  // The first rule that fires decides; all that match count the request.
  Injection decide(const IoRequest& request, std::string_view path);

  std::uint64_t injected(Fault fault) const { return counts_[static_cast<std::size_t>(fault)]; }

 private:
  struct CountedRule {
    FaultRule rule;
    std::uint64_t matched;
  };

  bool fires(CountedRule& counted, const IoRequest& request, std::string_view path);

  std::mt19937_64 random_;
  std::vector<CountedRule> rules_;
  std::array<std::uint64_t, kFaults> counts_ = {};
  bool vanished_ = false;
};

}  // namespace sluice::storage
