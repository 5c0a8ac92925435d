// KV in Sluice: a plan per layer resolves the lists, and one forecasts those of the next layer in a
// stream of its own.
//
// Thread-safety: as kv_home.h.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "client/sluice.hpp"
#include "tools/bench/cuda/gpu_node.h"
#include "tools/bench/cuda/kv_home.h"

namespace sluice::tools::cuda {

struct DecodeTally {
  unsigned long long hits = 0;
  unsigned long long misses = 0;
  unsigned long long no_room = 0;
  unsigned long long absent = 0;
};

class SluiceHome final : public KvHome {
 public:
  // Begins a step of the node's actor, whose stream is `stream` from then on; that, and `node`,
  // outlive this. Forecasts take `budget_bytes` each, in a stream of `forecast_priority`.
  static ipc::Result<SluiceHome> make(GpuNode& node, const DecodeAccess& access,
                                      const Stream& stream, std::uint32_t steps,
                                      std::uint64_t budget_bytes, int forecast_priority);

  DecodeLists& lists() override { return *lists_; }
  const std::byte* pages() const override {
    return static_cast<const std::byte*>(node_.arena().base);
  }
  std::uint32_t slot_limit() const override { return node_.slots(); }
  const std::int32_t* slots(std::uint32_t layer) const override;
  KnownPages known(std::uint32_t layer) const override;
  void fill_lists(std::uint32_t first_step) override;
  ipc::Status enqueue_resolve(std::uint32_t layer) override;
  ipc::Status enqueue_forecast(std::uint32_t layer) override;
  ipc::Status enqueue_join() override;
  ipc::Status enqueue_tally() override;

  ipc::Status clear_tally() { return tally_.clear("clearing a count"); }
  ipc::Result<DecodeTally> tallied() const { return tally_.first("counting outcomes"); }
  // Ends the step; nothing is in flight, and nothing of this is used any more.
  ipc::Status end();

 private:
  SluiceHome(GpuNode& node, const DecodeAccess& access, const Stream& stream)
      : node_(node), access_(access), stream_(&stream) {}
  ipc::Status make_results();
  ipc::Status open_forecaster(int priority);
  ipc::Status make_plans(std::uint64_t budget_bytes);
  sluice_plan_desc plan_of(std::uint32_t layer) const;
  std::size_t first_item(std::uint32_t layer) const {
    return std::size_t{layer} * lists_->places().sequences * lists_->places().capacity;
  }

  GpuNode& node_;
  const DecodeAccess& access_;
  const Stream* stream_;
  std::optional<DecodeLists> lists_;
  DeviceArray<std::int32_t> slots_;
  DeviceArray<std::uint8_t> outcomes_;
  DeviceArray<DecodeTally> tally_;
  std::vector<client::Plan> plans_;
  Stream forecast_stream_;  // outlives the forecaster
  Event forked_;
  Event joined_;
  std::optional<client::Actor> forecaster_;
  std::vector<client::Plan> forecast_plans_;
  bool forecasting_ = false;  // in the step that is being enqueued
};

}  // namespace sluice::tools::cuda
