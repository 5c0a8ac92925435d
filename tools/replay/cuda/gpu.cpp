#include "tools/replay/gpu.h"

#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

// What the child says: this first, and then the UUID or why there is none.
constexpr char kFound = '+';
constexpr char kMissing = '-';
constexpr std::size_t kMostBytes = 256;

std::string uuid_text(const cudaUUID_t& uuid) {
  std::string text = "GPU-";
  for (std::size_t i = 0; i < sizeof uuid.bytes; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", static_cast<unsigned char>(uuid.bytes[i]));
    text += hex;
  }
  return text;
}

std::string ask(int ordinal) {
  cudaDeviceProp properties{};
  const cudaError_t status = cudaGetDeviceProperties(&properties, ordinal);
  if (status != cudaSuccess) return kMissing + std::string(cudaGetErrorString(status));
  return kFound + uuid_text(properties.uuid);
}

std::string read_all(int fd) {
  std::string text;
  std::array<char, kMostBytes> buffer{};
  ssize_t got = 0;
  while (text.size() < kMostBytes && (got = ::read(fd, buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

}  // namespace

bool has_cuda() { return true; }

ipc::Result<std::string> gpu_uuid(std::uint32_t ordinal) {
  int ends[2];
  if (::pipe(ends) != 0) return ipc::fail_errno("pipe");
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string answer = ask(static_cast<int>(ordinal)).substr(0, kMostBytes);
    ::_exit(::write(ends[1], answer.data(), answer.size()) < 0 ? 1 : 0);
  }
  ::close(ends[1]);
  const std::string answer = child < 0 ? std::string() : read_all(ends[0]);
  ::close(ends[0]);
  if (child < 0) return ipc::fail_errno("fork");
  ::waitpid(child, nullptr, 0);
  if (answer.size() > 1 && answer[0] == kFound) return answer.substr(1);
  return fail(Errc::not_supported,
              "GPU " + std::to_string(ordinal) + " cannot be used: " +
                  (answer.size() > 1 ? answer.substr(1) : "the process that asked for it died"));
}

}  // namespace sluice::tools
