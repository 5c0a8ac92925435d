#include "tools/replay/gpu.h"

#include <cuda_runtime_api.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <sstream>

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

// What the child says: this first, and then the UUIDs, a line each, or why there are none.
constexpr char kFound = '+';
constexpr char kMissing = '-';
constexpr std::size_t kMostBytes = 4096;

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

std::string ask() {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  std::string text(1, kFound);
  for (int ordinal = 0; status == cudaSuccess && ordinal < count; ++ordinal) {
    cudaDeviceProp properties{};
    status = cudaGetDeviceProperties(&properties, ordinal);
    text += uuid_text(properties.uuid) + "\n";
  }
  return status == cudaSuccess ? text : kMissing + std::string(cudaGetErrorString(status));
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

ipc::Result<std::vector<std::string>> gpu_uuids() {
  int ends[2];
  if (::pipe(ends) != 0) return ipc::fail_errno("pipe");
  std::fflush(nullptr);
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string answer = ask().substr(0, kMostBytes);
    ::_exit(::write(ends[1], answer.data(), answer.size()) < 0 ? 1 : 0);
  }
  ::close(ends[1]);
  const std::string answer = child < 0 ? std::string() : read_all(ends[0]);
  ::close(ends[0]);
  if (child < 0) return ipc::fail_errno("fork");
  ::waitpid(child, nullptr, 0);
  std::vector<std::string> uuids;
  if (answer.starts_with(kFound)) {
    std::istringstream lines(answer.substr(1));
    for (std::string line; std::getline(lines, line);) uuids.push_back(line);
  }
  if (!uuids.empty()) return uuids;
  return fail(Errc::not_supported, "there is no GPU that can be used: " +
                                       (answer.size() > 1 ? answer.substr(1)
                                                          : "none was found, or the process that "
                                                            "asked for them died"));
}

ipc::Result<std::string> gpu_uuid(std::uint32_t ordinal) {
  auto uuids = gpu_uuids();
  if (!uuids) return std::unexpected(std::move(uuids.error()));
  if (ordinal < uuids->size()) return std::move((*uuids)[ordinal]);
  return fail(Errc::not_supported, "there is no GPU " + std::to_string(ordinal) + ", only " +
                                       std::to_string(uuids->size()));
}

}  // namespace sluice::tools
