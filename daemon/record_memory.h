// The records of a cache's blocks, in memory that outlives the daemon.
//
// Thread-safety: as the manager's that writes them.
#pragma once

#include <cstdint>
#include <span>

#include "daemon/residency/record.h"
#include "ipc/error.h"
#include "ipc/fd.h"
#include "ipc/mapping.h"

namespace sluice::daemon {

class RecordMemory {
 public:
  RecordMemory() = default;

  // Zeroed: of no blocks. Pages are taken when they are written. Errors: no_memory, limit_reached.
  static ipc::Result<RecordMemory> create(std::uint32_t blocks);
  // Errors: invalid_argument (another size), no_memory.
  static ipc::Result<RecordMemory> adopt(ipc::Fd fd, std::uint32_t blocks);

  int fd() const { return fd_.get(); }
  std::span<residency::BlockRecord> records() const { return records_; }

 private:
  static ipc::Result<RecordMemory> map(ipc::Fd fd, std::uint32_t blocks);

  ipc::Fd fd_;
  ipc::Mapping memory_;
  std::span<residency::BlockRecord> records_;
};

}  // namespace sluice::daemon
