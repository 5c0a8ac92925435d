#include "storage/io_files.h"

namespace sluice::storage {

Result<IoFile> IoFiles::add(int fd) {
  if (fd < 0) {
    return ipc::fail(Errc::invalid_argument,
                     "a file to register needs an open descriptor, not " + std::to_string(fd));
  }
  if (free_.empty() && descriptors_.size() == kMaxIoFiles) {
    return ipc::fail(Errc::limit_reached, "an io engine registers at most " +
                                              std::to_string(kMaxIoFiles) +
                                              " files; unregister one that is not needed");
  }
  if (free_.empty()) {
    free_.push_back(static_cast<std::uint32_t>(descriptors_.size()));
    descriptors_.push_back(kNone);
  }
  const IoFile file{free_.back()};
  free_.pop_back();
  descriptors_[file.index] = fd;
  return file;
}

void IoFiles::remove(IoFile file) {
  SLUICE_ASSERT(descriptor(file) != kNone);
  descriptors_[file.index] = kNone;
  free_.push_back(file.index);
}

int IoFiles::descriptor(IoFile file) const {
  SLUICE_ASSERT(file.index < descriptors_.size() && descriptors_[file.index] != kNone);
  return descriptors_[file.index];
}

}  // namespace sluice::storage
