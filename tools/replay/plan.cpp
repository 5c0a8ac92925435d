#include "tools/replay/plan.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <unordered_set>

#include "client/sluice.h"

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::uint64_t kPage = 4096;
// Peaks of an iteration that the default arena holds.
constexpr std::uint64_t kDefaultPeaks = 6;
constexpr std::uint64_t kSpareSlots = 1024;
constexpr std::uint64_t kSpareBlocks = 64;
constexpr std::uint64_t kLeastDram = std::uint64_t{16} << 20;
// With a block store: frames below which blocks that are written get in each other's way.
constexpr std::uint64_t kLeastStoreFrames = 64;
// Of its frames, what an engine fills at a time then.
constexpr std::uint64_t kPrefillFraction = 16;

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

std::uint32_t tenant_of(std::uint32_t engine, const Options& options) {
  return engine % options.tenants;
}

void assign_requests(std::size_t requests, const Options& options, Plan& plan) {
  plan.requests.resize(options.engines);
  plan.steps.resize(options.engines);
  plan.tenants.resize(options.tenants);
  for (std::size_t r = 0; r < requests; ++r) {
    plan.requests[r % options.engines].push_back(static_cast<std::uint32_t>(r));
  }
}

// ---- sparse traces ----

CacheShape shape_of(const SparseTrace& trace) {
  CacheShape shape;
  constexpr std::size_t kMaxModelName = 128;
  const bool head = trace.list_kind == ListKind::head;
  shape.model = "sluice-replay/" + trace.model.substr(0, kMaxModelName) + "/" +
                std::to_string(trace.layers) + "x" + std::to_string(trace.kv_heads) + "x" +
                std::to_string(trace.head_dim) + "x" + std::to_string(trace.dtype_bytes) + "/b" +
                std::to_string(trace.block_tokens) + "/" + to_string(trace.list_kind);
  shape.layers = trace.layers;
  shape.kv_heads = trace.kv_heads;
  shape.head_dim = trace.head_dim;
  shape.block_tokens = trace.block_tokens;
  shape.dtype_bytes = trace.dtype_bytes;
  shape.planes = 2;
  shape.page_kind = head ? SLUICE_PAGE_HEAD : SLUICE_PAGE_LAYER;
  shape.payload.row_bytes = trace.head_dim * trace.dtype_bytes;
  shape.payload.block_tokens = trace.block_tokens;
  shape.payload.groups_per_page = (head ? 1 : trace.kv_heads) * shape.planes;
  shape.payload.pages_per_block = trace.pages_per_block();
  return shape;
}

struct EngineLoad {
  std::uint64_t peak_pages = 0;
  std::uint64_t peak_requests = 0;
  std::uint64_t largest_request = 0;  // blocks
};

std::vector<EngineLoad> loads_of(const SparseTrace& trace, std::uint32_t engines) {
  std::vector<EngineLoad> loads(engines);
  struct Iteration {
    std::uint64_t iter = ~std::uint64_t{0};
    std::uint64_t pages = 0;
    std::uint64_t requests = 0;
  };
  std::vector<Iteration> now(engines);
  for (const SparseStep& step : trace.steps) {
    const std::uint32_t engine = step.request % engines;
    Iteration& iteration = now[engine];
    if (iteration.iter != step.iter) iteration = {step.iter, 0, 0};
    for (std::uint32_t page = 0; page < trace.pages_per_block(); ++page) {
      iteration.pages += trace.select(step, page).size();
    }
    ++iteration.requests;
    loads[engine].peak_pages = std::max(loads[engine].peak_pages, iteration.pages);
    loads[engine].peak_requests = std::max(loads[engine].peak_requests, iteration.requests);
  }
  for (std::size_t r = 0; r < trace.requests.size(); ++r) {
    EngineLoad& load = loads[r % engines];
    load.largest_request =
        std::max<std::uint64_t>(load.largest_request, trace.final_blocks(trace.requests[r]));
  }
  return loads;
}

void measure(const SparseTrace& trace, const Options& options, Plan& plan) {
  const std::vector<EngineLoad> loads = loads_of(trace, options.engines);
  for (std::uint32_t engine = 0; engine < options.engines; ++engine) {
    TenantPlan& tenant = plan.tenants[tenant_of(engine, options)];
    tenant.peak_pages += loads[engine].peak_pages;
    tenant.pinned_pages += loads[engine].peak_requests * trace.pages_per_block();
    tenant.least_blocks = std::max(tenant.least_blocks, loads[engine].largest_request);
    tenant.private_blocks += loads[engine].largest_request;
  }
  std::vector<std::unordered_set<std::string_view>> known(options.tenants);
  for (std::size_t r = 0; r < trace.requests.size(); ++r) {
    const SparseRequest& request = trace.requests[r];
    const auto engine = static_cast<std::uint32_t>(r % options.engines);
    const std::uint32_t tenant = tenant_of(engine, options);
    for (std::uint32_t block = 0; block < trace.final_blocks(request); ++block) {
      const std::string_view key = trace.key_of(request, block);
      if (key.empty() || known[tenant].insert(key).second) ++plan.tenants[tenant].distinct_blocks;
    }
    plan.steps[engine] += request.steps;
  }
}

// ---- prefix traces ----

CacheShape shape_of(const PrefixTrace&, const Options& options) {
  CacheShape shape;
  shape.model = "sluice-replay/prefix/" + std::to_string(options.bytes_per_token);
  shape.head_dim = options.bytes_per_token;
  shape.block_tokens = PrefixTrace::kBlockTokens;
  shape.page_kind = SLUICE_PAGE_BLOCK;
  shape.payload.row_bytes = options.bytes_per_token;
  shape.payload.block_tokens = PrefixTrace::kBlockTokens;
  shape.payload.groups_per_page = 1;
  shape.payload.pages_per_block = 1;
  return shape;
}

void measure(const PrefixTrace& trace, const Options& options, Plan& plan) {
  std::vector<std::uint64_t> largest(options.engines);
  std::vector<std::unordered_set<std::uint64_t>> known(options.tenants);
  for (std::size_t r = 0; r < trace.requests.size(); ++r) {
    const PrefixRequest& request = trace.requests[r];
    const auto engine = static_cast<std::uint32_t>(r % options.engines);
    largest[engine] = std::max<std::uint64_t>(largest[engine], request.block_ids.size());
    known[tenant_of(engine, options)].insert(request.block_ids.begin(), request.block_ids.end());
    ++plan.steps[engine];
  }
  for (std::uint32_t engine = 0; engine < options.engines; ++engine) {
    TenantPlan& tenant = plan.tenants[tenant_of(engine, options)];
    tenant.peak_pages += largest[engine];
    tenant.least_blocks = std::max(tenant.least_blocks, largest[engine]);
    tenant.private_blocks += largest[engine];
  }
  for (std::uint32_t t = 0; t < options.tenants; ++t)
    plan.tenants[t].distinct_blocks = known[t].size();
}

// ---- sizes ----

std::uint64_t arena_bytes(const TenantPlan& tenant, const CacheShape& shape,
                          const Options& options) {
  using Kind = RelativeSize::Kind;
  const std::uint64_t page = shape.payload.page_bytes();
  if (!options.hbm) {
    // So that nothing is ever without a slot: while the machine stops an engine in the middle of a
    // step, the others go on for some steps, and what they use meanwhile cannot be reused. All
    // pages there are is always enough. A daemon that exists already has its own default.
    if (!options.spawn) return 0;
    const std::uint64_t all =
        (tenant.distinct_blocks + tenant.private_blocks) * (shape.payload.block_bytes() / page);
    const std::uint64_t pages = std::min(kDefaultPeaks * tenant.peak_pages, all);
    return round_up((pages + tenant.pinned_pages + kSpareSlots) * page, kPage);
  }
  if (options.hbm->kind == Kind::bytes) return options.hbm->bytes;
  const double pages = std::ceil(options.hbm->factor * static_cast<double>(tenant.peak_pages));
  return round_up(static_cast<std::uint64_t>(pages) * page, kPage);
}

// As libsluice does by default: for each sequence what it takes to decode for 5 s at 20 ms a step.
std::uint64_t blocks_ahead(const Plan& plan, const Options& options, std::uint32_t tenant) {
  constexpr std::uint64_t kSteps = 5'000 / 20;
  constexpr std::size_t kMostSequences = 64;  // of an engine that run at a time
  if (options.kill_daemon_at.empty() || options.restart != Restart::warm ||
      options.executor != Executor::direct) {
    return 0;
  }
  std::uint64_t sequences = 0;
  for (std::uint32_t engine = tenant; engine < options.engines; engine += options.tenants) {
    sequences += std::min(plan.requests[engine].size(), kMostSequences);
  }
  const std::uint64_t tokens = std::max<std::uint64_t>(plan.shape.block_tokens, 1);
  return sequences * ((kSteps + tokens - 1) / tokens);
}

ipc::Result<std::uint64_t> frame_bytes(const TenantPlan& tenant, std::uint32_t index,
                                       const CacheShape& shape, const Options& options) {
  using Kind = RelativeSize::Kind;
  const std::uint64_t stride = shape.frame_stride();
  const std::uint64_t footprint = tenant.distinct_blocks * stride;
  if (!options.dram) {
    const std::uint64_t blocks = tenant.private_blocks + tenant.blocks_ahead + kSpareBlocks;
    return std::max(footprint + blocks * stride, kLeastDram);
  }
  const std::uint64_t bytes =
      options.dram->kind == Kind::bytes
          ? options.dram->bytes
          : static_cast<std::uint64_t>(options.dram->factor * static_cast<double>(footprint));
  if (!options.nvme.empty()) {
    if (bytes >= kLeastStoreFrames * stride) return bytes;
    return fail(Errc::invalid_argument,
                "--dram: tenant t" + std::to_string(index) + " would have " +
                    human_bytes(static_cast<double>(bytes)) + ", less than " +
                    std::to_string(kLeastStoreFrames) + " blocks; its footprint is " +
                    human_bytes(static_cast<double>(footprint)));
  }
  if (bytes < tenant.least_blocks * stride) {
    return fail(Errc::invalid_argument,
                "--dram: tenant t" + std::to_string(index) + " would have " +
                    human_bytes(static_cast<double>(bytes)) + ", but its largest request needs " +
                    human_bytes(static_cast<double>(tenant.least_blocks * stride)) +
                    "; its footprint is " + human_bytes(static_cast<double>(footprint)));
  }
  return bytes;
}

}  // namespace

std::uint64_t CacheShape::frame_stride() const { return round_up(payload.block_bytes(), kPage); }

ipc::Result<Plan> make_plan(const Trace& trace, const Options& options) {
  Plan plan;
  if (const auto* sparse = std::get_if<SparseTrace>(&trace)) {
    assign_requests(sparse->requests.size(), options, plan);
    plan.shape = shape_of(*sparse);
    measure(*sparse, options, plan);
  } else {
    const auto& prefix = std::get<PrefixTrace>(trace);
    assign_requests(prefix.requests.size(), options, plan);
    plan.shape = shape_of(prefix, options);
    measure(prefix, options, plan);
  }
  for (std::uint32_t t = 0; t < options.tenants; ++t) {
    TenantPlan& tenant = plan.tenants[t];
    tenant.hbm_bytes = arena_bytes(tenant, plan.shape, options);
    tenant.blocks_ahead = blocks_ahead(plan, options, t);
    const auto dram = frame_bytes(tenant, t, plan.shape, options);
    if (!dram) return std::unexpected(dram.error());
    tenant.dram_bytes = *dram;
    if (!options.nvme.empty()) {
      const std::uint64_t frames = *dram / plan.shape.frame_stride();
      plan.prefill_chunk = static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
          frames / kPrefillFraction / options.engines, 1, plan.prefill_chunk));
    }
  }
  for (const std::uint64_t steps : plan.steps) plan.total_steps += steps;
  return plan;
}

}  // namespace sluice::tools
