// A main for fuzz targets where there is no libFuzzer: any compiler, any preset, as a plain test.
//
//   NAME [--random COUNT SEED] [FILE | FOLDER]...
//
// Runs the target over every file named, over every file below every folder named in the order of
// their names, and over COUNT pseudo-random inputs that depend on SEED alone. A finding ends the
// process; the input that was running is then named on standard error.
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <unistd.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMaxRandomBytes = 4096;
constexpr std::uint64_t kMaxRandomInputs = 100'000'000;

char current_input[512] = "none";  // read by the signal handler

void report_and_die(int signal_number) {
  constexpr std::string_view kText = "fuzz target died on input: ";
  const bool written = write(STDERR_FILENO, kText.data(), kText.size()) > 0 &&
                       write(STDERR_FILENO, current_input, std::strlen(current_input)) > 0 &&
                       write(STDERR_FILENO, "\n", 1) > 0;
  static_cast<void>(written);  // nothing is left to do if standard error is gone
  std::signal(signal_number, SIG_DFL);
  std::raise(signal_number);
}

void run(std::string_view name, const std::vector<std::uint8_t>& bytes) {
  const std::size_t length = std::min(name.size(), sizeof current_input - 1);
  std::memcpy(current_input, name.data(), length);
  current_input[length] = '\0';
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

void run_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
  if (!file) {
    std::fprintf(stderr, "cannot read %s\n", path.c_str());
    std::exit(2);
  }
  run(path.native(), bytes);
}

// Returns the number of files run.
std::uint64_t run_path(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) {
    run_file(path);
    return 1;
  }
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const auto& file : files) run_file(file);
  return files.size();
}

// Half of the inputs have small bytes: lengths, counts and tags are small numbers in most formats.
void run_random(std::uint64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::size_t limit = std::size_t{1}
                              << (random() % 13);  // short inputs as often as long ones
    std::vector<std::uint8_t> bytes(random() % std::min(limit + 1, kMaxRandomBytes + 1));
    const std::uint64_t range = (random() % 2 == 0) ? 256 : 8;
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random() % range);
    run("random input " + std::to_string(i) + " of seed " + std::to_string(seed), bytes);
  }
}

std::uint64_t parse_number(std::string_view text, std::uint64_t limit) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > limit) {
    std::fprintf(stderr, "not a number up to %llu: %.*s\n", static_cast<unsigned long long>(limit),
                 static_cast<int>(text.size()), text.data());
    std::exit(2);
  }
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGABRT, report_and_die);
  std::signal(SIGSEGV, report_and_die);
  std::signal(SIGBUS, report_and_die);
  std::signal(SIGILL, report_and_die);
  std::signal(SIGFPE, report_and_die);

  run("the empty input", {});
  std::uint64_t inputs = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::string_view(argv[i]) != "--random") {
      inputs += run_path(argv[i]);
      continue;
    }
    if (i + 2 >= argc) {
      std::fprintf(stderr, "--random needs COUNT and SEED\n");
      return 2;
    }
    const std::uint64_t count = parse_number(argv[i + 1], kMaxRandomInputs);
    run_random(count, parse_number(argv[i + 2], UINT64_MAX));
    inputs += count;
    i += 2;
  }
  std::printf("%llu inputs, no finding\n", static_cast<unsigned long long>(inputs));
  return 0;
}
