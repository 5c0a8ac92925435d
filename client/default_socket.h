// Where a client looks for its daemon when nobody says: where a daemon of root or of this user
// listens (packaging/sluiced.toml).
//
// Thread-safety: any thread, as long as nobody changes the environment.
#pragma once

#include <sys/types.h>

#include <string>

namespace sluice::client {

inline constexpr const char* kSystemSocket = "/run/sluice/sluice.sock";

struct SocketPlaces {
  std::string system;    // the path of a socket
  std::string run_time;  // the user's folder; empty: none
  std::string shared;    // a folder where everybody can make files, and so pose as our daemon
  uid_t user = 0;
};

// The first that exists of `system`, run_time/sluice.sock, and shared/sluice.sock in a folder that
// is the user's; `system` if none does.
std::string find_socket(const SocketPlaces& places);

// $SLUICE_SOCKET, else what is found in /run/sluice, $XDG_RUNTIME_DIR/sluice and /tmp/sluice-UID.
std::string default_socket();

}  // namespace sluice::client
