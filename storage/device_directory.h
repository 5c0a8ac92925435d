// A device's directory: `lock`, `device` (which store and which of its devices) and segment files.
//
// Usable without a running store: only lock_directory keeps others out, and only it, the writer of
// `device` and `create` make anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "storage/file.h"
#include "storage/record.h"

namespace sluice::storage {

// "segment-00000007"
std::string segment_name(std::uint32_t segment);

struct SegmentFile {
  std::uint32_t number = 0;
  std::uint64_t sequence = 0;  // 0: its page does not parse: nothing in it can be used
};

// The segment files there, by number, with the sequence that their first page says. A file whose
// page names another store, device or number counts as unreadable. Errors: io_error.
Result<std::vector<SegmentFile>> list_segments(const std::filesystem::path& directory,
                                               const DeviceIdentity& identity);

// The page of `device`; nullopt: there is none. Errors: version_mismatch, data_lost, io_error.
Result<std::optional<DeviceIdentity>> read_device_identity(const std::filesystem::path& directory);
// Durable when it returns. Errors: io_error.
Status write_device_identity(const std::filesystem::path& directory,
                             const DeviceIdentity& identity);

// Makes the directory, if it is not there, and keeps others out until the file is closed.
// Errors: address_in_use, io_error.
Result<File> lock_directory(const std::filesystem::path& directory);

// The same of a directory that is there, without making anything. `shared`: others may look as
// well. Errors: not_found (it is no store's), address_in_use, io_error.
Result<File> lock_to_look(const std::filesystem::path& directory, bool shared);

// Opens a segment's file, made if `create`, with room for all of it on the disk (where the file
// system can promise that). Errors: no_memory (the disk is full), io_error.
Result<OpenedFile> open_segment(const std::filesystem::path& directory, std::uint32_t segment,
                                bool create);
Status reserve_segment(int fd, std::uint64_t segment_bytes);

}  // namespace sluice::storage
