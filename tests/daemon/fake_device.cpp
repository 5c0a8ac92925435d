#include "tests/daemon/fake_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <new>
#include <stdexcept>

#include "ipc/fd.h"

namespace sluice::test {

FakeDeviceControl* map_fake_device(const std::string& file) {
  const ipc::Fd fd(::open(file.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd) throw std::runtime_error("no fake device: " + file);
  void* memory =
      mmap(nullptr, sizeof(FakeDeviceControl), PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) throw std::runtime_error("the fake device cannot be mapped");
  return static_cast<FakeDeviceControl*>(memory);
}

FakeDevice::FakeDevice()
    : file_(std::filesystem::temp_directory_path() / "sluice-fake-device.XXXXXX") {
  const ipc::Fd fd(mkstemp(file_.data()));
  if (!fd || ftruncate(fd.get(), sizeof(FakeDeviceControl)) != 0) {
    throw std::runtime_error("mkstemp for a fake device failed");
  }
  control_ = new (map_fake_device(file_)) FakeDeviceControl;
  setenv(kFakeDeviceVariable, file_.c_str(), 1);
}

FakeDevice::~FakeDevice() {
  munmap(control_, sizeof(FakeDeviceControl));
  unlink(file_.c_str());
  unsetenv(kFakeDeviceVariable);
}

std::string FakeDevice::program() {
  return std::filesystem::read_symlink("/proc/self/exe").parent_path() / "fake_device_worker";
}

}  // namespace sluice::test
