// An arena in which a device worker resolves for sessions of executor daemon: its HBM, and the DRAM
// behind it, as the device addresses them, with the lists of one request at a time.
//
// An actor of the table belongs to one session; the daemon sees to it that whoever works for it has
// ended before another one does. Everything is done when a call returns.
//
// Errors of all: no_memory, limit_reached (DRAM that this process may not pin; the text names the
// limit), io_error.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>

#include "daemon/device_worker/protocol.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/ids.h"

namespace sluice::device_worker {

class Arena {
 public:
  virtual ~Arena() = default;

  virtual const ArenaShape& shape() const = 0;
  // Extents that are mapped, in order from the first.
  virtual std::uint32_t mapped(ipc::Tier tier) const = 0;
  // Maps the next one; `extent` may be closed afterwards. There is another one by the shape.
  virtual ipc::Status map(ipc::Tier tier, const ipc::Fd& extent) = 0;

  // ---- numbers are below those of the table and the shape

  virtual ipc::Status enter_step(std::uint32_t actor) = 0;
  virtual ipc::Status leave_step(std::uint32_t actor) = 0;
  // The first `items` pages of the lists: slots and outcomes (kernels::Outcome). The step may be
  // one that another process began, which is dead: fills that it did not end are done again.
  virtual ipc::Status resolve(std::uint32_t actor, std::uint32_t items) = 0;
  // The same in a step of its own, as a forecast; outcomes alone.
  virtual ipc::Status forecast(std::uint32_t actor, std::uint32_t items, std::uint32_t min_age,
                               std::uint64_t budget_bytes) = 0;
  // Slots for all pages of the block, or kNoSlot for all of them.
  virtual ipc::Status claim_pins(std::uint32_t actor, std::uint32_t block) = 0;
  // Slots in which pages of the block are pinned, by their hints; kNoSlot where there is none.
  virtual ipc::Status find_pins(std::uint32_t block) = 0;
  virtual ipc::Status seal_pins(std::uint32_t actor, std::uint32_t block) = 0;
  // Between the slots of the lists and a frame.
  virtual ipc::Status copy_block(std::uint32_t frame, bool to_frame) = 0;
};

}  // namespace sluice::device_worker
