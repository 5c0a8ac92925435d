// fio's side of `sluice-bench storage`: a round of one pattern, as fio itself reports it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "ipc/error.h"
#include "tools/bench/storage_load.h"

namespace sluice::tools {

struct FioJob {
  std::filesystem::path file;
  StoragePattern pattern = StoragePattern::write_blocks;
  std::uint64_t size_bytes = 0;
  std::uint64_t request_bytes = 0;
  std::uint32_t depth = 1;
  bool uring = true;  // else plain system calls on threads
  bool direct = true;
};

// The command line, without the program. Pure.
std::vector<std::string> fio_arguments(const FioJob& job);

// What a report of fio (--output-format=json) says. Errors: internal (it is none). Pure.
ipc::Result<StorageRound> parse_fio(std::string_view report, StoragePattern pattern);

// A round of writes makes the file anew. Errors: not_found (there is no fio; what to do), internal.
ipc::Result<StorageRound> run_fio(const std::string& program, const FioJob& job);

}  // namespace sluice::tools
