// What a build without CUDA answers.
#include "tools/replay/gpu.h"
#include "tools/replay/layer_graphs.h"
#include "tools/replay/slot_memory.h"

namespace sluice::tools {
namespace {

std::unexpected<client::Error> not_built() {
  return std::unexpected(client::Error{SLUICE_NOT_SUPPORTED, "this build has no CUDA"});
}

}  // namespace

client::Result<std::unique_ptr<SlotMemory>> make_cuda_slots(const PayloadShape&,
                                                            const sluice_arena_view&) {
  return not_built();
}

client::Result<std::unique_ptr<LayerGraphs>> make_layer_graphs(client::Actor&, void*,
                                                               const LayerGraphsShape&) {
  return not_built();
}

bool has_cuda() { return false; }

ipc::Result<std::vector<std::string>> gpu_uuids() {
  return ipc::fail(ipc::Errc::not_supported, "this build has no CUDA");
}

ipc::Result<std::string> gpu_uuid(std::uint32_t) {
  return ipc::fail(ipc::Errc::not_supported, "this build has no CUDA");
}

}  // namespace sluice::tools
