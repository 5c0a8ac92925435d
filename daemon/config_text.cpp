#include "daemon/config_text.h"

#include <cctype>

namespace sluice::daemon {

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

std::string format_mode(mode_t mode) {
  std::string text = "\"0";
  for (const int shift : {6, 3, 0}) text += static_cast<char>('0' + ((mode >> shift) & 7u));
  return text += '"';
}

std::string tenant_path(const TenantConfig& tenant) { return "tenant." + tenant.name; }

}  // namespace sluice::daemon
