#include "tools/sluicectl/store.h"

#include <array>
#include <cctype>
#include <cstdio>
#include <initializer_list>
#include <utility>

#include "tools/common/size.h"
#include "tools/sluicectl/exit_codes.h"

namespace sluice::tools::store {
namespace {

using ipc::Errc;

constexpr std::chrono::milliseconds kTerminalInterval{200};
constexpr std::chrono::milliseconds kLineInterval{10'000};

// The words of a namespace, in the order of its text.
std::array<const std::string*, 5> words_of(const storage::Namespace& scope) {
  return {&scope.tenant, &scope.model, &scope.salt, &scope.layout, &scope.shard};
}

std::string escaped(std::string_view word) {
  std::string text;
  for (const char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > 0x20 && byte < 0x7F && c != '/' && c != '%') {
      text += c;
      continue;
    }
    std::array<char, 4> code{};
    std::snprintf(code.data(), code.size(), "%%%02X", byte);
    text += code.data();
  }
  return text;
}

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int lower = std::tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

}  // namespace

ipc::Result<std::vector<doctor::WantedDirectory>> directories(const Request& request) {
  const Options& options = request.options;
  if (!options.directories.empty()) return options.directories;
  const std::string& file = options.file.empty() ? request.around.installed_config : options.file;
  if (file.empty()) {
    return ipc::fail(Errc::invalid_argument,
                     "which store? Name its directories, or its configuration by --config FILE");
  }
  const auto listed = request.around.list_config(file);
  if (!listed) return std::unexpected(listed.error());
  if (listed->exit_code != 0) return ipc::fail(Errc::bad_config, listed->output);
  auto wanted = doctor::wanted_by(doctor::parse_listing(listed->output)).nvme;
  if (wanted.empty()) {
    return ipc::fail(Errc::bad_config, file + " has no tiers.nvme.directories");
  }
  return wanted;
}

ipc::Result<storage::StoreImage> open(const Request& request, storage::Access access) {
  const auto wanted = directories(request);
  if (!wanted) return std::unexpected(wanted.error());
  storage::StoreLocation location;
  for (const auto& directory : *wanted) location.directories.emplace_back(directory.path);
  location.index_directory = request.options.index_directory;
  return storage::open_image(location, access);
}

int fail(const Request& request, const ipc::Error& error) {
  if (error.code != Errc::address_in_use) return request.fail(error);
  return request.fail(
      {error.code, error.text + "; stop sluiced first (systemctl stop sluiced). While it "
                                "runs, `sluicectl status` shows what is in its store"},
      kExitRefused);
}

std::string scope_text(const storage::Namespace& scope) {
  std::string text;
  for (const std::string* word : words_of(scope)) {
    if (!text.empty() || word != &scope.tenant) text += '/';
    text += escaped(*word);
  }
  return text;
}

Json scope_json(const storage::Namespace& scope) {
  return {{"tenant", scope.tenant},
          {"model", scope.model},
          {"salt", scope.salt},
          {"layout", scope.layout},
          {"shard", scope.shard}};
}

bool is_in(const storage::Namespace& scope, std::string_view wanted) {
  const std::string text = scope_text(scope);
  return text.starts_with(wanted) && (text.size() == wanted.size() || text[wanted.size()] == '/');
}

std::string hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string hex(const storage::Digest& digest) {
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx",
                static_cast<unsigned long long>(digest.high),
                static_cast<unsigned long long>(digest.low));
  return text.data();
}

ipc::Result<std::string> bytes_of_hex(std::string_view text) {
  const auto wrong = [&] {
    return ipc::fail(Errc::invalid_argument, "'" + std::string(text) +
                                                 "' is not a key; expected 2 to 128 hexadecimal "
                                                 "digits, as `store dump` shows it");
  };
  if (text.empty() || text.size() % 2 != 0 || text.size() > 2 * storage::kMaxKeyBytes) {
    return wrong();
  }
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const int high = digit_of(text[i]);
    const int low = digit_of(text[i + 1]);
    if (high < 0 || low < 0) return wrong();
    bytes += static_cast<char>(high * 16 + low);
  }
  return bytes;
}

std::string counted(std::uint64_t count, const char* one, const char* many) {
  return human_count(count) + " " + (count == 1 ? one : many);
}

std::string blocks_text(std::uint64_t blocks, std::uint64_t bytes) {
  return counted(blocks, "block", "blocks") + " (" + human_bytes(static_cast<double>(bytes)) + ")";
}

Progress::Progress(const Request& request, std::string what)
    : request_(request), what_(std::move(what)), shown_(request.around.now()) {}

Progress::~Progress() {
  if (line_is_open_) request_.around.err("\r\x1b[K");
}

bool Progress::is_due() const {
  const auto interval = request_.around.can_ask ? kTerminalInterval : kLineInterval;
  return request_.around.now() - shown_ >= interval;
}

void Progress::show(const std::string& how_far) {
  shown_ = request_.around.now();
  if (!request_.around.can_ask) return request_.note(what_ + " " + how_far);
  request_.around.err("\r\x1b[K" + what_ + " " + how_far);
  line_is_open_ = true;
}

}  // namespace sluice::tools::store
