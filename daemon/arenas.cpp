#include "daemon/arenas.h"

#include <algorithm>
#include <utility>

namespace sluice::daemon {

namespace {

void add(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& from) {
  to.resize(std::max(to.size(), from.size()));
  for (std::size_t i = 0; i < from.size(); ++i) to[i] += from[i];
}

}  // namespace

TableBytes table_bytes(const Arenas& arenas) {
  TableBytes sum;
  for (const auto& arena : arenas) {
    sum.node += arena->shape().table_bytes;
    sum.device += arena->shape().device_table_bytes;
    sum.device_extent += arena->shape().device_table_extent_bytes;
  }
  return sum;
}

ResolveTotals totals(const Arenas& arenas) {
  ResolveTotals sum;
  for (const auto& arena : arenas) sum += arena->totals();
  return sum;
}

ResolveTotals totals(const Arenas& arenas, ipc::wire::Executor executor) {
  ResolveTotals sum;
  for (const auto& arena : arenas) sum += arena->totals(executor);
  return sum;
}

ipc::Result<HbmResidency> scan(const Arenas& arenas) {
  HbmResidency sum;
  ipc::Status first_error;
  for (const auto& arena : arenas) {
    auto found = arena->scan();
    if (!found) {
      if (first_error) first_error = std::unexpected(std::move(found.error()));
      continue;
    }
    sum.cached_pages += found->cached_pages;
    sum.pinned_pages += found->pinned_pages;
    sum.free_slots += found->free_slots;
    add(sum.pages_of_block, found->pages_of_block);
    add(sum.pinned_of_block, found->pinned_of_block);
  }
  if (!first_error) return std::unexpected(std::move(first_error.error()));
  return sum;
}

}  // namespace sluice::daemon
