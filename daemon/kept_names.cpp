#include "daemon/kept_names.h"

#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace sluice::daemon::kept {

using nlohmann::json;

namespace {

// The engine's words may be any bytes, and JSON takes text.
std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    hex += kDigits[static_cast<unsigned char>(byte) >> 4];
    hex += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return hex;
}

std::optional<std::string> from_hex(const std::string& hex) {
  if (hex.size() % 2 != 0) return std::nullopt;
  std::string bytes;
  bytes.reserve(hex.size() / 2);
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    unsigned value = 0;
    const char* const end = hex.data() + i + 2;
    const auto read = std::from_chars(hex.data() + i, end, value, 16);
    if (read.ec != std::errc{} || read.ptr != end) return std::nullopt;
    bytes += static_cast<char>(value);
  }
  return bytes;
}

// Reads the members of an object; one that is missing or of another kind spoils the whole.
class Object {
 public:
  explicit Object(const json& from) : from_(from), sound_(from.is_object()) {}

  template <class Number>
  void number(const char* name, Number& to) {
    const json* const member = find(name);
    if (member == nullptr || !member->is_number_unsigned()) {
      sound_ = false;
      return;
    }
    const auto value = member->get<std::uint64_t>();
    if (value > std::numeric_limits<Number>::max()) {
      sound_ = false;
      return;
    }
    to = static_cast<Number>(value);
  }
  void flag(const char* name, bool& to) {
    const json* const member = find(name);
    sound_ = sound_ && member != nullptr && member->is_boolean();
    if (sound_) to = member->get<bool>();
  }
  void bytes(const char* name, std::string& to) {
    const json* const member = find(name);
    sound_ = sound_ && member != nullptr && member->is_string();
    if (!sound_) return;
    auto read = from_hex(member->get<std::string>());
    sound_ = read.has_value();
    if (read) to = std::move(*read);
  }
  Object object(const char* name) {
    static const json kNone;
    const json* const member = find(name);
    sound_ = sound_ && member != nullptr;
    return Object(member == nullptr ? kNone : *member);
  }
  bool sound() const { return sound_; }

 private:
  const json* find(const char* name) const {
    if (!from_.is_object()) return nullptr;
    const auto found = from_.find(name);
    return found == from_.end() ? nullptr : &*found;
  }

  const json& from_;
  bool sound_;
};

json parse(std::string_view text) {
  if (text.size() > kMaxText) return {};
  return json::parse(text, nullptr, false);
}

std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || read.ec != std::errc{} || read.ptr != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

std::optional<std::uint32_t> small_number(std::string_view text) {
  const auto value = whole_number(text);
  if (!value || *value > std::numeric_limits<std::uint32_t>::max()) return std::nullopt;
  return static_cast<std::uint32_t>(*value);
}

}  // namespace

std::string cache_name(ipc::CacheId id) { return "c" + std::to_string(id.value); }
std::string arena_name(ipc::CacheId id, ipc::DeviceId device) {
  return cache_name(id) + ".d" + std::to_string(device.value);
}
std::string session_name(ipc::SessionId id) { return "s" + std::to_string(id.value); }

std::optional<Name> parse_name(std::string_view name) {
  std::vector<std::string_view> pieces;
  for (std::size_t from = 0; from <= name.size();) {
    const std::size_t dot = std::min(name.find('.', from), name.size());
    pieces.push_back(name.substr(from, dot - from));
    from = dot + 1;
  }
  Name parsed;
  if (name == "node") {
    parsed.kind = 'n';
    return parsed;
  }
  if (pieces[0].size() < 2 ||
      std::string_view("csw").find(pieces[0][0]) == std::string_view::npos) {
    return std::nullopt;
  }
  parsed.kind = pieces[0][0];
  const auto number = whole_number(pieces[0].substr(1));
  if (!number) return std::nullopt;
  parsed.number = *number;
  std::size_t at = 1;
  if (at < pieces.size() && parsed.kind == 'c' && pieces[at].starts_with("d") &&
      pieces[at] != "dram") {
    parsed.device = small_number(pieces[at].substr(1));
    if (!parsed.device) return std::nullopt;
    ++at;
  }
  if (at < pieces.size()) parsed.part = pieces[at++];
  if (at < pieces.size()) {
    parsed.index = small_number(pieces[at++]);
    if (!parsed.index) return std::nullopt;
  }
  return at == pieces.size() ? std::optional(std::move(parsed)) : std::nullopt;
}

std::string describe(const KeptCache& cache) {
  const ipc::Layout& layout = cache.spec.layout;
  const residency::CacheShape& shape = cache.shape;
  return json{{"tenant", to_hex(cache.tenant)},
              {"model", to_hex(cache.spec.model)},
              {"salt", to_hex(cache.spec.salt)},
              {"kind", static_cast<std::uint32_t>(cache.spec.kind)},
              {"shard_index", cache.spec.shard_index},
              {"shard_count", cache.spec.shard_count},
              {"layout",
               {{"layers", layout.layers},
                {"kv_heads", layout.kv_heads},
                {"head_dim", layout.head_dim},
                {"block_tokens", layout.block_tokens},
                {"dtype_bytes", layout.dtype_bytes},
                {"planes", layout.planes},
                {"page_kind", static_cast<std::uint32_t>(layout.page_kind)}}},
              {"slot_extent_bytes", shape.slot_extent_bytes},
              {"slots_per_extent", shape.slots_per_extent},
              {"frame_extent_bytes", shape.frame_extent_bytes},
              {"frames_per_extent", shape.frames_per_extent},
              {"max_frame_extents", shape.max_frame_extents},
              {"max_blocks", shape.max_blocks},
              {"extents_stay", shape.extents_stay}}
      .dump();
}

std::optional<KeptCache> parse_cache(std::string_view text) {
  const json parsed = parse(text);
  Object from(parsed);
  KeptCache cache;
  residency::CacheShape& shape = cache.shape;
  ipc::Layout& layout = cache.spec.layout;
  std::uint8_t kind = 0;
  std::uint8_t page_kind = 0;
  from.bytes("tenant", cache.tenant);
  from.bytes("model", cache.spec.model);
  from.bytes("salt", cache.spec.salt);
  from.number("kind", kind);
  from.number("shard_index", cache.spec.shard_index);
  from.number("shard_count", cache.spec.shard_count);
  from.number("slot_extent_bytes", shape.slot_extent_bytes);
  from.number("slots_per_extent", shape.slots_per_extent);
  from.number("frame_extent_bytes", shape.frame_extent_bytes);
  from.number("frames_per_extent", shape.frames_per_extent);
  from.number("max_frame_extents", shape.max_frame_extents);
  from.number("max_blocks", shape.max_blocks);
  from.flag("extents_stay", shape.extents_stay);
  Object has = from.object("layout");
  has.number("layers", layout.layers);
  has.number("kv_heads", layout.kv_heads);
  has.number("head_dim", layout.head_dim);
  has.number("block_tokens", layout.block_tokens);
  has.number("dtype_bytes", layout.dtype_bytes);
  has.number("planes", layout.planes);
  has.number("page_kind", page_kind);
  if (!from.sound() || !has.sound()) return std::nullopt;
  cache.spec.kind = static_cast<residency::CacheKind>(kind);
  layout.page_kind = static_cast<ipc::PageKind>(page_kind);
  const auto geometry = ipc::geometry_of(layout);
  if (!geometry) return std::nullopt;
  shape.geometry = *geometry;
  return cache;
}

std::string describe(ipc::DeviceId device, const CacheMemory& memory) {
  const CacheShape& shape = memory.shape();
  return json{{"device", device.value},
              {"incarnation", memory.incarnation()},
              {"slot_extents", shape.sizes.slot_extents},
              {"slots", shape.table.slots},
              {"blocks", shape.table.blocks},
              {"pages_per_block", shape.table.pages_per_block},
              {"actors", shape.table.actors},
              {"log_capacity", shape.table.log_capacity},
              {"hint_capacity", shape.table.hint_capacity}}
      .dump();
}

std::optional<KeptArena> parse_arena(std::string_view text) {
  const json parsed = parse(text);
  Object from(parsed);
  KeptArena arena;
  kernels::TableSizes& table = arena.memory.table;
  from.number("device", arena.device.value);
  from.number("incarnation", arena.memory.incarnation);
  from.number("slot_extents", arena.slot_extents);
  from.number("slots", table.slots);
  from.number("blocks", table.blocks);
  from.number("pages_per_block", table.pages_per_block);
  from.number("actors", table.actors);
  from.number("log_capacity", table.log_capacity);
  from.number("hint_capacity", table.hint_capacity);
  if (!from.sound()) return std::nullopt;
  return arena;
}

std::string describe(const KeptSession& session) {
  const std::string_view token(reinterpret_cast<const char*>(session.token.data()),
                               session.token.size());
  return json{{"tenant", to_hex(session.tenant)},
              {"client", to_hex(session.client_name)},
              {"pid", static_cast<std::uint32_t>(session.pid)},
              {"uid", session.uid},
              {"token", to_hex(token)}}
      .dump();
}

std::optional<KeptSession> parse_session(std::string_view text) {
  const json parsed = parse(text);
  Object from(parsed);
  KeptSession session;
  std::string token;
  std::uint32_t pid = 0;
  from.bytes("tenant", session.tenant);
  from.bytes("client", session.client_name);
  from.number("pid", pid);
  from.number("uid", session.uid);
  from.bytes("token", token);
  if (!from.sound() || token.size() != session.token.size()) return std::nullopt;
  session.pid = static_cast<pid_t>(pid);
  std::copy(token.begin(), token.end(), reinterpret_cast<char*>(session.token.data()));
  return session;
}

}  // namespace sluice::daemon::kept
