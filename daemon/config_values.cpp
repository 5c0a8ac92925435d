#include "daemon/config_values.h"

#include <algorithm>
#include <bit>
#include <sstream>
#include <utility>

#include "daemon/config.h"
#include "daemon/metrics.h"
#include "ipc/ring.h"

namespace sluice::daemon {
namespace {

constexpr std::uint32_t kMinConfiguredRing = 16;
constexpr std::size_t kMaxTenantName = 64;
constexpr std::int64_t kMaxGpuOrdinal = 63;
constexpr std::size_t kMaxProgramPath = 4095;

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

}  // namespace

Parsed<std::uint32_t> ring_capacity(const toml::node& node) {
  const auto value = integer<std::uint32_t>(kMinConfiguredRing, ipc::kMaxRingCapacity)(node);
  if (value && std::has_single_bit(*value)) return *value;
  return std::unexpected("a power of two from " + std::to_string(kMinConfiguredRing) + " to " +
                         std::to_string(ipc::kMaxRingCapacity));
}

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

Parsed<bool> truth(const toml::node& node) {
  const std::optional<bool> value = node.value_exact<bool>();
  if (value) return *value;
  return std::unexpected("true or false");
}

Parsed<std::vector<NvmeDirectory>> nvme_directories(const toml::node& node) {
  const auto wrong = [] {
    return std::unexpected("a list of up to " + std::to_string(kMaxNvmeDirectories) +
                           " directories with their sizes, each an absolute path once, such as "
                           "[\"/mnt/nvme0/sluice:800GiB\"]");
  };
  const toml::array* const array = node.as_array();
  if (array == nullptr || array->size() > kMaxNvmeDirectories) return wrong();
  std::vector<NvmeDirectory> list;
  for (const toml::node& element : *array) {
    const std::optional<std::string_view> text = element.value_exact<std::string_view>();
    const std::size_t colon = text ? text->rfind(':') : std::string_view::npos;
    if (colon == std::string_view::npos || !text->starts_with('/')) return wrong();
    const auto size = parse_bytes(text->substr(colon + 1));
    NvmeDirectory one{std::string(text->substr(0, colon)), size.value_or(0)};
    const bool again = std::ranges::find(list, one.path, &NvmeDirectory::path) != list.end();
    if (one.capacity_bytes == 0 || again || one.path.find('\0') != one.path.npos) return wrong();
    list.push_back(std::move(one));
  }
  return list;
}

namespace {

// An absolute path, or nothing.
std::optional<std::string> path_or_none(const toml::node& node) {
  const std::optional<std::string_view> text = node.value_exact<std::string_view>();
  const bool absolute = text && text->starts_with('/') && !text->ends_with('/');
  if (text && (text->empty() || absolute) && text->size() <= kMaxProgramPath &&
      text->find('\0') == text->npos) {
    return std::string(*text);
  }
  return std::nullopt;
}

}  // namespace

Parsed<std::string> program_path(const toml::node& node) {
  if (auto path = path_or_none(node)) return std::move(*path);
  return std::unexpected("the absolute path of a program, or \"\" for the one beside sluiced");
}

Parsed<std::string> mps_directory(const toml::node& node) {
  if (auto path = path_or_none(node)) return std::move(*path);
  return std::unexpected(
      "the absolute path of the directory that CUDA_MPS_PIPE_DIRECTORY names for the tenant's "
      "processes, or \"\"");
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

}  // namespace sluice::daemon
