// The arena of a device worker without a device: memfds for HBM and the CPU's functions for
// kernels. What a device mirrors for the daemon is mirrored here after each request.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/device_worker/arena.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "kernels/forecast.h"
#include "kernels/pins.h"
#include "kernels/resolve.h"
#include "kernels/steps.h"

namespace sluice::test {

class FakeArena final : public device_worker::Arena {
 public:
  FakeArena(const kernels::HotTable& table, const device_worker::ArenaShape& shape)
      : table_(table), shape_(shape) {}

  ipc::Status prepare(const ipc::Fd& lists) {
    auto memory = ipc::Mapping::map(lists.get(), 0, device_worker::ListMemory::kBytes,
                                    ipc::Access::read_write, "lists");
    if (!memory) return std::unexpected(memory.error());
    lists_memory_ = std::move(*memory);
    lists_.data = lists_memory_.data();
    for (auto& [range, bytes] :
         {std::pair{&arena_, shape_.arena_bytes()}, std::pair{&frames_, shape_.frames_bytes()}}) {
      auto reserved = ipc::ReservedRange::reserve(bytes, "fake memory");
      if (!reserved) return std::unexpected(reserved.error());
      *range = std::move(*reserved);
    }
    store_.arena = arena_.data();
    store_.frames = frames_.data();
    store_.page_bytes = shape_.page_bytes;
    store_.frame_stride = shape_.frame_stride;
    store_.slots = table_.sizes.slots;
    store_.frames_ready = &frames_ready_;
    return {};
  }

  const device_worker::ArenaShape& shape() const override { return shape_; }
  std::uint32_t mapped(ipc::Tier tier) const override {
    return tier == ipc::Tier::hbm ? slot_extents_ : frame_extents_;
  }

  ipc::Status map(ipc::Tier tier, const ipc::Fd& extent) override {
    if (tier == ipc::Tier::hbm) {
      const std::uint64_t bytes = shape_.slot_extent_bytes;
      return arena_.map_at(slot_extents_++ * bytes, extent.get(), 0, bytes, ipc::Access::read_write,
                           "fake HBM");
    }
    const std::uint64_t bytes = shape_.frame_extent_bytes;
    auto mapped = frames_.map_at(frame_extents_ * bytes, extent.get(), 0, bytes,
                                 ipc::Access::read_write, "fake DRAM");
    if (mapped) frames_ready_ = ++frame_extents_ * shape_.frames_per_extent;
    return mapped;
  }

  ipc::Status enter_step(std::uint32_t actor) override {
    kernels::enter_step(table_, actor);
    return mirror(actor);
  }

  ipc::Status leave_step(std::uint32_t actor) override {
    kernels::leave_step(table_, actor);
    return mirror(actor);
  }

  ipc::Status resolve(std::uint32_t actor, std::uint32_t items) override {
    kernels::ResolveList list;
    list.pages = reinterpret_cast<const kernels::Page*>(lists_.items());
    list.count = items;
    list.slots = lists_.slots();
    list.outcomes = reinterpret_cast<kernels::Outcome*>(lists_.outcomes());
    (void)kernels::resolve(table_, store_, actor, step_of(actor), list);
    return mirror(actor);
  }

  ipc::Status forecast(std::uint32_t actor, std::uint32_t items, std::uint32_t min_age,
                       std::uint64_t budget_bytes) override {
    const kernels::Step step = kernels::enter_step(table_, actor);
    std::uint64_t left = budget_bytes;
    for (std::uint32_t i = 0; i < items; ++i) {
      kernels::ForecastList one;
      one.pages = reinterpret_cast<const kernels::Page*>(lists_.items()) + i;
      one.count = 1;
      one.budget_bytes = left;
      one.min_age = min_age;
      const kernels::ForecastCounts counts = kernels::forecast(table_, store_, actor, step, one);
      left -= counts.issued_bytes;
      lists_.outcomes()[i] = static_cast<std::uint8_t>(outcome(counts));
    }
    return leave_step(actor);
  }

  ipc::Status claim_pins(std::uint32_t actor, std::uint32_t block) override {
    if (!kernels::claim_pins(table_, table_.sizes.slots, block, step_of(actor), lists_.slots())) {
      std::fill_n(lists_.slots(), table_.sizes.pages_per_block, kernels::kNoSlot);
    }
    return {};
  }

  ipc::Status find_pins(std::uint32_t block) override {
    for (std::uint32_t i = 0; i < table_.sizes.pages_per_block; ++i) {
      lists_.slots()[i] = kernels::find_pinned(table_, kernels::page_number(table_, block, i));
    }
    return {};
  }

  ipc::Status seal_pins(std::uint32_t actor, std::uint32_t block) override {
    kernels::seal_pins(table_, block, step_of(actor), lists_.slots());
    return {};
  }

  ipc::Status copy_block(std::uint32_t frame, bool to_frame) override {
    std::byte* const bytes = frames_.data() + frame * shape_.frame_stride;
    for (std::uint32_t page = 0; page < table_.sizes.pages_per_block; ++page) {
      std::byte* const in_frame = bytes + page * shape_.page_bytes;
      std::byte* const in_slot = kernels::slot_bytes(store_, lists_.slots()[page]);
      std::memcpy(to_frame ? in_frame : in_slot, to_frame ? in_slot : in_frame, shape_.page_bytes);
    }
    return {};
  }

 private:
  static kernels::Outcome outcome(const kernels::ForecastCounts& counts) {
    if (counts.present != 0) return kernels::Outcome::hit;
    if (counts.issued != 0) return kernels::Outcome::filled;
    return counts.absent != 0 ? kernels::Outcome::absent : kernels::Outcome::no_slot;
  }

  kernels::Step step_of(std::uint32_t actor) const {
    return kernels::active_step(kernels::load_acquire(&kernels::actor_line(table_, actor)->active));
  }

  ipc::Status mirror(std::uint32_t actor) const {
    const kernels::ActorLine& own = *kernels::actor_line(table_, actor);
    auto& seen =
        *reinterpret_cast<kernels::ActorLine*>(table_.mirrors + actor * kernels::kActorBytes);
    seen.counters = own.counters;
    kernels::store_release(&seen.entries, own.entries);
    kernels::store_release(&seen.log_position, own.log_position);
    kernels::store_release(&seen.active, own.active);
    auto& bell = table_.host_header->wanted_bell;
    kernels::store_release(&bell, kernels::load_relaxed(&table_.header->wanted_bell));
    return {};
  }

  kernels::HotTable table_;
  device_worker::ArenaShape shape_;
  ipc::Mapping lists_memory_;
  device_worker::ListMemory lists_;
  ipc::ReservedRange arena_;
  ipc::ReservedRange frames_;
  std::uint32_t slot_extents_ = 0;
  std::uint32_t frame_extents_ = 0;
  std::uint32_t frames_ready_ = 0;
  kernels::PageStore store_;
};

}  // namespace sluice::test
