// Versions and features of the protocol, and how two ends agree.
//
// The major version must be equal. Within one, fields, union members and enum values are only added
// at the end; the lower minor version rules. A feature bit stands for behaviour that an old peer
// would not expect; it is in force when both ends offer it.
//
// Thread-safety: constants and a pure function.
#pragma once

#include <cstdint>

#include "ipc/error.h"

namespace sluice::ipc {

inline constexpr std::uint16_t kProtocolMajor = 1;
inline constexpr std::uint16_t kProtocolMinor = 1;  // 1: sessions that outlive the daemon
// Bit n is given out together with the behaviour it stands for; version 1.0 needs none.
inline constexpr std::uint64_t kProtocolFeatures = 0;

// Flags of Op::seal. The client knows of no pinned slots of the block: others that there may be
// were never written to.
inline constexpr std::uint16_t kSealNoPins = 1;
// Flags of Op::tail_copy.
inline constexpr std::uint16_t kTailToFrame = 1;

// Descriptors of Welcome, in order: the session memory, the client's end of the doorbell.
inline constexpr int kWelcomeFds = 2;

struct ProtocolOffer {
  std::uint16_t major = kProtocolMajor;
  std::uint16_t minor = kProtocolMinor;
  std::uint64_t features = kProtocolFeatures;
};

struct Agreed {
  std::uint16_t minor = 0;
  std::uint64_t features = 0;

  friend bool operator==(const Agreed&, const Agreed&) = default;
};

// What the two ends speak. Errors: version_mismatch, with both versions and who should be upgraded.
Result<Agreed> negotiate(const ProtocolOffer& ours, const ProtocolOffer& theirs);

}  // namespace sluice::ipc
