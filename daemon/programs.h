// Programs that the daemon starts.
//
// Thread-safety: any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

namespace sluice::daemon {

// The program of this name in the folder that this one was started from.
inline std::string program_beside(std::string_view name) {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / name;
}

}  // namespace sluice::daemon
