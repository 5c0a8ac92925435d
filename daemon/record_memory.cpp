#include "daemon/record_memory.h"

#include <new>
#include <utility>

#include "ipc/memfd.h"

namespace sluice::daemon {

namespace {

constexpr const char* kRecordsName = "sluice-records";

std::uint64_t bytes_for(std::uint32_t blocks) {
  const std::uint64_t bytes = std::uint64_t{blocks} * sizeof(residency::BlockRecord);
  return (bytes + ipc::kMapGranularity - 1) / ipc::kMapGranularity * ipc::kMapGranularity;
}

}  // namespace

ipc::Result<RecordMemory> RecordMemory::map(ipc::Fd fd, std::uint32_t blocks) {
  auto memory = ipc::Mapping::map(fd.get(), 0, bytes_for(blocks), ipc::Access::read_write,
                                  "the records of a cache");
  if (!memory) return std::unexpected(std::move(memory.error()));
  RecordMemory made;
  made.fd_ = std::move(fd);
  made.memory_ = std::move(*memory);
  made.records_ = {std::launder(reinterpret_cast<residency::BlockRecord*>(made.memory_.data())),
                   blocks};
  return made;
}

ipc::Result<RecordMemory> RecordMemory::create(std::uint32_t blocks) {
  auto fd = ipc::create_memfd(kRecordsName, bytes_for(blocks), ipc::Populate::no);
  if (!fd) return std::unexpected(std::move(fd.error()));
  return map(std::move(*fd), blocks);
}

ipc::Result<RecordMemory> RecordMemory::adopt(ipc::Fd fd, std::uint32_t blocks) {
  if (auto ok = ipc::check_memfd(fd.get(), bytes_for(blocks), kRecordsName); !ok) {
    return ipc::fail(ipc::Errc::invalid_argument, std::move(ok.error().text));
  }
  return map(std::move(fd), blocks);
}

}  // namespace sluice::daemon
