// The names and texts of what is kept; see kept_state.h.
//
// Thread-safety: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "daemon/kept_state.h"

namespace sluice::daemon::kept {

inline constexpr std::size_t kMaxText = 16384;  // bytes of a description

std::string cache_name(ipc::CacheId id);                        // c3
std::string arena_name(ipc::CacheId id, ipc::DeviceId device);  // c3.d0
std::string session_name(ipc::SessionId id);                    // s17

// "c3.d0.hbm.17" cut at its dots: kind and number of each piece.
struct Name {
  char kind = 0;  // 'n' node, 'c' cache, 's' session, 'w' worker
  std::uint64_t number = 0;
  std::optional<std::uint32_t> device;  // of an arena's
  std::string part;  // "", "records", "dram", "state", "table", "hbm", "pid", "bell"
  std::optional<std::uint32_t> index;
};
// Nothing: no name of ours.
std::optional<Name> parse_name(std::string_view name);

std::string describe(const KeptCache& cache);
std::string describe(ipc::DeviceId device, const CacheMemory& memory);
std::string describe(const KeptSession& session);
// Nothing: it is not what describe() writes. The descriptors are not filled in.
std::optional<KeptCache> parse_cache(std::string_view text);
std::optional<KeptArena> parse_arena(std::string_view text);
std::optional<KeptSession> parse_session(std::string_view text);

}  // namespace sluice::daemon::kept
