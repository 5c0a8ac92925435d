// The resolves of a sparse engine as CUDA graphs: one per layer, captured once, and replayed each
// iteration with other lists, counts and sequences in device memory.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "client/sluice.hpp"

namespace sluice::tools {

struct LayerGraphsShape {
  std::uint32_t layers = 0;
  std::uint32_t lists_per_layer = 0;  // of a sequence
  std::uint32_t longest_list = 0;
  std::uint32_t sequences = 1;  // that a launch can take; an iteration with more takes several
  std::uint64_t page_bytes = 0;
};

class LayerGraphs {
 public:
  virtual ~LayerGraphs() = default;

  // As sluice_resolve, of lists of this layer. Those of a sequence follow each other.
  virtual client::Result<client::ResolveCounts> resolve(
      std::uint32_t layer, std::span<const sluice_page_list> lists) = 0;
};

// `stream`: a cudaStream_t, the actor's. The actor is in no step. Errors: as make_cuda_slots, and
// those of the plans.
client::Result<std::unique_ptr<LayerGraphs>> make_layer_graphs(client::Actor& actor, void* stream,
                                                               const LayerGraphsShape& shape);

}  // namespace sluice::tools
