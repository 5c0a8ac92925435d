#include "daemon/config.h"

#include <sys/statvfs.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cerrno>
#include <concepts>
#include <cstdlib>
#include <cstring>
#include <expected>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <tuple>
#include <utility>

#include "daemon/metrics.h"
#include "daemon/quantity.h"
#include "ipc/memfd.h"
#include "ipc/ring.h"

namespace sluice::daemon {
namespace {

using ipc::Errc;

constexpr std::uint64_t kKiB = 1u << 10;
constexpr std::uint64_t kMiB = 1u << 20;
constexpr std::uint64_t kGiB = 1u << 30;
constexpr std::uint64_t kPage = 4 * kKiB;

constexpr std::uint64_t kDefaultHbmBytes = 1 * kGiB;
constexpr std::uint64_t kDefaultDramBytes = 4 * kGiB;
constexpr std::uint32_t kMinConfiguredRing = 16;
constexpr std::size_t kQuotedBytes = 64;  // of the file's text in a message of ours
constexpr std::size_t kMaxTenantName = 64;
constexpr std::int64_t kMaxGpuOrdinal = 63;
constexpr std::size_t kMaxProgramPath = 4095;

std::string quoted(std::string_view text) {
  std::string out = "\"";
  out += text.substr(0, kQuotedBytes);
  if (text.size() > kQuotedBytes) out += "...";
  return out += '"';
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const std::string& part : parts) {
    if (!out.empty()) out += separator;
    out += part;
  }
  return out;
}

// ---- values: what a TOML node may hold, and how it is written

// What a value was expected to be, in words.
template <class T>
using Parsed = std::expected<T, std::string>;

template <class Number>
auto integer(std::int64_t least, std::int64_t most) {
  return [least, most](const toml::node& node) -> Parsed<Number> {
    const std::optional<std::int64_t> value = node.value_exact<std::int64_t>();
    if (value && *value >= least && *value <= most) return static_cast<Number>(*value);
    return std::unexpected("an integer from " + std::to_string(least) + " to " +
                           std::to_string(most));
  };
}

Parsed<std::uint32_t> ring_capacity(const toml::node& node) {
  const auto value = integer<std::uint32_t>(kMinConfiguredRing, ipc::kMaxRingCapacity)(node);
  if (value && std::has_single_bit(*value)) return *value;
  return std::unexpected("a power of two from " + std::to_string(kMinConfiguredRing) + " to " +
                         std::to_string(ipc::kMaxRingCapacity));
}

auto bytes(std::uint64_t least, std::uint64_t most, std::uint64_t multiple) {
  return [=](const toml::node& node) -> Parsed<std::uint64_t> {
    std::string expected = "a size ";
    expected += most == std::numeric_limits<std::uint64_t>::max()
                    ? "of at least " + format_bytes(least)
                    : "from " + format_bytes(least) + " to " + format_bytes(most);
    if (multiple > 1) expected += ", a multiple of " + format_bytes(multiple);
    expected += ", such as \"64MiB\"";
    const std::optional<std::string_view> text = node.value_exact<std::string_view>();
    if (!text) return std::unexpected(expected);
    const ipc::Result<std::uint64_t> value = parse_bytes(*text);
    if (!value || *value < least || *value > most || *value % multiple != 0) {
      return std::unexpected(expected);
    }
    return *value;
  };
}

auto duration(std::chrono::milliseconds least, std::chrono::milliseconds most) {
  return [=](const toml::node& node) -> Parsed<std::chrono::milliseconds> {
    const std::optional<std::string_view> text = node.value_exact<std::string_view>();
    if (text) {
      const ipc::Result<std::chrono::nanoseconds> value = parse_duration(*text);
      const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
          value.value_or(std::chrono::nanoseconds(-1)));
      if (value && ms == *value && ms >= least && ms <= most) return ms;
    }
    return std::unexpected("a duration in whole milliseconds from " + format_duration(least) +
                           " to " + format_duration(most) + ", such as \"30s\"");
  };
}

template <class Value>
struct Word {
  std::string_view word;
  Value value;
};
constexpr Word<LogLevel> kLogLevels[] = {{"trace", LogLevel::trace},
                                         {"debug", LogLevel::debug},
                                         {"info", LogLevel::info},
                                         {"warn", LogLevel::warn},
                                         {"error", LogLevel::error}};
constexpr Word<LogFormat> kLogFormats[] = {{"text", LogFormat::text}, {"json", LogFormat::json}};
constexpr Word<BackendKind> kBackendKinds[] = {{"host", BackendKind::host},
                                               {"cuda", BackendKind::cuda}};
constexpr Word<NumaPlacement> kNumaPlacements[] = {{"device", NumaPlacement::device},
                                                   {"interleave", NumaPlacement::interleave},
                                                   {"any", NumaPlacement::any}};
constexpr Word<HugePages> kHugePages[] = {
    {"try", HugePages::attempt}, {"never", HugePages::never}, {"require", HugePages::require}};

template <class Value, std::size_t kCount>
auto one_of(const Word<Value> (&words)[kCount]) {
  return [&words](const toml::node& node) -> Parsed<Value> {
    std::vector<std::string> known;
    for (const Word<Value>& word : words) {
      if (node.value_exact<std::string_view>() == word.word) return word.value;
      known.push_back(quoted(word.word));
    }
    return std::unexpected("one of " + join(known, ", "));
  };
}

template <class Value, std::size_t kCount>
std::string word_for(const Word<Value> (&words)[kCount], Value value) {
  for (const Word<Value>& word : words) {
    if (word.value == value) return quoted(word.word);
  }
  return "\"?\"";
}

// "GPU-" and a UUID in its usual groups.
bool is_gpu_uuid(std::string_view text) {
  constexpr std::string_view kShape = "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  if (text.size() != kShape.size()) return false;
  for (std::size_t i = 0; i < kShape.size(); ++i) {
    const bool fits = kShape[i] == 'x' ? std::isxdigit(static_cast<unsigned char>(text[i])) != 0
                                       : text[i] == kShape[i];
    if (!fits) return false;
  }
  return true;
}

std::optional<std::string> gpu(const toml::node& node) {
  const std::optional<std::int64_t> ordinal = node.value_exact<std::int64_t>();
  if (ordinal && *ordinal >= 0 && *ordinal <= kMaxGpuOrdinal) return std::to_string(*ordinal);
  const std::optional<std::string_view> text = node.value_exact<std::string_view>();
  if (!text) return std::nullopt;
  if (is_gpu_uuid(*text)) return std::string(*text);
  for (std::int64_t number = 0; number <= kMaxGpuOrdinal; ++number) {
    if (*text == std::to_string(number)) return std::string(*text);
  }
  return std::nullopt;
}

const std::string& expected_gpu() {
  static const std::string text = "the number of a GPU from 0 to " +
                                  std::to_string(kMaxGpuOrdinal) +
                                  ", or its UUID as nvidia-smi -L shows it (\"GPU-...\")";
  return text;
}

bool is_all(const toml::node& node) { return node.value_exact<std::string_view>() == kAllDevices; }

Parsed<std::vector<std::string>> one_gpu(const toml::node& node) {
  if (is_all(node)) return std::vector{std::string(kAllDevices)};
  if (auto one = gpu(node)) return std::vector{std::move(*one)};
  return std::unexpected(expected_gpu() + ", or \"all\"");
}

Parsed<std::vector<std::string>> gpus(const toml::node& node) {
  if (is_all(node)) return std::vector{std::string(kAllDevices)};
  const toml::array* array = node.as_array();
  if (array == nullptr || array->empty() || array->size() > kMaxDevices) {
    return std::unexpected("\"all\", or a list of 1 to " + std::to_string(kMaxDevices) +
                           " GPUs, such as [0, 1]");
  }
  std::vector<std::string> list;
  for (const toml::node& element : *array) {
    auto one = gpu(element);
    if (!one) return std::unexpected("in each place of the list " + expected_gpu());
    list.push_back(std::move(*one));
  }
  return list;
}

Parsed<std::string> program_path(const toml::node& node) {
  const std::optional<std::string_view> text = node.value_exact<std::string_view>();
  const bool absolute = text && text->starts_with('/') && !text->ends_with('/');
  if (text && (text->empty() || absolute) && text->size() <= kMaxProgramPath &&
      text->find('\0') == text->npos) {
    return std::string(*text);
  }
  return std::unexpected("the absolute path of a program, or \"\" for the one beside sluiced");
}

Parsed<std::string> socket_path(const toml::node& node) {
  const std::optional<std::string_view> text = node.value_exact<std::string_view>();
  if (text && text->starts_with('/') && !text->ends_with('/') && text->size() <= kMaxSocketPath &&
      text->find('\0') == text->npos) {
    return std::string(*text);
  }
  return std::unexpected("the absolute path of a socket, at most " +
                         std::to_string(kMaxSocketPath) + " bytes");
}

Parsed<mode_t> socket_mode(const toml::node& node) {
  const std::optional<std::string_view> text = node.value_exact<std::string_view>();
  const bool octal = text && (text->size() == 3 || (text->size() == 4 && text->front() == '0')) &&
                     text->find_first_not_of("01234567") == text->npos;
  if (!octal) return std::unexpected("permissions in octal, in quotes, such as \"0660\"");
  mode_t mode = 0;
  for (const char c : *text) mode = mode * 8 + static_cast<mode_t>(c - '0');
  return mode;
}

std::string format_mode(mode_t mode) {
  std::string text = "\"0";
  for (const int shift : {6, 3, 0}) text += static_cast<char>('0' + ((mode >> shift) & 7u));
  return text += '"';
}

Parsed<std::string> metrics_address(const toml::node& node) {
  const std::optional<std::string> text = node.value_exact<std::string>();
  if (!text) return std::unexpected("an address with a port, such as \"127.0.0.1:9464\"");
  const ipc::Status status = check_metrics_address(*text);
  if (!status) return std::unexpected(status.error().text);
  return *text;
}

Parsed<double> weight(const toml::node& node) {
  const std::optional<double> value = node.is_number() ? node.value<double>() : std::nullopt;
  if (value && *value >= 0.001 && *value <= 1000.0) return *value;
  return std::unexpected("a number from 0.001 to 1000");
}

Parsed<std::string> tenant_name(const toml::node& node) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyz0123456789._-";
  const std::optional<std::string_view> text = node.value_exact<std::string_view>();
  if (text && !text->empty() && text->size() <= kMaxTenantName &&
      text->find_first_not_of(kAllowed) == text->npos) {
    return std::string(*text);
  }
  return std::unexpected("1 to 64 characters of a-z, 0-9, '.', '_', '-'");
}

std::string describe(const toml::node& node) {
  if (const auto text = node.value_exact<std::string_view>()) return quoted(*text);
  if (const auto number = node.value_exact<std::int64_t>()) return std::to_string(*number);
  if (const auto truth = node.value_exact<bool>()) return *truth ? "true" : "false";
  if (const auto number = node.value_exact<double>()) {
    std::ostringstream out;
    out << *number;
    return out.str();
  }
  if (node.is_array_of_tables()) return "an array of tables";
  if (node.is_array()) return "an array";
  if (node.is_table()) return "a table";
  return "a date or time";
}

// ---- reading a file

struct Position {
  std::uint32_t line = 0;
  std::uint32_t column = 0;
};

Position position_of(const toml::source_region& source) {
  return {static_cast<std::uint32_t>(source.begin.line),
          static_cast<std::uint32_t>(source.begin.column)};
}

// Where each key stands in the file, by its full name, and what is wrong with the file.
class Findings {
 public:
  void place(const std::string& key, Position position) { places_[key] = position; }
  bool has(const std::string& key) const { return places_.contains(key); }

  void add(Position position, std::string text) {
    errors_.push_back({position.line, position.column, std::move(text)});
  }
  // At the key, or at the nearest table around it that the file has.
  void add_at(std::string key, std::string text) {
    for (;;) {
      const auto place = places_.find(key);
      if (place != places_.end()) return add(place->second, std::move(text));
      const std::size_t dot = key.rfind('.');
      if (dot == std::string::npos) return add({}, std::move(text));
      key.resize(dot);
    }
  }

  std::vector<ConfigError> take() {
    std::ranges::stable_sort(errors_, {},
                             [](const ConfigError& e) { return std::tuple(e.line, e.column); });
    return std::move(errors_);
  }

 private:
  std::map<std::string, Position> places_;
  std::vector<ConfigError> errors_;
};

// How many single-character edits apart, by rows of the usual table.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

// Reads the keys of one table. What was never asked for when it is destroyed is unknown, and an
// error.
class Reader {
 public:
  Reader(const toml::table& table, std::string path, Findings& findings)
      : table_(table), path_(std::move(path)), findings_(findings) {}
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  ~Reader() {
    for (const auto& [key, node] : table_) {
      if (std::ranges::find(known_, key.str()) == known_.end()) {
        findings_.add(position_of(key.source()), unknown(key.str()));
      }
    }
  }

  std::string full(std::string_view key) const {
    return path_.empty() ? std::string(key) : path_ + "." + std::string(key);
  }

  // Leaves `into` as it is if the key is not there or wrong.
  template <class Value, class Parse>
  void read(std::string_view key, Value& into, Parse parse) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    auto value = parse(*node);
    if (value) {
      into = std::move(*value);
    } else {
      wrong(*node, key, value.error());
    }
  }

  // A list of uids or gids.
  template <std::unsigned_integral Number>
  void read_ids(std::string_view key, std::vector<Number>& into) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr || array->size() > kMaxIdsPerList) {
      wrong(
          *node, key,
          "an array of at most " + std::to_string(kMaxIdsPerList) + " numeric ids, such as [1000]");
      return;
    }
    into.clear();
    for (const toml::node& element : *array) {
      // The largest number means "no id" to the kernel.
      const auto id = integer<Number>(0, std::numeric_limits<Number>::max() - 1)(element);
      if (!id) {
        wrong(element, key, id.error());
      } else if (std::ranges::find(into, *id) != into.end()) {
        wrong(element, key, "each id once");
      } else {
        into.push_back(*id);
      }
    }
  }

  // The table under a key; nullopt if there is none.
  std::optional<Reader> table(std::string_view key) {
    const toml::node* node = find(key);
    if (node == nullptr) return std::nullopt;
    if (const toml::table* inner = node->as_table()) {
      return std::optional<Reader>(std::in_place, *inner, full(key), findings_);
    }
    wrong(*node, key, "a table");
    return std::nullopt;
  }

  const toml::array* array_of_tables(std::string_view key) {
    const toml::node* node = find(key);
    if (node == nullptr) return nullptr;
    const toml::array* array = node->as_array();
    if (array != nullptr && array->is_array_of_tables()) return array;
    wrong(*node, key, "one [[" + full(key) + "]] for each");
    return nullptr;
  }

  bool has(std::string_view key) const { return table_.contains(key); }
  void refuse(std::string_view key, const std::string& expected) {
    if (const toml::node* node = find(key)) wrong(*node, key, expected);
  }

  void wrong(const toml::node& node, std::string_view key, const std::string& expected) {
    findings_.add(position_of(node.source()),
                  full(key) + ": found " + describe(node) + ", expected " + expected);
  }

 private:
  const toml::node* find(std::string_view key) {
    known_.emplace_back(key);
    const toml::node* node = table_.get(key);
    if (node != nullptr) findings_.place(full(key), position_of(node->source()));
    return node;
  }

  std::string unknown(std::string_view key) const {
    std::string text = "unknown key " + quoted(key);
    if (!path_.empty()) text += " in " + path_;
    const std::string_view cut = key.substr(0, kQuotedBytes);
    const auto distance = [&](const std::string& known) { return edit_distance(cut, known); };
    const auto nearest = std::ranges::min_element(known_, {}, distance);
    if (nearest != known_.end() && distance(*nearest) <= std::max<std::size_t>(2, key.size() / 3)) {
      return text + ": did you mean " + quoted(*nearest) + "?";
    }
    return text + ": expected one of " + join(known_, ", ");
  }

  const toml::table& table_;
  std::string path_;
  Findings& findings_;
  std::vector<std::string> known_;
};

void read_tier(Reader& reader, TierConfig& tier) {
  reader.read("capacity", tier.capacity_bytes, bytes(kPage, std::uint64_t{1} << 50, kPage));
  reader.read("extent", tier.extent_bytes, bytes(64 * kKiB, 16 * kGiB, kPage));
  reader.read("huge_pages", tier.huge_pages, one_of(kHugePages));
}

void read_tiers(Reader& root, Config& config) {
  auto tiers = root.table("tiers");
  if (!tiers) return;
  if (auto hbm = tiers->table("hbm")) read_tier(*hbm, config.hbm);
  if (auto dram = tiers->table("dram")) {
    read_tier(*dram, config.dram);
    dram->read("numa", config.dram.numa, one_of(kNumaPlacements));
  }
}

void read_daemon(Reader& reader, DaemonConfig& daemon) {
  reader.read("socket", daemon.socket, socket_path);
  reader.read("socket_mode", daemon.socket_mode, socket_mode);
  reader.read("log_level", daemon.log_level, one_of(kLogLevels));
  reader.read("log_format", daemon.log_format, one_of(kLogFormats));
  reader.read("lanes", daemon.lanes, integer<std::uint32_t>(1, 16));
  reader.read("max_sessions", daemon.max_sessions, integer<std::uint32_t>(1, 65536));
  reader.read("reserved_sessions", daemon.reserved_sessions, integer<std::uint32_t>(0, 65536));
}

void read_backend(Reader& reader, BackendConfig& backend) {
  reader.read("kind", backend.kind, one_of(kBackendKinds));
  reader.read("devices", backend.devices, gpus);
  if (reader.has("devices") && reader.has("device")) {
    reader.refuse("device", "one of backend.devices and backend.device");
  }
  reader.read("device", backend.devices, one_gpu);
  reader.read("device_worker", backend.device_worker, program_path);
  reader.read("worker_idle", backend.worker_idle,
              duration(std::chrono::milliseconds(100), std::chrono::milliseconds(3'600'000)));
}

void read_rings(Reader& reader, RingsConfig& rings) {
  reader.read("capacity", rings.capacity, ring_capacity);
  reader.read("request_memory", rings.request_memory_bytes, bytes(64 * kKiB, 1 * kGiB, kPage));
  reader.read("spin_us", rings.spin_us, integer<std::uint32_t>(0, 10'000));
}

void read_limits(Reader& reader, LimitsConfig& limits) {
  using std::chrono::milliseconds;
  reader.read("caches", limits.caches, integer<std::uint32_t>(1, 65536));
  reader.read("sequences_per_session", limits.sequences_per_session,
              integer<std::uint32_t>(1, 1 << 20));
  reader.read("actors_per_cache", limits.actors_per_cache, integer<std::uint32_t>(1, 4096));
  reader.read("step_deadline", limits.step_deadline,
              duration(milliseconds(100), milliseconds(3'600'000)));
  reader.read("open_deadline", limits.open_deadline,
              duration(milliseconds(100), milliseconds(3'600'000)));
  reader.read("connections_per_user", limits.connections_per_user, integer<std::uint32_t>(1, 4096));
  reader.read("admin_idle", limits.admin_idle,
              duration(milliseconds(100), milliseconds(3'600'000)));
}

void read_quota(Reader& reader, QuotaConfig& quota) {
  constexpr std::uint64_t kAny = std::numeric_limits<std::uint64_t>::max();
  reader.read("guaranteed", quota.guaranteed_bytes, bytes(0, kAny, 1));
  reader.read("limit", quota.limit_bytes, bytes(1, kAny, 1));
  reader.read("weight", quota.weight, weight);
}

// The name a tenant has in messages, and under which its keys are placed.
std::string tenant_path(const TenantConfig& tenant) { return "tenant." + tenant.name; }

TenantConfig read_tenant(const toml::table& table, std::size_t number, const Config& config,
                         Findings& findings) {
  TenantConfig tenant;
  tenant.name = "#" + std::to_string(number);
  if (const toml::node* name = table.get("name"))
    tenant.name = tenant_name(*name).value_or(tenant.name);
  findings.place(tenant_path(tenant), position_of(table.source()));
  tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
  tenant.dram.limit_bytes = config.dram.capacity_bytes;

  Reader reader(table, tenant_path(tenant), findings);
  reader.read("name", tenant.name, tenant_name);
  reader.read_ids("uids", tenant.uids);
  reader.read_ids("gids", tenant.gids);
  reader.read("socket", tenant.socket, socket_path);
  reader.read("socket_mode", tenant.socket_mode, socket_mode);
  if (auto hbm = reader.table("hbm")) read_quota(*hbm, tenant.hbm);
  if (auto dram = reader.table("dram")) read_quota(*dram, tenant.dram);

  if (!table.contains("name")) {
    findings.add_at(tenant_path(tenant), "a [[tenant]] without a name: expected name = \"...\"");
  }
  const bool identified =
      table.contains("uids") || table.contains("gids") || table.contains("socket");
  if (!identified || (tenant.uids.empty() && tenant.gids.empty() && !table.contains("socket"))) {
    findings.add_at(
        tenant_path(tenant),
        "tenant " + quoted(tenant.name) + ": nobody could be it; expected uids, gids or a socket");
  }
  return tenant;
}

void read_tenants(Reader& root, Config& config, Findings& findings) {
  const toml::array* array = root.array_of_tables("tenant");
  if (array == nullptr) return;
  if (array->size() > kMaxTenants) {
    findings.add_at("tenant", std::to_string(array->size()) + " tenants: expected at most " +
                                  std::to_string(kMaxTenants));
    return;
  }
  config.tenants.clear();
  for (std::size_t i = 0; i < array->size(); ++i) {
    config.tenants.push_back(read_tenant(*array->get(i)->as_table(), i + 1, config, findings));
  }
}

void read_config(const toml::table& table, Config& config, Findings& findings) {
  Reader root(table, "", findings);
  if (auto daemon = root.table("daemon")) read_daemon(*daemon, config.daemon);
  if (auto metrics = root.table("metrics")) {
    metrics->read("address", config.metrics.address, metrics_address);
  }
  if (auto backend = root.table("backend")) read_backend(*backend, config.backend);
  read_tiers(root, config);
  if (auto rings = root.table("rings")) read_rings(*rings, config.rings);
  if (auto limits = root.table("limits")) read_limits(*limits, config.limits);
  if (auto admin = root.table("admin")) {
    admin->read_ids("uids", config.admin.uids);
    admin->read_ids("gids", config.admin.gids);
  }
  read_tenants(root, config, findings);
}

// ---- what must hold between values

// Reports a problem with the value of a key.
using Report = std::function<void(std::string key, std::string text)>;

void check_tier(const TierConfig& tier, const std::string& key, const Report& report) {
  if (tier.extent_bytes > tier.capacity_bytes) {
    report(key + ".extent", key + ".extent: found " + format_bytes(tier.extent_bytes) +
                                ", expected at most the capacity of the tier, " +
                                format_bytes(tier.capacity_bytes));
  }
}

void check_quotas(const Config& config, const std::string& tier, std::uint64_t capacity_bytes,
                  QuotaConfig TenantConfig::* quota_of, const Report& report) {
  const std::string capacity =
      "the capacity of tiers." + tier + ", " + format_bytes(capacity_bytes);
  const auto wrong = [&](const std::string& key, std::uint64_t found, const std::string& rest) {
    report(key, key + ": found " + format_bytes(found) + rest);
  };
  std::uint64_t free = capacity_bytes;
  for (const TenantConfig& tenant : config.tenants) {
    const QuotaConfig& quota = tenant.*quota_of;
    const std::string prefix = tenant_path(tenant) + "." + tier;
    const std::string limit_key = prefix + ".limit";
    const std::string guaranteed_key = prefix + ".guaranteed";
    if (quota.limit_bytes > capacity_bytes) {
      wrong(limit_key, quota.limit_bytes, ", expected at most " + capacity);
    }
    if (quota.guaranteed_bytes > quota.limit_bytes) {
      wrong(guaranteed_key, quota.guaranteed_bytes,
            ", expected at most its limit, " + format_bytes(quota.limit_bytes));
    } else if (quota.guaranteed_bytes > free) {
      wrong(guaranteed_key, quota.guaranteed_bytes,
            ", but only " + format_bytes(free) +
                " is left by the guarantees before it; together they must fit into " + capacity);
    } else {
      free -= quota.guaranteed_bytes;
    }
  }
}

void check_sizes(const Config& config, const Report& report) {
  check_tier(config.hbm, "tiers.hbm", report);
  check_tier(config.dram, "tiers.dram", report);
  check_quotas(config, "hbm", config.hbm.capacity_bytes, &TenantConfig::hbm, report);
  check_quotas(config, "dram", config.dram.capacity_bytes, &TenantConfig::dram, report);
}

// Every name, id and socket has one owner.
class Owners {
 public:
  explicit Owners(const Report& report) : report_(report) {}

  template <class Value>
  void claim(std::map<Value, std::string>& owners, const Value& value, const std::string& shown,
             const std::string& key, const std::string& owner) {
    const auto [first, claimed] = owners.emplace(value, owner);
    if (!claimed) report_(key, key + ": " + shown + " belongs to " + first->second + " already");
  }

 private:
  const Report& report_;
};

void check_owners(const Config& config, const Report& report) {
  Owners owners(report);
  std::map<std::string, std::string> sockets = {{config.daemon.socket, "daemon.socket"}};
  std::map<uid_t, std::string> uids;
  std::map<gid_t, std::string> gids;
  for (const TenantConfig& tenant : config.tenants) {
    const std::string key = tenant_path(tenant);
    const std::string owner = "tenant " + quoted(tenant.name);
    for (const uid_t uid : tenant.uids) {
      owners.claim(uids, uid, std::to_string(uid), key + ".uids", owner);
    }
    for (const gid_t gid : tenant.gids) {
      owners.claim(gids, gid, std::to_string(gid), key + ".gids", owner);
    }
    if (!tenant.socket.empty()) {
      owners.claim(sockets, tenant.socket, quoted(tenant.socket), key + ".socket", owner);
    }
  }
}

// Their keys are placed by name, so that the second of a name hides the first: told apart here, by
// number.
void check_names(const toml::table& table, const Config& config, Findings& findings) {
  const toml::array* array = table.get_as<toml::array>("tenant");
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < config.tenants.size(); ++i) {
    const std::string& name = config.tenants[i].name;
    if (names.insert(name).second || array == nullptr) continue;
    findings.add(position_of(array->get(i)->as_table()->get("name")->source()),
                 "tenant.name: " + quoted(name) + " is a tenant already; expected each name once");
  }
}

// ---- the machine

std::uint64_t shm_free_bytes() {
  struct statvfs shm{};
  if (::statvfs("/dev/shm", &shm) != 0) return std::numeric_limits<std::uint64_t>::max();
  return std::uint64_t{shm.f_bavail} * shm.f_frsize;
}

std::string default_socket(uid_t uid) {
  if (uid == 0) return "/run/sluice/sluice.sock";
  if (const char* dir = std::getenv("RUNTIME_DIRECTORY"); dir != nullptr && *dir == '/') {
    const std::string_view dirs = dir;  // systemd separates several by a colon
    return std::string(dirs.substr(0, dirs.find(':'))) + "/sluice.sock";
  }
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir != nullptr && *dir == '/') {
    return std::string(dir) + "/sluice/sluice.sock";
  }
  return "/tmp/sluice-" + std::to_string(uid) + "/sluice.sock";
}

struct TierSizes {
  std::uint64_t hbm_bytes;
  std::uint64_t dram_bytes;
};

TierSizes default_sizes(const Environment& environment) {
  constexpr std::uint64_t kBoth = kDefaultHbmBytes + kDefaultDramBytes;
  const std::uint64_t half = environment.memory_available_bytes / 2;
  if (half >= kBoth) {
    return {kDefaultHbmBytes, kDefaultDramBytes};
  }
  const auto share = [&](std::uint64_t wanted) {
    // half < 2^33, so that no digit is lost
    const std::uint64_t extent = TierConfig{}.extent_bytes;
    return std::max(half / kMiB * wanted / kBoth * kMiB / extent * extent, extent);
  };
  return {share(kDefaultHbmBytes), share(kDefaultDramBytes)};
}

std::string sizes_note(const Environment& environment) {
  const TierSizes sizes = default_sizes(environment);
  std::string note = "default tiers: hbm " + format_bytes(sizes.hbm_bytes) + ", dram " +
                     format_bytes(sizes.dram_bytes);
  const std::string offer = std::to_string(environment.memory_available_bytes / kMiB) + " MiB";
  return sizes.hbm_bytes == kDefaultHbmBytes
             ? note + ", less than half of the " + offer + " on offer"
             : note + ", cut to half of the " + offer + " on offer";
}

// What the tiers take of the node; the arenas of a GPU are its own.
std::uint64_t node_bytes(const Config& config) {
  const bool on_node = config.backend.kind == BackendKind::host;
  return (on_node ? config.hbm.capacity_bytes : 0) + config.dram.capacity_bytes;
}

std::string oversize_note(const Config& config, const Environment& environment) {
  return "the tiers ask for " + format_bytes(node_bytes(config)) + " together, but only " +
         std::to_string(environment.memory_available_bytes / kMiB) +
         " MiB are on offer: allocations may fail before the tiers are full";
}

std::vector<std::string> notes_on(const Config& config, const Environment& environment,
                                  const Findings& findings) {
  std::vector<std::string> notes;
  if (!findings.has("daemon.socket")) {
    notes.push_back("default socket: " + config.daemon.socket);
  }
  if (!findings.has("tiers.hbm.capacity") || !findings.has("tiers.dram.capacity")) {
    notes.push_back(sizes_note(environment));
  }
  if (node_bytes(config) > environment.memory_available_bytes) {
    notes.push_back(oversize_note(config, environment));
  }
  if (!findings.has("tenant")) {
    notes.push_back("no tenant is configured: uid " + std::to_string(environment.uid) +
                    " is tenant \"default\"");
  }
  return notes;
}

Config defaults_for(const Environment& environment) {
  Config config;
  config.daemon.socket = environment.socket;
  const TierSizes sizes = default_sizes(environment);
  config.hbm.capacity_bytes = sizes.hbm_bytes;
  config.dram.capacity_bytes = sizes.dram_bytes;
  return config;
}

// The tenant of a file that names none.
TenantConfig default_tenant(const Config& config, uid_t uid) {
  TenantConfig tenant;
  tenant.name = "default";
  tenant.uids = {uid};
  tenant.hbm.limit_bytes = config.hbm.capacity_bytes;
  tenant.dram.limit_bytes = config.dram.capacity_bytes;
  return tenant;
}

ConfigReport unreadable(const std::string& path, const std::string& why) {
  ConfigReport report;
  report.file = path;
  report.errors.push_back({0, 0, why});
  return report;
}

// ---- listing

class Listing {
 public:
  void add(const std::string& key, std::string value) {
    values_.push_back({key, std::move(value)});
  }
  void add(const std::string& key, std::unsigned_integral auto value) {
    add(key, std::to_string(value));
  }
  void add_bytes(const std::string& key, std::uint64_t value) {
    add(key, quoted(format_bytes(value)));
  }
  void add_text(const std::string& key, const std::string& value) { add(key, "\"" + value + "\""); }
  void add_ids(const std::string& key, const std::vector<std::uint32_t>& ids) {
    std::vector<std::string> parts;
    parts.reserve(ids.size());
    for (const std::uint32_t id : ids) parts.push_back(std::to_string(id));
    add(key, "[" + join(parts, ", ") + "]");
  }
  void add_devices(const std::string& key, const std::vector<std::string>& devices) {
    if (devices == std::vector{std::string(kAllDevices)}) return add_text(key, devices[0]);
    std::vector<std::string> parts;
    parts.reserve(devices.size());
    for (const std::string& device : devices) {
      parts.push_back(is_gpu_uuid(device) ? quoted(device) : device);
    }
    add(key, "[" + join(parts, ", ") + "]");
  }
  void add_tier(const std::string& key, const TierConfig& tier) {
    add_bytes(key + ".capacity", tier.capacity_bytes);
    add_bytes(key + ".extent", tier.extent_bytes);
    add(key + ".huge_pages", word_for(kHugePages, tier.huge_pages));
  }
  void add_quota(const std::string& key, const QuotaConfig& quota) {
    add_bytes(key + ".guaranteed", quota.guaranteed_bytes);
    add_bytes(key + ".limit", quota.limit_bytes);
    std::ostringstream weight_text;
    weight_text << std::showpoint << quota.weight;
    add(key + ".weight", weight_text.str());
  }
  std::vector<ConfigValue> take() { return std::move(values_); }

 private:
  std::vector<ConfigValue> values_;
};

std::vector<ConfigChange> changes(const Config& now, const Config& wanted) {
  const std::vector<ConfigValue> now_values = list_config(now);
  const std::vector<ConfigValue> wanted_values = list_config(wanted);
  std::map<std::string, std::string> wanted_by_key;
  for (const ConfigValue& value : wanted_values) wanted_by_key[value.key] = value.value;

  std::vector<ConfigChange> found;
  std::set<std::string> seen;
  for (const ConfigValue& value : now_values) {
    seen.insert(value.key);
    const std::string& other = wanted_by_key[value.key];
    if (other != value.value) found.push_back({value.key, value.value, other});
  }
  for (const ConfigValue& value : wanted_values) {
    if (!seen.contains(value.key)) found.push_back({value.key, "", value.value});
  }
  return found;
}

QuotaConfig within(QuotaConfig quota, std::uint64_t capacity_bytes) {
  quota.limit_bytes = std::min(quota.limit_bytes, capacity_bytes);
  return quota;
}

}  // namespace

Environment this_environment() {
  Environment environment;
  environment.uid = ::geteuid();
  environment.socket = default_socket(environment.uid);
  environment.memory_available_bytes = std::min(ipc::available_memory_bytes(), shm_free_bytes());
  return environment;
}

Defaults default_config(const Environment& environment) {
  ConfigReport report = check_config_text("", "", environment);
  return {std::move(report.config), std::move(report.notes)};
}

std::string ConfigReport::text() const {
  std::string out;
  for (const ConfigError& error : errors) {
    if (!out.empty()) out += '\n';
    out += file;
    if (error.line != 0) {
      out += ':' + std::to_string(error.line) + ':' + std::to_string(error.column);
    }
    out += ": " + error.text;
  }
  if (errors_left_out != 0) {
    out += '\n' + file + ": and " + std::to_string(errors_left_out) + " more errors";
  }
  return out;
}

ConfigReport check_config_text(std::string_view toml, std::string file,
                               const Environment& environment) {
  ConfigReport report;
  report.file = std::move(file);
  report.config = defaults_for(environment);
  Findings findings;
  try {
    const toml::table table = toml::parse(toml, report.file);
    read_config(table, report.config, findings);
    if (!table.contains("tenant")) {
      report.config.tenants = {default_tenant(report.config, environment.uid)};
    }
    check_names(table, report.config, findings);
    const Report at_key = [&](std::string key, std::string text) {
      findings.add_at(std::move(key), std::move(text));
    };
    check_sizes(report.config, at_key);
    check_owners(report.config, at_key);
  } catch (const toml::parse_error& error) {
    findings.add(position_of(error.source()), "not TOML: " + std::string(error.description()));
  }
  report.notes = notes_on(report.config, environment, findings);
  report.errors = findings.take();
  if (report.errors.size() > kMaxConfigErrors) {
    report.errors_left_out = report.errors.size() - kMaxConfigErrors;
    report.errors.resize(kMaxConfigErrors);
  }
  return report;
}

ConfigReport check_config(const std::string& path, const Environment& environment) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return unreadable(path, std::string("cannot be opened: ") + std::strerror(errno));
  std::string text(kMaxConfigBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return unreadable(path, std::string("cannot be read: ") + std::strerror(errno));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxConfigBytes) {
    return unreadable(path, "expected at most " + format_bytes(kMaxConfigBytes) + " of text");
  }
  return check_config_text(text, path, environment);
}

ipc::Result<Config> load_config(const std::string& path) {
  ConfigReport report = check_config(path);
  if (!report.ok()) return ipc::fail(Errc::bad_config, report.text());
  return std::move(report.config);
}

std::vector<ConfigValue> list_config(const Config& config) {
  Listing list;
  list.add_text("daemon.socket", config.daemon.socket);
  list.add("daemon.socket_mode", format_mode(config.daemon.socket_mode));
  list.add("daemon.log_level", word_for(kLogLevels, config.daemon.log_level));
  list.add("daemon.log_format", word_for(kLogFormats, config.daemon.log_format));
  list.add("daemon.lanes", config.daemon.lanes);
  list.add("daemon.max_sessions", config.daemon.max_sessions);
  list.add("daemon.reserved_sessions", config.daemon.reserved_sessions);
  list.add_text("metrics.address", config.metrics.address);
  list.add("backend.kind", word_for(kBackendKinds, config.backend.kind));
  list.add_devices("backend.devices", config.backend.devices);
  list.add_text("backend.device_worker", config.backend.device_worker);
  list.add("backend.worker_idle", quoted(format_duration(config.backend.worker_idle)));
  list.add_tier("tiers.hbm", config.hbm);
  list.add_tier("tiers.dram", config.dram);
  list.add("tiers.dram.numa", word_for(kNumaPlacements, config.dram.numa));
  list.add("rings.capacity", config.rings.capacity);
  list.add_bytes("rings.request_memory", config.rings.request_memory_bytes);
  list.add("rings.spin_us", config.rings.spin_us);
  list.add("limits.caches", config.limits.caches);
  list.add("limits.sequences_per_session", config.limits.sequences_per_session);
  list.add("limits.actors_per_cache", config.limits.actors_per_cache);
  list.add("limits.step_deadline", quoted(format_duration(config.limits.step_deadline)));
  list.add("limits.open_deadline", quoted(format_duration(config.limits.open_deadline)));
  list.add("limits.connections_per_user", config.limits.connections_per_user);
  list.add("limits.admin_idle", quoted(format_duration(config.limits.admin_idle)));
  list.add_ids("admin.uids", config.admin.uids);
  list.add_ids("admin.gids", config.admin.gids);
  for (const TenantConfig& tenant : config.tenants) {
    const std::string key = tenant_path(tenant);
    list.add_ids(key + ".uids", tenant.uids);
    list.add_ids(key + ".gids", tenant.gids);
    list.add_text(key + ".socket", tenant.socket);
    list.add(key + ".socket_mode", format_mode(tenant.socket_mode));
    list.add_quota(key + ".hbm", tenant.hbm);
    list.add_quota(key + ".dram", tenant.dram);
  }
  return list.take();
}

ipc::Result<Reload> plan_reload(const Config& running, const Config& wanted) {
  Reload reload;
  reload.config = running;
  reload.config.daemon.log_level = wanted.daemon.log_level;
  reload.config.admin = wanted.admin;
  for (TenantConfig& tenant : reload.config.tenants) {
    const auto other = std::ranges::find(wanted.tenants, tenant.name, &TenantConfig::name);
    if (other == wanted.tenants.end()) continue;
    tenant.hbm = within(other->hbm, running.hbm.capacity_bytes);
    tenant.dram = within(other->dram, running.dram.capacity_bytes);
  }
  std::vector<std::string> problems;
  check_sizes(reload.config,
              [&](const std::string&, std::string text) { problems.push_back(std::move(text)); });
  if (!problems.empty()) {
    return ipc::fail(Errc::bad_config,
                     "nothing was reloaded, because not everything can change without a restart: " +
                         join(problems, "; "));
  }
  reload.applied = changes(running, reload.config);
  reload.deferred = changes(reload.config, wanted);
  return reload;
}

ipc::Result<std::size_t> tenant_of_peer(const Config& config, uid_t uid, gid_t gid) {
  const auto index_of = [&](auto list, auto id) -> std::optional<std::size_t> {
    for (std::size_t i = 0; i < config.tenants.size(); ++i) {
      const auto& ids = config.tenants[i].*list;
      if (std::ranges::find(ids, id) != ids.end()) return i;
    }
    return std::nullopt;
  };
  if (const auto index = index_of(&TenantConfig::uids, uid)) return *index;
  if (const auto index = index_of(&TenantConfig::gids, gid)) return *index;
  return ipc::fail(Errc::unknown_tenant,
                   "uid " + std::to_string(uid) + ", gid " + std::to_string(gid) +
                       " is no tenant here: add one of them to a [[tenant]] "
                       "of the configuration, or connect to a tenant's socket");
}

}  // namespace sluice::daemon
