// What must hold of a daemon when all engines have ended: nobody's memory is in use, and the books
// agree.
#pragma once

#include <optional>
#include <string>

#include "tests/crash/victim.h"

namespace sluice::crash {

// Descriptors of a daemon and its keeper when there are no caches and no sessions.
struct Level {
  std::size_t daemon = 0;
  std::size_t keeper = 0;
};
Level level_of(const Victim& victim);

// Waits until sessions are over and what was theirs has come back. What differs, or nothing.
// `has_store`: sealed blocks may be without a frame.
std::optional<std::string> audit_idle(const Victim& victim, bool has_store);

// Evicts everything and drops all caches; then nothing may be left, of descriptors neither.
std::optional<std::string> audit_empty(const Victim& victim, const Level& level);

}  // namespace sluice::crash
