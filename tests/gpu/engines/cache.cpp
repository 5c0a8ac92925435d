#include "tests/gpu/engines/cache.h"

namespace sluice::test::engines {

std::string tenant_name(std::uint32_t tenant) { return "t" + std::to_string(tenant); }

ipc::Result<tools::SpawnedDaemon> start_daemon(const CacheShape& shape, std::uint32_t tenants,
                                               const std::string& gpu) {
  tools::DaemonSpec spec;
  spec.program = tools::beside_this_program("sluiced");
  spec.cuda = !gpu.empty();
  spec.gpu = gpu;
  spec.hbm_extent_bytes =
      tools::spawn_extent_bytes(shape.hbm_bytes, shape.page_bytes(),
                                spec.cuda ? tools::kDeviceExtentAlignment : ipc::kFrameAlignment);
  spec.dram_extent_bytes = tools::spawn_extent_bytes(shape.dram_bytes, shape.block_bytes());
  for (std::uint32_t t = 0; t < tenants; ++t) {
    spec.tenants.push_back({tenant_name(t), shape.hbm_bytes, shape.dram_bytes});
  }
  return tools::SpawnedDaemon::start(spec);
}

client::Result<client::Client> connect(const std::string& socket, const char* name) {
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  where.socket_path = socket.c_str();
  where.client_name = name;
  where.timeout_us = kTimeoutUs;
  return client::Client::connect(where);
}

client::Result<client::Cache> open_cache(client::Client& client, const CacheShape& shape,
                                         bool cuda) {
  sluice_cache_desc desc = SLUICE_CACHE_DESC_INIT;
  desc.model = "engines";
  desc.executor = SLUICE_EXECUTOR_DIRECT;
  desc.layers = CacheShape::kPages;
  desc.kv_heads = CacheShape::kHeads;
  desc.head_dim = shape.head_dim;
  desc.block_tokens = CacheShape::kBlockTokens;
  desc.dtype_bytes = CacheShape::kElementBytes;
  desc.planes = CacheShape::kPlanes;
  desc.page_kind = SLUICE_PAGE_LAYER;
  desc.device_type = cuda ? 2 : 0;
  desc.hbm_bytes = shape.hbm_bytes;
  return client.open_cache(desc);
}

}  // namespace sluice::test::engines
