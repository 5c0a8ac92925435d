#include "client/default_socket.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace sluice::client {
namespace {

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

bool is_folder_of(const std::string& path, uid_t user) {
  struct stat at{};
  return ::lstat(path.c_str(), &at) == 0 && S_ISDIR(at.st_mode) && at.st_uid == user;
}

}  // namespace

std::string find_socket(const SocketPlaces& places) {
  if (exists(places.system)) return places.system;
  if (!places.run_time.empty() && exists(places.run_time + "/sluice.sock")) {
    return places.run_time + "/sluice.sock";
  }
  if (is_folder_of(places.shared, places.user) && exists(places.shared + "/sluice.sock")) {
    return places.shared + "/sluice.sock";
  }
  return places.system;
}

std::string default_socket() {
  if (std::string given = variable("SLUICE_SOCKET"); !given.empty()) return given;
  const std::string run_time = variable("XDG_RUNTIME_DIR");
  const uid_t user = ::geteuid();
  return find_socket({kSystemSocket, run_time.empty() ? std::string() : run_time + "/sluice",
                      "/tmp/sluice-" + std::to_string(user), user});
}

}  // namespace sluice::client
