#include "tools/bench/cuda/decode_lists.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace sluice::tools::cuda {
namespace {

// Of one (layer, sequence).
void write_list(const std::vector<std::uint32_t>& blocks, std::uint32_t layer,
                std::uint32_t sequence, const ItemOf& item_of, std::int32_t* items,
                std::int32_t& count) {
  for (std::uint32_t i = 0; i < blocks.size(); ++i) {
    items[i] = item_of(layer, sequence, blocks[i], i);
  }
  count = static_cast<std::int32_t>(blocks.size());
}

}  // namespace

ipc::Result<DecodeLists> DecodeLists::make(const ListPlaces& places, std::uint32_t steps) {
  DecodeLists lists;
  lists.places_ = places;
  lists.steps_ = steps;
  void* host = nullptr;
  const std::size_t bytes = steps * places.words() * sizeof(std::int32_t);
  if (auto ok = check(cudaMallocHost(&host, bytes),
                      "cudaMallocHost of lists, " + std::to_string(bytes) + " B");
      !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  lists.host_.reset(static_cast<std::int32_t*>(host));
  auto device = DeviceArray<std::int32_t>::make(places.words(), "lists of a step");
  if (!device) return std::unexpected(std::move(device.error()));
  lists.device_ = std::move(*device);
  return lists;
}

void DecodeLists::fill(const DecodeAccess& access, std::uint32_t first_step,
                       const ItemOf& item_of) {
  std::fill_n(host_.get(), steps_ * places_.words(), 0);
  for (std::uint32_t step = 0; step < steps_; ++step) {
    std::int32_t* const words = host_.get() + step * places_.words();
    for (std::uint32_t layer = 0; layer < places_.layers; ++layer) {
      for (std::uint32_t s = 0; s < places_.sequences; ++s) {
        const std::size_t list = std::size_t{layer} * places_.sequences + s;
        write_list(access.reads(first_step + step, layer, s), layer, s, item_of,
                   words + list * places_.capacity, words[places_.items() + list]);
        if (!places_.forecasts) continue;
        std::int32_t* const forecasts = words + forecast_at();
        write_list(access.forecast(first_step + step, layer, s), layer, s, item_of,
                   forecasts + list * places_.capacity, forecasts[places_.items() + list]);
      }
    }
  }
}

ipc::Status DecodeLists::enqueue(std::uint32_t step, const Stream& stream) {
  return check(
      cudaMemcpyAsync(device_.data(), host_.get() + step * places_.words(),
                      places_.words() * sizeof(std::int32_t), cudaMemcpyHostToDevice, stream.get()),
      "copying the lists of a step");
}

}  // namespace sluice::tools::cuda
