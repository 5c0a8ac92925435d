#include "tests/integration/gate.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <stdexcept>
#include <utility>

#include "ipc/fd.h"
#include "tests/integration/daemon_process.h"

namespace sluice::test {

namespace {

Gate* map_gate(const std::string& file, int flags) {
  const ipc::Fd fd(::open(file.c_str(), flags | O_RDWR | O_CLOEXEC, 0600));
  if (!fd || ftruncate(fd.get(), sizeof(Gate)) != 0) throw std::runtime_error("no gate: " + file);
  void* memory = mmap(nullptr, sizeof(Gate), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) throw std::runtime_error("the gate cannot be mapped");
  return static_cast<Gate*>(memory);
}

class GatedDevice final : public daemon::Device {
 public:
  GatedDevice(std::unique_ptr<daemon::Device> device, Gate* gate)
      : device_(std::move(device)), gate_(gate) {}
  ~GatedDevice() override { munmap(gate_, sizeof(Gate)); }

  ipc::Result<ipc::Fd> allocate_extent(ipc::Tier tier, std::uint64_t bytes) override {
    ++gate_->asked;
    if (gate_->closed && !(tier == ipc::Tier::dram && gate_->dram_passes)) {
      ++gate_->waiting;
      while (sem_wait(&gate_->permits) != 0 && errno == EINTR) {
      }
      --gate_->waiting;
    }
    return device_->allocate_extent(tier, bytes);
  }

  ipc::Status refill_extent(ipc::Tier tier, const ipc::Fd& extent, std::uint64_t bytes) override {
    return device_->refill_extent(tier, extent, bytes);
  }

  ipc::Status map_extent(ipc::Tier tier, ipc::ReservedRange& range, std::uint64_t offset,
                         const ipc::Fd& extent, std::uint64_t bytes) override {
    return device_->map_extent(tier, range, offset, extent, bytes);
  }

 private:
  std::unique_ptr<daemon::Device> device_;
  Gate* gate_;
};

}  // namespace

std::unique_ptr<daemon::Device> make_gated_device(std::unique_ptr<daemon::Device> device,
                                                  const std::string& file) {
  Gate* gate = new (map_gate(file, O_CREAT)) Gate;
  if (sem_init(&gate->permits, 1, 0) != 0) throw std::runtime_error("sem_init failed");
  return std::make_unique<GatedDevice>(std::move(device), gate);
}

GateKeeper::GateKeeper(const std::string& file) : gate_(map_gate(file, 0)) {}

GateKeeper::~GateKeeper() {
  open();
  munmap(gate_, sizeof(Gate));
}

void GateKeeper::close_to_arenas() {
  close();
  gate_->dram_passes = true;
}

void GateKeeper::close() {
  while (sem_trywait(&gate_->permits) == 0) {
  }
  gate_->dram_passes = false;
  gate_->closed = true;
}

void GateKeeper::let(std::uint32_t extents) {
  for (std::uint32_t i = 0; i < extents; ++i) sem_post(&gate_->permits);
}

void GateKeeper::open() {
  gate_->closed = false;
  let(2);  // for those that may stand there: the workers of the arenas and of the node
}

bool GateKeeper::somebody_waits() const {
  return eventually([&] { return asks_now(); });
}

}  // namespace sluice::test
