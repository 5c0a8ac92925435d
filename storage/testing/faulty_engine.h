// An io engine for tests that stands in front of a real one and fails on command.
//
// The disk is what outlives engines: its rules of faults, whether it has vanished, and what it was
// told to write and not yet to sync. A test gives the store an engine of the disk, makes it fail or
// ends the store at any point, loses power, and opens the store again on what is left.
//
// What goes around the engine (making, growing and removing files) is not undone by a power loss.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <utility>

#include "storage/io_engine.h"
#include "storage/testing/fault_plan.h"
#include "storage/testing/unsynced_file.h"

namespace sluice::storage {

// What a power loss may take is remembered: after a sync that failed for as long as the disk lives
// (unsynced_file.h). One that loses no power, and is to live for long, remembers nothing.
enum class Power : bool { may_be_lost, stays };

// Thread-safety: any thread.
class FaultyDisk {
 public:
  explicit FaultyDisk(std::uint64_t seed, Power power = Power::may_be_lost)
      : power_(power), plan_(seed) {}

  void add(const FaultRule& rule);
  // Forgets the rules.
  void clear();
  // From now on every request is answered -ENODEV, until power was lost.
  void vanish();
  // How often, in requests.
  std::uint64_t injected(Fault fault) const;

  // Undoes some of what no sync made durable, by the seed, and brings a vanished disk back. No
  // engine of the disk is there. Of one whose power stays, nothing is undone.
  PowerLoss lose_power(std::uint64_t seed);

 private:
  friend class FaultyEngine;

  using FileId = std::pair<std::uint64_t, std::uint64_t>;  // device and inode
  struct File {
    std::unique_ptr<UnsyncedFile> changes;
    std::uint32_t registered = 0;
  };

  Result<FileId> register_file(int fd);
  void unregister_file(FileId id);

  const Power power_;
  mutable std::mutex mutex_;
  FaultPlan plan_;
  std::map<FileId, File> files_;
  std::uint32_t engines_ = 0;
};

// Has the name and the depth of the real one.
std::unique_ptr<IoEngine> make_faulty_engine(std::unique_ptr<IoEngine> real,
                                             std::shared_ptr<FaultyDisk> disk);

}  // namespace sluice::storage
