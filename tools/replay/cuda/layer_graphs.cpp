#include "tools/replay/layer_graphs.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tools/replay/cuda/memory.h"

namespace sluice::tools {
namespace {

using client::Error;
using client::ResolveCounts;
using client::Result;
using client::Status;
using cuda::check;

// Where things lie in the memory that plans are bound to. The first part goes to the device, the
// second comes back.
struct Places {
  static constexpr std::size_t list_count = 0;
  static constexpr std::size_t without_slot = 4;
  static constexpr std::size_t sequences = 16;
  std::size_t counts;
  std::size_t items;
  std::size_t outcomes;
  std::size_t slots;
  std::size_t bytes;

  Places(std::size_t most_sequences, std::size_t lists, std::size_t capacity)
      : counts(sequences + most_sequences * sizeof(std::uint32_t)),
        items(counts + lists * sizeof(std::uint32_t)),
        outcomes(items + lists * capacity * sizeof(std::int32_t)),
        slots((outcomes + lists * capacity + 15) / 16 * 16),
        bytes(slots + lists * capacity * sizeof(std::int32_t)) {}
};

struct DestroyGraph {
  void operator()(cudaGraphExec_t graph) const { (void)cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

class CudaLayerGraphs final : public LayerGraphs {
 public:
  CudaLayerGraphs(client::Actor& actor, cudaStream_t stream, const LayerGraphsShape& shape)
      : actor_(actor),
        stream_(stream),
        shape_(shape),
        most_lists_(shape.sequences * shape.lists_per_layer),
        capacity_(std::max<std::uint32_t>(shape.longest_list, 1)),
        places_(shape.sequences, most_lists_, capacity_) {}

  Status open();
  Result<ResolveCounts> resolve(std::uint32_t layer,
                                std::span<const sluice_page_list> lists) override;

 private:
  Result<client::Plan> make_plan(std::uint32_t layer);
  Result<Graph> capture(client::Plan& plan);
  // Puts the lists of as many sequences as fit, from `first` on, where the plans read them.
  // Returns where they end.
  Result<std::size_t> place(std::uint32_t layer, std::span<const sluice_page_list> lists,
                            std::size_t first);
  Status launch(cudaGraphExec_t graph);
  Status take(std::span<const sluice_page_list> lists, std::size_t first, std::size_t end,
              ResolveCounts& counts);

  client::Actor& actor_;
  const cudaStream_t stream_;
  const LayerGraphsShape shape_;
  const std::uint32_t most_lists_;
  const std::uint32_t capacity_;
  const Places places_;
  cuda::PairedBuffer buffer_;
  std::vector<client::Plan> plans_;         // of each layer
  std::vector<Graph> graphs_;               // they go before their plans
  std::vector<std::uint32_t> list_places_;  // of the lists of a launch
  std::uint32_t sequences_ = 0;             // of a launch
};

Result<client::Plan> CudaLayerGraphs::make_plan(std::uint32_t layer) {
  sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
  desc.kind = SLUICE_ITEM_BLOCK;
  desc.max_lists = most_lists_;
  desc.list_capacity = capacity_;
  desc.lists_per_sequence = shape_.lists_per_layer;
  desc.first_page = layer * shape_.lists_per_layer;
  desc.items = buffer_.device<std::int32_t>(places_.items);
  desc.counts = buffer_.device<std::uint32_t>(places_.counts);
  desc.list_count = buffer_.device<std::uint32_t>(places_.list_count);
  desc.sequences = buffer_.device<std::uint32_t>(places_.sequences);
  desc.slots = buffer_.device<std::int32_t>(places_.slots);
  desc.outcomes = buffer_.device<std::uint8_t>(places_.outcomes);
  desc.without_slot = buffer_.device<std::uint32_t>(places_.without_slot);
  return client::Plan::create(actor_, desc);
}

// Captured in the mode that frameworks use: a call of another thread of this process that captures
// forbid would show.
Result<Graph> CudaLayerGraphs::capture(client::Plan& plan) {
  if (auto s = check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "a capture");
      !s) {
    return std::unexpected(s.error());
  }
  const Status launched = plan.launch();
  cudaGraph_t captured = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &captured);
  if (!launched) return std::unexpected(launched.error());
  if (auto s = check(ended, "a capture"); !s) return std::unexpected(s.error());
  cudaGraphExec_t graph = nullptr;
  const cudaError_t made = cudaGraphInstantiate(&graph, captured, 0);
  (void)cudaGraphDestroy(captured);
  if (auto s = check(made, "instantiating a graph"); !s) return std::unexpected(s.error());
  return Graph(graph);
}

Status CudaLayerGraphs::open() {
  if (auto s = buffer_.resize(places_.bytes); !s) return s;
  std::memset(buffer_.host<std::byte>(), 0, places_.bytes);
  if (auto s = buffer_.to_device(0, places_.bytes, stream_); !s) return s;
  for (std::uint32_t layer = 0; layer < shape_.layers; ++layer) {
    auto plan = make_plan(layer);
    if (!plan) return std::unexpected(plan.error());
    plans_.push_back(std::move(*plan));
  }
  // A launch without lists, so that no kernel is loaded during a capture.
  if (auto s = actor_.begin_step(); !s) return s;
  for (client::Plan& plan : plans_) {
    if (auto s = plan.launch(); !s) return s;
  }
  if (auto s = actor_.end_step(); !s) return s;
  if (auto s = check(cudaStreamSynchronize(stream_), "the first launch of a plan"); !s) return s;
  for (client::Plan& plan : plans_) {
    auto graph = capture(plan);
    if (!graph) return std::unexpected(graph.error());
    graphs_.push_back(std::move(*graph));
  }
  return {};
}

Result<std::size_t> CudaLayerGraphs::place(std::uint32_t layer,
                                           std::span<const sluice_page_list> lists,
                                           std::size_t first) {
  auto* const counts = buffer_.host<std::uint32_t>(places_.counts);
  std::fill_n(counts, most_lists_, 0u);
  list_places_.clear();
  sequences_ = 0;
  const sluice_sequence* last = nullptr;
  std::size_t end = first;
  for (; end < lists.size(); ++end) {
    const sluice_page_list& list = lists[end];
    if (list.sequence != last) {
      if (sequences_ == shape_.sequences) break;
      last = list.sequence;
      std::uint32_t row = 0;
      sluice_error error{};
      if (const auto status = sluice_sequence_row(list.sequence, &row, &error);
          status != SLUICE_OK) {
        return std::unexpected(Error{status, std::string("sluice_sequence_row: ") + error.text});
      }
      buffer_.host<std::uint32_t>(places_.sequences)[sequences_++] = row;
    }
    const std::uint32_t in_layer = list.page - layer * shape_.lists_per_layer;
    if (in_layer >= shape_.lists_per_layer || list.count > capacity_) {
      return std::unexpected(Error{SLUICE_INTERNAL,
                                   "a list of another layer, or longer than any "
                                   "of the trace"});
    }
    const std::uint32_t place = (sequences_ - 1) * shape_.lists_per_layer + in_layer;
    counts[place] = list.count;
    std::copy_n(list.blocks, list.count,
                buffer_.host<std::int32_t>(places_.items) + std::size_t{place} * capacity_);
    list_places_.push_back(place);
  }
  *buffer_.host<std::uint32_t>(places_.list_count) = sequences_ * shape_.lists_per_layer;
  *buffer_.host<std::uint32_t>(places_.without_slot) = 0;
  return end;
}

Status CudaLayerGraphs::launch(cudaGraphExec_t graph) {
  const std::size_t items = std::size_t{sequences_} * shape_.lists_per_layer * capacity_;
  if (auto s = buffer_.to_device(0, places_.items + items * sizeof(std::int32_t), stream_); !s) {
    return s;
  }
  // No answer of an earlier launch passes for one of this.
  constexpr int kNoOutcome = 0xFE;
  if (auto s = check(
          cudaMemsetAsync(buffer_.device<std::byte>(places_.outcomes), kNoOutcome, items, stream_),
          "clearing outcomes");
      !s) {
    return s;
  }
  if (auto s = check(cudaGraphLaunch(graph, stream_), "launching a graph"); !s) return s;
  if (auto s = buffer_.to_host(places_.without_slot, sizeof(std::uint32_t), stream_); !s) return s;
  if (auto s = buffer_.to_host(places_.outcomes, items, stream_); !s) return s;
  if (auto s = buffer_.to_host(places_.slots, items * sizeof(std::int32_t), stream_); !s) return s;
  return check(cudaStreamSynchronize(stream_), "a graph");
}

Status CudaLayerGraphs::take(std::span<const sluice_page_list> lists, std::size_t first,
                             std::size_t end, ResolveCounts& counts) {
  std::uint64_t none = 0;
  for (std::size_t i = first; i < end; ++i) {
    const sluice_page_list& list = lists[i];
    const std::size_t at = std::size_t{list_places_[i - first]} * capacity_;
    std::copy_n(buffer_.host<std::int32_t>(places_.slots) + at, list.count, list.slots);
    const auto* const outcomes = buffer_.host<std::uint8_t>(places_.outcomes) + at;
    for (std::uint32_t j = 0; j < list.count; ++j) {
      list.outcomes[j] = outcomes[j];
      counts.hits += outcomes[j] == SLUICE_HIT ? 1 : 0;
      counts.misses += outcomes[j] == SLUICE_MISS ? 1 : 0;
      counts.no_slot += outcomes[j] == SLUICE_NO_ROOM ? 1 : 0;
      counts.absent += outcomes[j] >= SLUICE_ABSENT ? 1 : 0;
      none += outcomes[j] >= SLUICE_NO_ROOM ? 1 : 0;
    }
  }
  const std::uint32_t reported = *buffer_.host<std::uint32_t>(places_.without_slot);
  if (reported == none) return {};
  return std::unexpected(Error{SLUICE_INTERNAL, "sluice_plan_launch: " + std::to_string(reported) +
                                                    " items without a slot were counted, " +
                                                    std::to_string(none) + " have none"});
}

Result<ResolveCounts> CudaLayerGraphs::resolve(std::uint32_t layer,
                                               std::span<const sluice_page_list> lists) {
  ResolveCounts counts{};
  for (std::size_t first = 0; first < lists.size();) {
    const auto end = place(layer, lists, first);
    if (!end) return std::unexpected(end.error());
    if (auto s = launch(graphs_.at(layer).get()); !s) return std::unexpected(s.error());
    if (auto s = take(lists, first, *end, counts); !s) return std::unexpected(s.error());
    first = *end;
  }
  counts.bytes_filled = counts.misses * shape_.page_bytes;
  return counts;
}

}  // namespace

Result<std::unique_ptr<LayerGraphs>> make_layer_graphs(client::Actor& actor, void* stream,
                                                       const LayerGraphsShape& shape) {
  auto graphs = std::make_unique<CudaLayerGraphs>(actor, static_cast<cudaStream_t>(stream), shape);
  if (auto s = graphs->open(); !s) return std::unexpected(s.error());
  return graphs;
}

}  // namespace sluice::tools
