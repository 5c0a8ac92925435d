// A program of ours as a user runs it: its arguments, its streams and its exit code.
//
// The binary lies beside the test's own. What it inherits as stdin is empty: nobody can be asked.
// Thread-safety: one thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace sluice::test {

std::string content_of(const std::string& path);

// Where a program's stdout goes: into a file, or to a descriptor of ours, or nowhere at all.
struct Stdout {
  enum class Kind { file, descriptor, closed } kind = Kind::file;
  int fd = -1;
};

// A running sluicectl.
class Program {
 public:
  // `folder`: for the files that take its streams.
  Program(const std::string& folder, std::vector<std::string> arguments, Stdout to = {});
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  std::string out() const { return content_of(out_); }
  std::string err() const { return content_of(err_); }
  void interrupt() const;
  // The exit code; -1 if it does not end in time, or was ended by a signal.
  int wait();

 private:
  std::string out_;
  std::string err_;
  pid_t pid_ = -1;
};

}  // namespace sluice::test
