#include "daemon/admin_counts.h"

#include <nlohmann/json.hpp>

namespace sluice::daemon {

using nlohmann::json;

json blocks_json(const residency::BlockCounts& blocks) {
  return {{"private", blocks.taken},
          {"sealed", blocks.sealed},
          {"shared", blocks.shared},
          {"unreferenced", blocks.unreferenced},
          {"retiring", blocks.retiring}};
}

json sharing_json(const residency::SharingCounts& sharing) {
  return {{"saved_bytes", sharing.saved_bytes},
          {"matched_blocks", sharing.matched_blocks},
          {"matched_bytes", sharing.matched_bytes},
          {"deduplicated_blocks", sharing.deduplicated_blocks},
          {"deduplicated_bytes", sharing.deduplicated_bytes}};
}

json resolve_json(const ResolveTotals& totals) {
  // A client's counters may be anything: their sum fits into no integer.
  const double pages = static_cast<double>(totals.hits) + static_cast<double>(totals.misses) +
                       static_cast<double>(totals.no_slot) + static_cast<double>(totals.absent);
  return {{"hits", totals.hits},
          {"misses", totals.misses},
          {"no_slot", totals.no_slot},
          {"absent", totals.absent},
          {"bytes_filled", totals.bytes_filled},
          {"hit_ratio", pages == 0 ? 0.0 : static_cast<double>(totals.hits) / pages}};
}

}  // namespace sluice::daemon
