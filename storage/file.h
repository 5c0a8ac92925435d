// A descriptor that is closed when its owner goes, memory as O_DIRECT wants it, and reads and
// writes of whole pages for what is done outside of the io engine (opening a store, the tools).
//
// Thread-safety: as a pointer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "storage/io_engine.h"

namespace sluice::storage {

class File {
 public:
  File() = default;
  explicit File(int fd) : fd_(fd) {}
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  int fd() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

struct FreeMemory {
  void operator()(std::byte* memory) const { std::free(memory); }
};

// Aligned to kIoAlign; `bytes` is a multiple of it. As much as a huge page holds has huge pages if
// the kernel has them. Null: there is none.
using AlignedMemory = std::unique_ptr<std::byte[], FreeMemory>;
AlignedMemory allocate_aligned(std::uint64_t bytes);

struct OpenedFile {
  File file;
  bool direct = false;  // past the page cache
};

// With O_DIRECT where the file system has it. `flags` as of open(2). Errors: io_error.
Result<OpenedFile> open_file(const std::filesystem::path& path, int flags);

// Reads up to memory.size(), less only where the file ends. `memory` and `offset` are aligned.
Result<std::uint64_t> read_at(int fd, std::uint64_t offset, std::span<std::byte> memory);
Status write_at(int fd, std::uint64_t offset, std::span<const std::byte> memory);

// Makes the names in a directory durable.
Status sync_directory(const std::filesystem::path& directory);

}  // namespace sluice::storage
