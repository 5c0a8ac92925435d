// The daemon that a crash test kills and starts again, and what can be seen of it and its keeper
// from outside.
//
// Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace sluice::crash {

struct VictimOptions {
  std::string store;  // a folder for the block store; empty: none
  std::uint32_t store_mib = 256;
  std::string dram = "64MiB";
  std::string program;  // empty: the sluiced beside this one
};

class Victim {
 public:
  explicit Victim(const VictimOptions& options);
  // Ends daemon and keeper, and removes their folder unless keep_folder() was called.
  ~Victim();
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  const std::string& folder() const { return folder_; }
  const std::string& store() const { return store_; }  // its directory; empty: none
  void keep_folder() { kept_ = true; }
  std::string log() const;  // the end of what daemons said
  pid_t pid() const { return pid_; }

  // `armed`: "name:N", a kill point; empty: none. False: it ended before it served, and how()
  // tells how.
  bool start(const std::string& armed);
  // Whether it runs; if not, how() tells how it ended.
  bool runs();
  void kill();
  // SIGTERM. False: it did not end well, or not in time; how() tells how.
  bool stop();
  // What waitpid gave of the last one.
  int how() const { return status_; }
  bool was_killed() const;
  std::string how_text() const;

  // SIGTERM to the keeper, and waits until it is gone.
  void end_keeper();
  std::optional<pid_t> keeper() const;

  // nullopt: the daemon does not answer.
  std::optional<nlohmann::json> ask(const std::string& verb, const nlohmann::json& arguments) const;

 private:
  std::string admin_socket() const { return folder_ + "/sluice.sock"; }
  void write_config(const VictimOptions& options) const;
  void run_program(const std::string& armed) const;

  std::string folder_;
  std::string store_;
  std::string program_;
  pid_t pid_ = -1;
  int status_ = 0;
  bool kept_ = false;
};

// Entries of /proc/PID/fd; 0 if there is no such process.
// Of them all but those of files in `store`; empty: all.
std::size_t descriptors_of(pid_t pid, const std::string& store = {});

}  // namespace sluice::crash
