// A sluiced of its own for a test: a configuration in a fresh folder, the process, and its end.
//
// The binary lies beside the test's own. Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>

#include "client/sluice.hpp"
#include "tests/eventually.h"

namespace sluice::test {

class DaemonProcess {
 public:
  // Two tenants, "a" and "b", each with a socket; `extra` are further tables, tiers as given.
  struct Options {
    std::string hbm = "64MiB";
    std::string dram = "128MiB";
    int max_sessions = 1024;
    std::string program = "sluiced";  // beside the test's own
    std::string daemon;               // more keys of [daemon]
    std::string extra;
    std::string tenant_a;  // more keys of tenant a, such as quotas
    std::string tenant_b;
  };

  explicit DaemonProcess(const Options& options);
  DaemonProcess() : DaemonProcess(Options()) {}
  ~DaemonProcess();

  std::string socket(char tenant) const { return folder_ + "/" + tenant + ".sock"; }
  std::string admin_socket() const { return folder_ + "/sluice.sock"; }
  std::string config_file() const { return folder_ + "/sluiced.toml"; }
  const std::string& folder() const { return folder_; }
  pid_t pid() const { return pid_; }

  void write_config(const Options& options) const;
  // Sends a signal; after one that ends it, wait() reaps it. SIGSTOP: when this returns, it stands
  // still.
  void signal(int number) const;
  // The exit status as waitpid gives it, or -1 at the deadline.
  int wait(std::chrono::milliseconds deadline = kDeadline);
  // Starts it again after it has ended, with the configuration as it is now. Returns when it
  // serves.
  void start();
  // SIGKILL, and start().
  void kill_and_restart();

  // A connection as a tenant. Fails the test on an error.
  client::Client connect(char tenant, std::uint64_t timeout_us = 5'000'000) const;
  // An admin document; "" and a failed test on an error.
  std::string admin(const std::string& verb, const std::string& arguments = "{}") const;

 private:
  void end_keeper() const;

  std::string folder_;
  std::string program_;
  pid_t pid_ = -1;
};

// A small layout: `layers` layers of 2 heads of 16 elements, 16 tokens a block; pages of a layer
// have 2 KiB.
sluice_cache_desc small_cache(const char* model, sluice_executor executor,
                              std::uint32_t layers = 4);

// A sequence of sealed blocks with the keys `prefix`0, `prefix`1 and so on.
client::Sequence sealed_sequence(client::Cache& cache, std::uint32_t blocks,
                                 const std::string& prefix);

// A cache that the test can use; fails the test on an error.
template <class T>
T must(client::Result<T> result);

}  // namespace sluice::test

#include <gtest/gtest.h>

namespace sluice::test {

template <class T>
T must(client::Result<T> result) {
  if (!result) {
    throw std::runtime_error(std::string(sluice_status_name(result.error().code)) + ": " +
                             result.error().text);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace sluice::test
