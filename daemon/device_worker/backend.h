// What a device worker does with its device. Two implementations: CUDA, and memory of the node for
// tests where there is no GPU.
//
// Memory and tables are file descriptors that the caller owns; the backend keeps what it maps of a
// table until it is forgotten. Everything is done when a call returns.
//
// Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "daemon/device_worker/arena.h"
#include "daemon/device_worker/protocol.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "kernels/table_sizes.h"

namespace sluice::device_worker {

class Backend {
 public:
  virtual ~Backend() = default;

  // False after an error that this process cannot recover from: it answers and ends.
  virtual bool usable() const = 0;

  virtual ipc::Result<DeviceFacts> describe() = 0;
  // Zeroed; `bytes` is a multiple of the granularity. Errors: no_memory, io_error.
  virtual ipc::Result<ipc::Fd> allocate(std::uint64_t bytes) = 0;
  virtual ipc::Status scrub(const ipc::Fd& memory, std::uint64_t bytes) = 0;

  // Makes the device's part of an empty table, and formats both. Its memory has
  // device_table_bytes(sizes), rounded up to the granularity. Errors: as allocate.
  virtual ipc::Result<ipc::Fd> make_table(const kernels::TableSizes& sizes,
                                          const ipc::Fd& node) = 0;
  // `table` becomes the name of this table for the calls below.
  virtual ipc::Status open_table(std::uint64_t table, const kernels::TableSizes& sizes,
                                 const ipc::Fd& device, const ipc::Fd& node) = 0;
  // Numbers in `work` are below those of the table. Errors: not_found (no such table), io_error.
  virtual ipc::Status work(std::uint64_t table, const TableWork& work) = 0;
  // Writes words [first, first + count) of the table to the start of `into`.
  virtual ipc::Status read_words(std::uint64_t table, std::uint32_t first, std::uint32_t count,
                                 const ipc::Fd& into) = 0;
  // With its arena, if it has one.
  virtual void forget_table(std::uint64_t table) = 0;
  // Errors: not_found.
  virtual ipc::Result<kernels::TableSizes> sizes_of(std::uint64_t table) const = 0;

  // The arena of a table, of a shape that check_shape() passed, and without extents yet; `lists` is
  // of ListMemory::kBytes. Errors: not_found (no such table), no_memory, io_error.
  virtual ipc::Status open_arena(std::uint64_t table, const ArenaShape& shape,
                                 const ipc::Fd& lists) = 0;
  // Null: none was opened.
  virtual Arena* arena(std::uint64_t table) = 0;
};

// Refuses everything, for a reason: there is no such device, say.
std::unique_ptr<Backend> make_refusing_backend(ipc::Error reason);

}  // namespace sluice::device_worker
