// Looks at one directory that is to hold blocks: what file system it is on, whether O_DIRECT works,
// and how fast it is.
//
// What it writes has no name where the file system allows that, and is otherwise unlinked before
// the first byte: no data stays behind, however the program ends.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "ipc/fd.h"
#include "tools/sluicectl/doctor_machine.h"

namespace sluice::tools::doctor {

// Bounds of the speed test of one directory. Half of the time is for writing, half for reading; a
// device that hangs in one piece is waited for.
inline constexpr std::uint64_t kSpeedBytes = std::uint64_t{256} << 20;
inline constexpr std::chrono::milliseconds kSpeedTime{1'000};

// `with_speed`: also the speed test, unless the file system is memory or nearly full.
DirectoryFacts look_at_directory(const WantedDirectory& wanted, bool with_speed);

// A new file in the directory whose name is gone already, for file systems that make none without
// (O_TMPFILE). Nothing with errno if it cannot be made.
ipc::Fd make_unlinked_file(const std::string& directory);

}  // namespace sluice::tools::doctor
