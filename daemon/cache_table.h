// The hot table of a cache, as the daemon reaches it. There are two kinds.
//
// A whole table lies in the node's memory, and the daemon's CPU does what is to be done to its
// words. Of a split table (kernels/table_sizes.h) the words are a device's: only the device worker
// gets at them, by way of the memory worker, and that takes a while. So what changes words is
// *ordered*: the order is done when its ticket says so, at once for a whole table. Orders may not
// be forgotten: while the device cannot be reached they wait, and are tried again.
//
// Thread-safety: as marked; "worker" is the memory worker, one call at a time, "coordinator" is
// under the coordinator's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/ids.h"
#include "kernels/grace.h"
#include "kernels/table.h"

namespace sluice::daemon {

// Of the memfd that the table, or the node's part of it, lies in.
inline constexpr const char* kTableName = "sluice-table";

// What the arena holds at one look; a moving picture while resolves run.
struct HbmResidency {
  std::uint64_t cached_pages = 0;
  std::uint64_t pinned_pages = 0;
  std::uint64_t free_slots = 0;
  std::vector<std::uint32_t> pages_of_block;  // pages of a block that are in slots, pinned ones too
  std::vector<std::uint32_t> pinned_of_block;
};

// Nothing counted yet.
HbmResidency empty_residency(const kernels::HotTable& table);
// Counts one word in, whatever a client made of it.
void count_word(HbmResidency& found, const kernels::HotTable& table, kernels::Word word);

struct TableBytes {
  std::uint64_t node = 0;           // in the memfd
  std::uint64_t device = 0;         // of a split table, else 0
  std::uint64_t device_extent = 0;  // of the allocation that the device's part lies in
};

class CacheTable : public std::enable_shared_from_this<CacheTable> {
 public:
  using Ticket = std::uint64_t;

  CacheTable() = default;
  virtual ~CacheTable() = default;
  CacheTable(const CacheTable&) = delete;
  CacheTable& operator=(const CacheTable&) = delete;

  virtual TableBytes bytes() const = 0;
  // What a process needs to use it, in the order of the protocol (ipc/wire.fbs, CacheOpened).
  virtual std::vector<int> fds() const = 0;

  // ---- worker: coming and going

  // Makes kTablePiece more of it. Errors: no_memory, limit_reached, io_error.
  virtual ipc::Status make_piece() = 0;
  virtual bool whole() const = 0;
  // Frees a piece; false: there was nothing left.
  virtual bool free_piece() = 0;

  static constexpr std::uint64_t kTablePiece = std::uint64_t{64} << 20;

  // ---- when it is whole

  // What the daemon sees of it, with the frame_of that users read: everything, or the node's part.
  virtual kernels::HotTable view() const = 0;

  // Whether a grace goes by the log alone: what begins it must be logged, frame or not.
  virtual bool grace_by_log() const = 0;

  // ---- coordinator: orders, done in this order

  // These actors' processes are gone: they become idle.
  virtual Ticket reset_actors(const std::vector<std::uint32_t>& actors) = 0;
  // Drops every page of these blocks, by a scan that begins after this call.
  virtual Ticket drop_pages(const std::vector<ipc::BlockId>& ids) = 0;
  // Pins of a dead owner: dropped, or turned into ordinary pages.
  virtual Ticket drop_pins(const std::vector<ipc::BlockId>& ids, bool sealed) = 0;
  // Any thread.
  virtual bool done(Ticket ticket) const = 0;

  // ---- operators, any thread

  // Errors: busy (the words are being fetched: ask again soon), or why that failed.
  virtual ipc::Result<HbmResidency> scan() = 0;

  // ---- worker: what waits

  // `listener` is called, from any thread and under any lock, when there is something for work().
  virtual void on_orders(std::function<void(std::shared_ptr<CacheTable>)> /*listener*/) {}
  // Does some of what waits; whether there is more.
  virtual bool work() { return false; }
  // Calls the listener again for orders that failed, if it is time.
  virtual void retry(std::chrono::steady_clock::time_point /*now*/) {}
};

// Zeroed memory of the node, formatted. Errors: no_memory, limit_reached, io_error.
ipc::Result<std::shared_ptr<CacheTable>> make_whole_table(const kernels::TableSizes& sizes);
// One that a daemon of before left; whole. Errors: invalid_argument, no_memory, io_error.
ipc::Result<std::shared_ptr<CacheTable>> adopt_whole_table(const kernels::TableSizes& sizes,
                                                           ipc::Fd fd);

}  // namespace sluice::daemon
