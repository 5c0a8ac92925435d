// A gate before the memory of a gated_sluiced: while it is closed, the daemon makes an extent only
// when the test lets it. Both map it from a file beside the daemon's configuration.
//
// Thread-safety: the daemon's memory workers on one side, one thread of the test on the other.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "daemon/device.h"

namespace sluice::test {

struct Gate {
  std::atomic<bool> closed{false};
  std::atomic<bool> dram_passes{false};   // also while it is closed
  std::atomic<std::uint32_t> waiting{0};  // extents that the daemon is about to make
  std::atomic<std::uint32_t> asked{0};    // since the daemon began
  sem_t permits;
};

// The daemon's side.
std::unique_ptr<daemon::Device> make_gated_device(std::unique_ptr<daemon::Device> device,
                                                  const std::string& file);

// The test's side. The daemon has made the file.
class GateKeeper {
 public:
  explicit GateKeeper(const std::string& file);
  ~GateKeeper();
  GateKeeper(const GateKeeper&) = delete;
  GateKeeper& operator=(const GateKeeper&) = delete;

  void close();
  // Only what arenas are made of waits.
  void close_to_arenas();
  // Lets so many extents through, or all from now on.
  void let(std::uint32_t extents);
  void open();
  // Whether the daemon stands before the closed gate; now, or soon.
  bool asks_now() const { return gate_->waiting != 0; }
  bool somebody_waits() const;
  std::uint32_t asked() const { return gate_->asked; }

 private:
  Gate* gate_;
};

inline std::string gate_beside(const std::string& config_file) { return config_file + ".gate"; }

}  // namespace sluice::test
