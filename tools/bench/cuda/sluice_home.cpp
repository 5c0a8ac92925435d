#include "tools/bench/cuda/sluice_home.h"

#include <string>
#include <utility>

#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

// About the recall of recorded forecasts, less something, so that pages of this step and of the one
// before make no room.
constexpr std::uint32_t kConfidence = 70;

ipc::Status named(const char* call, client::Status status) {
  auto ours = to_ipc(std::move(status));
  if (!ours) ours.error().text = std::string(call) + ": " + ours.error().text;
  return ours;
}

}  // namespace

ipc::Result<SluiceHome> SluiceHome::make(GpuNode& node, const DecodeAccess& access,
                                         const Stream& stream, std::uint32_t steps,
                                         std::uint64_t budget_bytes, int forecast_priority) {
  SluiceHome home(node, access, stream);
  const DecodeShape& shape = access.shape();
  auto lists =
      DecodeLists::make({shape.layers, shape.sequences, access.longest_list(), true}, steps);
  if (!lists) return std::unexpected(std::move(lists.error()));
  home.lists_.emplace(std::move(*lists));
  if (auto ok = home.make_results(); !ok) return std::unexpected(std::move(ok.error()));
  const sluice_stream ours{SLUICE_STREAM_CUDA, 0, stream.get()};
  if (auto ok = named("sluice_actor_set_stream", node.actor().set_stream(&ours)); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  if (auto ok = home.open_forecaster(forecast_priority); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  if (auto ok = home.make_plans(budget_bytes); !ok) return std::unexpected(std::move(ok.error()));
  if (auto ok = named("sluice_step_begin", node.actor().begin_step()); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return home;
}

ipc::Status SluiceHome::make_results() {
  const std::size_t items = lists_->places().items();
  auto slots = DeviceArray<std::int32_t>::make(items, "slots");
  if (!slots) return std::unexpected(std::move(slots.error()));
  slots_ = std::move(*slots);
  auto outcomes = DeviceArray<std::uint8_t>::make(items, "outcomes");
  if (!outcomes) return std::unexpected(std::move(outcomes.error()));
  outcomes_ = std::move(*outcomes);
  auto counted = DeviceArray<DecodeTally>::make(1, "a count of outcomes");
  if (!counted) return std::unexpected(std::move(counted.error()));
  tally_ = std::move(*counted);
  return {};
}

ipc::Status SluiceHome::open_forecaster(int priority) {
  auto stream = Stream::make(priority);
  if (!stream) return std::unexpected(std::move(stream.error()));
  forecast_stream_ = std::move(*stream);
  for (Event* const event : {&forked_, &joined_}) {
    auto made = Event::make();
    if (!made) return std::unexpected(std::move(made.error()));
    *event = std::move(*made);
  }
  auto actor = to_ipc(node_.cache().open_actor());
  if (!actor) return std::unexpected(std::move(actor.error()));
  forecaster_.emplace(std::move(*actor));
  const sluice_stream ours{SLUICE_STREAM_CUDA, 0, forecast_stream_.get()};
  return named("sluice_actor_set_stream", forecaster_->set_stream(&ours));
}

sluice_plan_desc SluiceHome::plan_of(std::uint32_t layer) const {
  sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
  desc.kind = SLUICE_ITEM_BLOCK;
  desc.max_lists = lists_->places().sequences;
  desc.list_capacity = lists_->places().capacity;
  desc.first_page = layer;
  desc.sequences = node_.rows();
  return desc;
}

ipc::Status SluiceHome::make_plans(std::uint64_t budget_bytes) {
  for (std::uint32_t layer = 0; layer < lists_->places().layers; ++layer) {
    sluice_plan_desc desc = plan_of(layer);
    desc.flags = layer == 0 ? SLUICE_PLAN_ADVANCE : 0;
    desc.items = lists_->items(layer);
    desc.counts = lists_->counts(layer);
    desc.slots = slots_.data() + first_item(layer);
    desc.outcomes = outcomes_.data() + first_item(layer);
    auto plan = to_ipc(client::Plan::create(node_.actor(), desc));
    if (!plan) return std::unexpected(std::move(plan.error()));
    plans_.push_back(std::move(*plan));
    sluice_plan_desc forecast = plan_of(layer);
    forecast.flags = SLUICE_PLAN_FORECAST;
    forecast.items = lists_->forecast_items(layer);
    forecast.counts = lists_->forecast_counts(layer);
    forecast.confidence = kConfidence;
    forecast.budget_bytes = budget_bytes;
    plan = to_ipc(client::Plan::create(*forecaster_, forecast));
    if (!plan) return std::unexpected(std::move(plan.error()));
    forecast_plans_.push_back(std::move(*plan));
  }
  return {};
}

const std::int32_t* SluiceHome::slots(std::uint32_t layer) const {
  return slots_.data() + first_item(layer);
}

KnownPages SluiceHome::known(std::uint32_t layer) const {
  const DecodeShape& shape = access_.shape();
  return {lists_->items(layer), layer, std::uint64_t{shape.blocks} * shape.layers, shape.layers};
}

void SluiceHome::fill_lists(std::uint32_t first_step) {
  lists_->fill(access_, first_step,
               [](std::uint32_t, std::uint32_t, std::uint32_t block, std::uint32_t) {
                 return static_cast<std::int32_t>(block);
               });
}

ipc::Status SluiceHome::enqueue_resolve(std::uint32_t layer) {
  return named("sluice_plan_launch", plans_[layer].launch());
}

ipc::Status SluiceHome::enqueue_forecast(std::uint32_t layer) {
  if (auto ok = forked_.record(*stream_); !ok) return ok;
  if (auto ok = check(cudaStreamWaitEvent(forecast_stream_.get(), forked_.get(), 0),
                      "cudaStreamWaitEvent");
      !ok) {
    return ok;
  }
  if (!std::exchange(forecasting_, true)) {
    if (auto ok = named("sluice_step_begin", forecaster_->begin_step()); !ok) return ok;
  }
  return named("sluice_plan_launch", forecast_plans_[layer].launch());
}

ipc::Status SluiceHome::enqueue_join() {
  if (!std::exchange(forecasting_, false)) return {};
  if (auto ok = named("sluice_step_end", forecaster_->end_step()); !ok) return ok;
  if (auto ok = joined_.record(forecast_stream_); !ok) return ok;
  return check(cudaStreamWaitEvent(stream_->get(), joined_.get(), 0), "cudaStreamWaitEvent");
}

ipc::Status SluiceHome::enqueue_tally() {
  return check(
      tally(outcomes_.data(), lists_->counts(0),
            static_cast<std::uint32_t>(lists_->places().lists()), lists_->places().capacity,
            reinterpret_cast<unsigned long long*>(tally_.data()), stream_->get()),
      "counting outcomes");
}

ipc::Status SluiceHome::end() { return named("sluice_step_end", node_.actor().end_step()); }

}  // namespace sluice::tools::cuda
