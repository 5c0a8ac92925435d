// The lists of a run of decode steps: in pinned memory all of them, in device memory those of the
// step that runs.
//
// Thread-safety: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "ipc/error.h"
#include "tools/bench/cuda/device.h"
#include "tools/bench/decode_access.h"

namespace sluice::tools::cuda {

// Where the numbers of a step lie: [layers][sequences][capacity] items, [layers][sequences] counts,
// of what is read, then of what is forecast.
struct ListPlaces {
  std::uint32_t layers = 0;
  std::uint32_t sequences = 0;
  std::uint32_t capacity = 0;
  bool forecasts = false;

  std::size_t lists() const { return std::size_t{layers} * sequences; }
  std::size_t items() const { return lists() * capacity; }
  std::size_t words() const { return (forecasts ? 2 : 1) * (items() + lists()); }
};

// What an item of a list is told as: its block, or the slot where it always is.
using ItemOf = std::function<std::int32_t(std::uint32_t layer, std::uint32_t sequence,
                                          std::uint32_t block, std::uint32_t place_in_list)>;

class DecodeLists {
 public:
  // For `steps` steps, none of which are there yet.
  static ipc::Result<DecodeLists> make(const ListPlaces& places, std::uint32_t steps);

  // Writes the steps from `first_step` of the trace on, as steps 0, 1, .. Nothing is in flight.
  void fill(const DecodeAccess& access, std::uint32_t first_step, const ItemOf& item_of);
  // Puts a step where launches of the stream find it from then on.
  ipc::Status enqueue(std::uint32_t step, const Stream& stream);

  const ListPlaces& places() const { return places_; }
  std::uint32_t steps() const { return steps_; }
  const std::int32_t* items(std::uint32_t layer) const { return now(0) + layer * items_of_layer(); }
  const std::uint32_t* counts(std::uint32_t layer) const {
    return counts_at(places_.items(), layer);
  }
  const std::int32_t* forecast_items(std::uint32_t layer) const {
    return now(forecast_at()) + layer * items_of_layer();
  }
  const std::uint32_t* forecast_counts(std::uint32_t layer) const {
    return counts_at(forecast_at() + places_.items(), layer);
  }

 private:
  struct FreeHost {
    void operator()(std::int32_t* data) const { (void)cudaFreeHost(data); }
  };
  std::size_t items_of_layer() const { return std::size_t{places_.sequences} * places_.capacity; }
  std::size_t forecast_at() const { return places_.items() + places_.lists(); }
  const std::int32_t* now(std::size_t at) const { return device_.data() + at; }
  const std::uint32_t* counts_at(std::size_t at, std::uint32_t layer) const {
    return reinterpret_cast<const std::uint32_t*>(now(at)) + std::size_t{layer} * places_.sequences;
  }

  ListPlaces places_;
  std::uint32_t steps_ = 0;
  std::unique_ptr<std::int32_t, FreeHost> host_;
  DeviceArray<std::int32_t> device_;
};

}  // namespace sluice::tools::cuda
