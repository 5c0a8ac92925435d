// Who replays what, and how much memory that takes: computed from the trace before anything is
// started.
//
// Request r goes to engine r % engines, and engine e belongs to tenant e % tenants.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/replay/options.h"
#include "tools/replay/payload.h"
#include "tools/replay/trace.h"

namespace sluice::tools {

// The layout that engines open their cache with.
struct CacheShape {
  std::string model;  // the namespace: model, geometry and page kind
  std::uint32_t layers = 1;
  std::uint32_t kv_heads = 1;
  std::uint32_t head_dim = 0;
  std::uint32_t block_tokens = 0;
  std::uint32_t dtype_bytes = 1;
  std::uint32_t planes = 1;
  std::uint32_t page_kind = 0;  // sluice_page_kind
  PayloadShape payload;

  std::uint64_t frame_stride() const;
};

struct TenantPlan {
  // The most pages that one iteration of each engine reads, summed over the tenant's engines. Pages
  // are counted once per request that reads them, also if requests share them: this is the
  // reference of Nx.
  std::uint64_t peak_pages = 0;
  std::uint64_t pinned_pages = 0;     // of partial blocks, at most, at one time
  std::uint64_t distinct_blocks = 0;  // footprint
  std::uint64_t private_blocks =
      0;  // that may exist beside it for a while: copies before their seal dedups
  // That engines of executor direct hold in advance, for while the daemon is away.
  std::uint64_t blocks_ahead = 0;
  std::uint64_t least_blocks = 0;  // with less, the largest request cannot run at all
  std::uint64_t hbm_bytes = 0;     // 0: as the daemon's configuration says
  std::uint64_t dram_bytes = 0;    // with --spawn
};

struct Plan {
  CacheShape shape;
  std::vector<std::vector<std::uint32_t>> requests;  // of each engine, in arrival order
  std::vector<TenantPlan> tenants;
  std::vector<std::uint64_t> steps;  // of each engine
  std::uint64_t total_steps = 0;
  // Blocks of a prompt that are extended, written and sealed at a time.
  std::uint32_t prefill_chunk = 1024;
};

// Errors are Errc::invalid_argument: sizes in `options` with which the trace cannot run.
ipc::Result<Plan> make_plan(const Trace& trace, const Options& options);

}  // namespace sluice::tools
