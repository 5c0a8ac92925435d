#include "tools/bench/storage_fio.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

extern char** environ;

namespace sluice::tools {
namespace {

using ipc::Errc;

// As many as the store's engine of threads has.
constexpr std::uint32_t kMostFioThreads = 16;

std::string option(const char* name, const std::string& value) {
  return "--" + std::string(name) + "=" + value;
}

std::string read_to_end(int fd) {
  std::string all;
  std::array<char, 4096> piece{};
  while (true) {
    const ssize_t got = ::read(fd, piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return all;
    all.append(piece.data(), static_cast<std::size_t>(got));
  }
}

ipc::Result<std::string> output_of(const std::string& program,
                                   const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return ipc::fail_errno("a pipe to fio");
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  pid_t child = -1;
  const int error =
      ::posix_spawnp(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (error != 0) {
    ::close(ends[0]);
    return ipc::fail(Errc::not_found,
                     program + " cannot be started (" + std::generic_category().message(error) +
                         "): apt-get install fio, or measure the store alone with --no-fio");
  }
  std::string output = read_to_end(ends[0]);
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return output;
  return ipc::fail(Errc::internal, program + " failed: " + output.substr(0, 500));
}

}  // namespace

std::vector<std::string> fio_arguments(const FioJob& job) {
  const bool writes = job.pattern == StoragePattern::write_blocks;
  std::vector<std::string> arguments = {
      "--name=storage",
      "--output-format=json",
      "--thread",
      "--group_reporting",
      "--randrepeat=0",
      option("filename", job.file.string()),
      option("rw", writes ? "write" : "randread"),
      option("bs", std::to_string(job.request_bytes)),
      option("direct", job.direct ? "1" : "0"),
  };
  const std::uint32_t threads = job.uring ? 1 : std::min(job.depth, kMostFioThreads);
  // Each thread has its own stretch of the file.
  const std::uint64_t stretch = job.size_bytes / threads / job.request_bytes * job.request_bytes;
  arguments.push_back(option("size", std::to_string(stretch)));
  if (job.uring) {
    arguments.insert(arguments.end(),
                     {"--ioengine=io_uring", option("iodepth", std::to_string(job.depth))});
  } else {
    arguments.insert(arguments.end(),
                     {"--ioengine=psync", option("numjobs", std::to_string(threads)),
                      option("offset_increment", std::to_string(stretch))});
  }
  if (writes) arguments.emplace_back("--end_fsync=1");
  return arguments;
}

ipc::Result<StorageRound> parse_fio(std::string_view report, StoragePattern pattern) {
  const auto wrong = ipc::fail(
      Errc::internal, "fio's report is not understood: " + std::string(report.substr(0, 200)));
  // Warnings may come first.
  const std::size_t begin = std::min(report.find('{'), report.size());
  const auto json = nlohmann::json::parse(report.substr(begin), nullptr, false);
  try {
    const auto& job = json.at("jobs").at(0);
    const auto& side = job.at(pattern == StoragePattern::write_blocks ? "write" : "read");
    StorageRound round;
    round.bytes = side.at("io_bytes").get<std::uint64_t>();
    round.seconds = side.at("runtime").get<double>() / 1e3;
    // Of all threads together, as the job's time is.
    round.cpu_seconds = (job.at("usr_cpu").get<double>() + job.at("sys_cpu").get<double>()) / 100 *
                        job.at("job_runtime").get<double>() / 1e3;
    if (round.bytes == 0 || round.seconds == 0) return wrong;
    return round;
  } catch (const nlohmann::json::exception&) {
    return wrong;
  }
}

ipc::Result<StorageRound> run_fio(const std::string& program, const FioJob& job) {
  if (job.pattern == StoragePattern::write_blocks) remove_at_once(job.file);
  const auto report = output_of(program, fio_arguments(job));
  if (!report) return std::unexpected(report.error());
  return parse_fio(*report, job.pattern);
}

}  // namespace sluice::tools
