// Opens the devices of a store and finds out what is on them.
//
// The index says what it knows; what it does not know yet is behind its checkpoints, in the tail of
// the segments. An entry whose segment is gone or has another sequence by now is stale and dropped;
// a record in the tail that is torn is dropped. An index that is lost altogether is made anew from
// all segments. Then the parts of all but the last two segments are not read: a segment that has
// two successors was synced, and every read verifies what it reads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "storage/catalog.h"
#include "storage/device_directory.h"
#include "storage/index.h"
#include "storage/segments.h"

namespace sluice::storage {

struct OpenedDevice {
  DeviceConfig config;
  File lock;
  std::optional<DeviceIdentity> identity;  // nullopt: a new one
  std::string why_not;                     // not empty: it cannot be used
  Segments::Config segments;
  Checkpoint checkpoint;

  bool usable() const { return why_not.empty(); }
};

// Locks the directories and reads who they are. One that fails is not usable.
// Errors: address_in_use, version_mismatch, io_error (none is usable).
Result<std::vector<OpenedDevice>> open_devices(const std::vector<DeviceConfig>& configs);

// All have an identity of one store then, and the index the same. Errors: bad_config, io_error.
Result<StoreId> identify(std::vector<OpenedDevice>& devices, Index& index,
                         std::uint64_t segment_bytes);

struct Recovered {
  std::uint64_t next_sequence = 1;
  std::uint64_t recovered_blocks = 0;
  std::uint64_t dropped_records = 0;
  DayBytes written;
};

// Fills the catalog, and tells the index what it did not know. Errors: io_error (of the index).
Result<Recovered> recover(std::vector<OpenedDevice>& devices, Index& index, Catalog& catalog);

}  // namespace sluice::storage
