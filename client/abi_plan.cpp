// The C ABI: streams and plans.
#include <cstdint>
#include <string>
#include <utility>

#include "client/abi_checks.h"
#include "client/abi_handles.h"

namespace ipc = sluice::ipc;
using ipc::Errc;
using ipc::fail;
using namespace sluice::client::internal;  // NOLINT(google-build-using-namespace): this file is its
                                           // C face

namespace {

ipc::Result<StreamRef> stream_from(const sluice_stream* stream) {
  if (stream == nullptr || stream->kind == SLUICE_STREAM_NONE) return StreamRef{};
  if (stream->kind != SLUICE_STREAM_CUDA) {
    return fail(Errc::invalid_argument, "stream.kind is " + std::to_string(stream->kind) +
                                            "; expected 0 (none) or 1 (CUDA)");
  }
  if (stream->reserved != 0) return fail(Errc::invalid_argument, "stream.reserved must be zero");
  return StreamRef{true, stream->handle};
}

ipc::Status check_forecast(const sluice_plan_desc& desc) {
  const bool forecast = (desc.flags & SLUICE_PLAN_FORECAST) != 0;
  if (!forecast && (desc.confidence != 0 || desc.budget_bytes != 0)) {
    return fail(Errc::invalid_argument,
                "plan_desc.confidence and budget_bytes are for SLUICE_PLAN_FORECAST, else zero");
  }
  if (forecast && (desc.flags & SLUICE_PLAN_ADVANCE) != 0) {
    return fail(Errc::invalid_argument,
                "a plan that forecasts cannot advance: begin and end the steps of its actor");
  }
  if (desc.confidence > 100) {
    return fail(Errc::invalid_argument, "plan_desc.confidence is " +
                                            std::to_string(desc.confidence) +
                                            "; expected 0 to 100 per cent");
  }
  return {};
}

ipc::Status check_waiting(const sluice_plan_desc& desc) {
  if (desc.wait_us == 0) return {};
  if (desc.wait_us > SLUICE_MAX_PLAN_WAIT_US) {
    return fail(Errc::invalid_argument, "plan_desc.wait_us is " + std::to_string(desc.wait_us) +
                                            "; at most " + std::to_string(SLUICE_MAX_PLAN_WAIT_US));
  }
  if ((desc.flags & SLUICE_PLAN_FORECAST) != 0) {
    return fail(Errc::invalid_argument, "nobody waits for a forecast: plan_desc.wait_us is zero");
  }
  if (desc.outcomes == nullptr) {
    return fail(Errc::invalid_argument,
                "a plan tells by plan_desc.outcomes what is to be waited for, and has none");
  }
  return {};
}

ipc::Result<PlanOptions> plan_options(const sluice_plan_desc* desc) {
  if (auto ok = check_struct(desc, "plan_desc"); !ok) return std::unexpected(ok.error());
  constexpr std::uint32_t kFlags = SLUICE_PLAN_ADVANCE | SLUICE_PLAN_FORECAST;
  if (auto ok = check_zero(desc->reserved, desc->flags & ~kFlags, "plan_desc"); !ok) {
    return std::unexpected(ok.error());
  }
  if (auto ok = check_forecast(*desc); !ok) return std::unexpected(ok.error());
  if (auto ok = check_waiting(*desc); !ok) return std::unexpected(ok.error());
  const bool forecast = (desc->flags & SLUICE_PLAN_FORECAST) != 0;
  if (desc->kind > SLUICE_ITEM_ROW) {
    return fail(Errc::invalid_argument, "plan_desc.kind is " + std::to_string(desc->kind));
  }
  for (const auto& [pointer, name] :
       {std::pair<const void*, const char*>{desc->items, "plan_desc.items"},
        {desc->sequences, "plan_desc.sequences"}}) {
    if (pointer == nullptr) return null_argument(name);
  }
  if (desc->slots == nullptr && !forecast) return null_argument("plan_desc.slots");
  const std::uint32_t per_sequence = desc->lists_per_sequence == 0 ? 1 : desc->lists_per_sequence;
  if (desc->max_lists == 0 || desc->list_capacity == 0 || desc->max_lists % per_sequence != 0) {
    return fail(Errc::invalid_argument,
                "a plan of " + std::to_string(desc->max_lists) + " lists, " +
                    std::to_string(per_sequence) + " per sequence, of " +
                    std::to_string(desc->list_capacity) +
                    " items each; expected at least 1 of each, and whole sequences");
  }
  if (std::uint64_t{desc->max_lists} * desc->list_capacity > SLUICE_MAX_PLAN_ITEMS) {
    return fail(Errc::list_too_long, "a plan of " + std::to_string(desc->max_lists) + " lists of " +
                                         std::to_string(desc->list_capacity) + " items; at most " +
                                         std::to_string(SLUICE_MAX_PLAN_ITEMS) + " items in all");
  }
  PlanOptions options;
  options.kind = desc->kind == SLUICE_ITEM_ROW ? PlanItems::rows : PlanItems::blocks;
  options.advance = (desc->flags & SLUICE_PLAN_ADVANCE) != 0;
  options.forecast = forecast;
  options.confidence = desc->confidence;
  options.budget_bytes = desc->budget_bytes == 0 ? kForecastBudgetBytes : desc->budget_bytes;
  options.max_lists = desc->max_lists;
  options.list_capacity = desc->list_capacity;
  options.lists_per_sequence = per_sequence;
  options.first_page = desc->first_page;
  options.copying_ctas = desc->copying_ctas;
  options.items = desc->items;
  options.counts = desc->counts;
  options.list_count = desc->list_count;
  options.sequences = desc->sequences;
  options.slots = desc->slots;
  options.outcomes = desc->outcomes;
  options.without_slot = desc->without_slot;
  options.wait_us = desc->wait_us;
  return options;
}

}  // namespace

extern "C" {

sluice_status sluice_actor_set_stream(sluice_actor* actor, const sluice_stream* stream,
                                      sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto ref = stream_from(stream);
    if (!ref) return std::unexpected(ref.error());
    return actor->impl->set_stream(*ref);
  });
}

sluice_status sluice_plan_create(sluice_actor* actor, const sluice_plan_desc* desc,
                                 sluice_plan** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto options = plan_options(desc);
    if (!options) return std::unexpected(options.error());
    auto plan = actor->impl->make_plan(*options);
    if (!plan) return std::unexpected(plan.error());
    *out = new sluice_plan{std::move(*plan)};
    return {};
  });
}

sluice_status sluice_plan_launch(sluice_plan* plan, const sluice_stream* stream,
                                 sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (plan == nullptr) return null_argument("plan");
    auto ref = stream_from(stream);
    if (!ref) return std::unexpected(ref.error());
    return plan->impl->launch(*ref);
  });
}

sluice_status sluice_plan_launch_wait(sluice_plan* plan, const sluice_stream* stream,
                                      std::uint64_t wait_us, std::uint64_t* absent,
                                      sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (plan == nullptr) return null_argument("plan");
    auto ref = stream_from(stream);
    if (!ref) return std::unexpected(ref.error());
    std::uint64_t left = 0;
    auto ok = plan->impl->launch_wait(*ref, deadline_after(wait_us), left);
    if (absent != nullptr) *absent = left;
    return ok;
  });
}

void sluice_plan_destroy(sluice_plan* plan) { delete plan; }

}  // extern "C"
