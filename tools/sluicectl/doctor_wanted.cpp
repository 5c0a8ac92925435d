#include "tools/sluicectl/doctor_wanted.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "tools/common/size.h"

namespace sluice::tools::doctor {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

// The strings of `"a"`, `["a", "b"]`; numbers in a list are passed over.
std::vector<std::string> strings_in(std::string_view value) {
  std::vector<std::string> strings;
  while (true) {
    const std::size_t begin = value.find('"');
    if (begin == std::string_view::npos) return strings;
    const std::size_t end = value.find('"', begin + 1);
    if (end == std::string_view::npos) return strings;
    strings.emplace_back(value.substr(begin + 1, end - begin - 1));
    value.remove_prefix(end + 1);
  }
}

class Reader {
 public:
  explicit Reader(const Listing& listing) : listing_(listing) {}

  std::string_view raw(const std::string& key) const {
    const auto found = listing_.find(key);
    return found == listing_.end() ? std::string_view{} : std::string_view(found->second);
  }
  std::string text(const std::string& key) const {
    const auto strings = strings_in(raw(key));
    return strings.size() == 1 ? strings[0] : std::string();
  }
  void bytes(const std::string& key, std::uint64_t& into) const {
    if (const auto read = parse_bytes(text(key))) into = *read;
  }
  void number(const std::string& key, std::uint64_t& into) const {
    const std::string_view digits = raw(key);
    std::uint64_t read = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), read);
    if (error == std::errc{} && end == digits.data() + digits.size()) into = read;
  }
  WantedTier tier(const std::string& key) const {
    WantedTier tier;
    bytes(key + ".capacity", tier.bytes);
    bytes(key + ".extent", tier.extent_bytes);
    const std::string word = text(key + ".huge_pages");
    if (word == "never") tier.huge_pages = HugePages::never;
    if (word == "require") tier.huge_pages = HugePages::require;
    return tier;
  }

 private:
  const Listing& listing_;
};

std::optional<std::uint64_t> count_of_devices(std::string_view value) {
  if (value == "\"all\"") return std::nullopt;
  return static_cast<std::uint64_t>(std::ranges::count(value, ',')) + 1;
}

}  // namespace

Listing parse_listing(std::string_view text) {
  Listing listing;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    const std::size_t equals = line.find('=');
    if (equals != std::string_view::npos) {
      listing[std::string(trimmed(line.substr(0, equals)))] = trimmed(line.substr(equals + 1));
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return listing;
}

Wanted wanted_by(const Listing& listing) {
  const Reader read(listing);
  Wanted wanted;
  wanted.cuda = read.text("backend.kind") == "cuda";
  wanted.devices = count_of_devices(read.raw("backend.devices"));
  wanted.hbm = read.tier("tiers.hbm");
  wanted.dram = read.tier("tiers.dram");
  wanted.numa = read.text("tiers.dram.numa");
  read.number("daemon.max_sessions", wanted.max_sessions);
  read.number("limits.caches", wanted.caches);
  wanted.socket = read.text("daemon.socket");
  for (const auto& [key, value] : listing) {
    if (!key.ends_with(".socket")) continue;
    if (std::string socket = read.text(key); !socket.empty()) {
      wanted.sockets.push_back(std::move(socket));
    }
  }
  for (const std::string& text : strings_in(read.raw("tiers.nvme.directories"))) {
    if (auto directory = parse_directory(text)) wanted.nvme.push_back(std::move(*directory));
  }
  return wanted;
}

ipc::Result<WantedDirectory> parse_directory(std::string_view text) {
  WantedDirectory directory{std::string(text), std::nullopt};
  const std::size_t colon = text.rfind(':');
  const bool sized = colon != std::string_view::npos && colon + 1 < text.size() &&
                     std::isdigit(static_cast<unsigned char>(text[colon + 1])) != 0;
  if (sized) {
    const auto bytes = parse_bytes(text.substr(colon + 1));
    if (!bytes) return std::unexpected(bytes.error());
    directory = {std::string(text.substr(0, colon)), *bytes};
  }
  if (directory.path.empty()) {
    return ipc::fail(ipc::Errc::invalid_argument,
                     "'" + std::string(text) + "' names no directory; expected DIR or DIR:SIZE");
  }
  return directory;
}

}  // namespace sluice::tools::doctor
