// What the tests of io engines share: files, memory that O_DIRECT takes, and waiting for answers.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "storage/io_engine.h"
#include "tests/eventually.h"

namespace sluice::storage {

#define ASSERT_OK(expression)                                                        \
  do {                                                                               \
    const auto& checked = (expression);                                              \
    ASSERT_TRUE(checked.has_value()) << #expression << ": " << checked.error().text; \
  } while (false)

// Beside the test's program, where the build's disk is: a temporary folder may be in memory, which
// knows no O_DIRECT. Gone at the end.
class DiskFolder {
 public:
  DiskFolder() {
    std::string name =
        (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "io-XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~DiskFolder() { std::filesystem::remove_all(path_); }
  DiskFolder(const DiskFolder&) = delete;
  DiskFolder& operator=(const DiskFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// An open file; O_DIRECT, where the file system lets us.
class DiskFile {
 public:
  explicit DiskFile(const std::filesystem::path& path) : path_(path) {
    const int flags = O_RDWR | O_CREAT | O_CLOEXEC;
    fd_ = open(path.c_str(), flags | O_DIRECT, 0600);
    direct_ = fd_ >= 0;
    if (!direct_) fd_ = open(path.c_str(), flags, 0600);
    EXPECT_GE(fd_, 0) << std::strerror(errno);
  }
  ~DiskFile() { close(fd_); }
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  int fd() const { return fd_; }
  bool direct() const { return direct_; }
  std::uint64_t allocated_bytes() const {
    struct stat status = {};
    EXPECT_EQ(fstat(fd_, &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  // Around the engine.
  std::vector<std::byte> content() const {
    const int fd = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    EXPECT_GE(fd, 0);
    std::vector<std::byte> bytes(std::filesystem::file_size(path_));
    EXPECT_EQ(pread(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    close(fd);
    return bytes;
  }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  bool direct_ = false;
};

// Whole pages, zero at first.
class IoMemory {
 public:
  explicit IoMemory(std::size_t bytes) : bytes_(bytes) {
    void* const address =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(address, MAP_FAILED);
    data_ = static_cast<std::byte*>(address);
  }
  ~IoMemory() { munmap(data_, bytes_); }
  IoMemory(const IoMemory&) = delete;
  IoMemory& operator=(const IoMemory&) = delete;

  std::byte* data() const { return data_; }
  std::span<std::byte> all() const { return {data_, bytes_}; }
  std::span<std::byte> piece(std::size_t offset, std::size_t bytes) const {
    return all().subspan(offset, bytes);
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_;
};

// Bytes that differ by position and by seed.
inline void fill(std::span<std::byte> memory, std::uint64_t seed) {
  for (std::size_t i = 0; i < memory.size(); ++i) {
    memory[i] =
        static_cast<std::byte>(((i + 1) * 0x9e3779b97f4a7c15 + seed * 0xd1342543de82ef95) >> 56);
  }
}

inline std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed) {
  std::vector<std::byte> made(bytes);
  fill(made, seed);
  return made;
}

inline std::vector<std::byte> copy_of(std::span<const std::byte> memory) {
  return {memory.begin(), memory.end()};
}

inline IoRequest read_request(IoFile file, std::uint64_t offset, std::span<std::byte> to,
                              std::uint64_t tag = 0) {
  return {IoOp::read, file, offset, to.data(), to.size(), tag};
}

inline IoRequest write_request(IoFile file, std::uint64_t offset, std::span<std::byte> from,
                               std::uint64_t tag = 0) {
  return {IoOp::write, file, offset, from.data(), from.size(), tag};
}

inline IoRequest sync_request(IoFile file, std::uint64_t tag = 0) {
  return {IoOp::sync, file, 0, nullptr, 0, tag};
}

inline IoRequest discard_request(IoFile file, std::uint64_t offset, std::uint64_t length,
                                 std::uint64_t tag = 0) {
  return {IoOp::discard, file, offset, nullptr, length, tag};
}

// Results by tag of the next `count` answers.
inline std::map<std::uint64_t, std::int64_t> reap_all(IoEngine& engine, std::size_t count) {
  std::map<std::uint64_t, std::int64_t> results;
  std::size_t answered = 0;
  const bool all = test::eventually([&] {
    IoAnswer answers[64];
    const std::size_t room = std::min(std::size(answers), count - answered);
    const std::size_t got =
        engine.reap(std::span(answers).first(room), std::chrono::milliseconds(100));
    for (const IoAnswer& answer : std::span(answers).first(got)) {
      EXPECT_TRUE(results.emplace(answer.tag, answer.result).second)
          << "a second answer for tag " << answer.tag;
    }
    answered += got;
    return answered == count;
  });
  EXPECT_TRUE(all) << answered << " of " << count << " answers came";
  return results;
}

// One request, and its result.
inline std::int64_t run(IoEngine& engine, const IoRequest& request) {
  EXPECT_EQ(engine.submit({&request, 1}), 1u);
  const auto results = reap_all(engine, 1);
  EXPECT_TRUE(results.contains(request.tag));
  return results.empty() ? -1 : results.begin()->second;
}

}  // namespace sluice::storage
