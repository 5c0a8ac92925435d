// What operators see of all arenas of a cache together.
//
// Thread-safety: any thread; what is behind the pointers may change at any time.
#pragma once

#include <memory>
#include <vector>

#include "daemon/cache_memory.h"
#include "ipc/error.h"

namespace sluice::daemon {

using Arenas = std::vector<std::shared_ptr<CacheMemory>>;

TableBytes table_bytes(const Arenas& arenas);
ResolveTotals totals(const Arenas& arenas);
ResolveTotals totals(const Arenas& arenas, ipc::wire::Executor executor);

// Pages of a block are counted in each arena. Errors: as CacheTable::scan; the words of all are
// being fetched then.
ipc::Result<HbmResidency> scan(const Arenas& arenas);

}  // namespace sluice::daemon
