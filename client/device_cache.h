// What a cache whose arena lies on a GPU has beyond one of the host: memory that is imported and
// registered, the rows of its sequences, and actors that work in streams.
//
// There is one implementation, in client/cuda; a build without CUDA has none, and open() says so.
// In a forked child nothing but the destructor may be called, and that leaves everything as it is:
// contexts do not survive a fork.
//
// Thread-safety: any thread, once start_pinning() returned.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "ipc/deadline.h"
#include "ipc/error.h"
#include "kernels/table.h"

namespace sluice::client::internal {

class Actor;
class Cache;
class Client;
struct CacheStats;

// DLPack's numbers.
inline constexpr std::int32_t kDeviceHost = 1;
inline constexpr std::int32_t kDeviceCuda = 2;

using DeviceUuid = std::array<std::uint8_t, 16>;

class DeviceCache {
 public:
  // Makes no context yet. Errors: not_supported (this build, or this machine, has no CUDA; or the
  // device cannot use registered host memory at its own address), invalid_argument (no such
  // ordinal).
  static ipc::Result<std::unique_ptr<DeviceCache>> open(const Client& client, std::int32_t ordinal);
  virtual ~DeviceCache() = default;

  virtual std::int32_t ordinal() const = 0;
  virtual const DeviceUuid& uuid() const = 0;

  // ---- at open, in this order. Errors: no_memory, limit_reached, io_error.

  // Also makes the device's context.
  virtual ipc::Status reserve_arena(std::uint64_t bytes) = 0;
  // Imports an extent of exactly `bytes`; its descriptor may be closed afterwards. With executor
  // daemon that is all; what follows is for executor direct, but for ordinal(), uuid() and arena().
  virtual ipc::Status map_arena_extent(std::uint64_t offset, int fd, std::uint64_t bytes) = 0;
  // `node_part` is mapped here already, and stays so for as long as this object lives.
  virtual ipc::Status attach_table(const kernels::TableSizes& sizes, int device_fd,
                                   std::uint64_t device_bytes, std::span<std::byte> node_part) = 0;
  // `frames`: the range in which DRAM extents are mapped; it outlives this object.
  virtual ipc::Status start_pinning(std::byte* frames, std::uint64_t extent_bytes,
                                    std::uint32_t frames_per_extent,
                                    std::uint32_t most_extents) = 0;

  // ---- what the device sees

  virtual std::byte* arena() const = 0;
  virtual const kernels::HotTable& table() const = 0;
  // In device memory: frames below are registered here, so that the device may read them.
  virtual const std::uint32_t* frames_ready() const = 0;
  // HBM that this costs beside the arena.
  virtual std::uint64_t device_bytes() const = 0;

  // ---- DRAM, registered extent by extent in the background

  // So many extents are mapped now.
  virtual void pin(std::uint32_t extents) = 0;
  virtual std::uint32_t pinned() const = 0;
  // Why the next extent could not be registered: limit_reached (the text names the limit),
  // io_error.
  virtual ipc::Status pin_status() const = 0;
  // Tries again, if it stopped for an error.
  virtual void retry_pinning() = 0;
  // Waits until the first `extents` are. Errors: timed_out, those of pin_status().
  virtual ipc::Status wait_pinned(std::uint32_t extents, ipc::Deadline deadline) = 0;

  // kernels::expose_frame, of a block below the table's. Errors: io_error.
  virtual ipc::Status expose_frame(std::uint32_t block, std::uint32_t frame) = 0;

  // ---- rows of sequences, for plans

  // A row with these ids. Errors: limit_reached (kMaxSequenceRows), no_memory, io_error.
  virtual ipc::Result<std::uint32_t> add_row(std::span<const std::uint32_t> ids) = 0;
  // The ids from `first_changed` on are others than before. Ids that launches under way may name
  // stay readable until the row is removed.
  virtual ipc::Status update_row(std::uint32_t row, std::span<const std::uint32_t> ids,
                                 std::size_t first_changed) = 0;
  virtual void remove_row(std::uint32_t row) = 0;

  virtual ipc::Result<std::unique_ptr<Actor>> make_actor(Cache& cache, std::uint32_t index) = 0;

  // Adds what the device has counted since the last time: forecasts, as of each actor's last step.
  virtual void count_into(CacheStats&, std::uint64_t /*page_bytes*/) {}
};

// Sequences of a cache that plans can name.
inline constexpr std::uint32_t kMaxSequenceRows = 65'536;

}  // namespace sluice::client::internal
