#include "ipc/ring.h"

#include <string>

namespace sluice::ipc::detail {

std::unexpected<Error> impossible_cursor(const char* whose, std::uint32_t cursor,
                                         std::uint32_t ours, std::uint32_t capacity) {
  return fail(Errc::peer_violation,
              std::string("the ") + whose + "'s cursor of a ring is " + std::to_string(cursor) +
                  ", or was impossible before; ours is " + std::to_string(ours) +
                  " and the ring has " + std::to_string(capacity) + " slots");
}

void check_ring_view(const RingView& ring) {
  SLUICE_ASSERT(ring.control != nullptr && ring.slots != nullptr);
  SLUICE_ASSERT(reinterpret_cast<std::uintptr_t>(ring.slots) % kCacheLineBytes == 0);
  SLUICE_ASSERT(std::has_single_bit(ring.capacity));
  SLUICE_ASSERT(kMinRingCapacity <= ring.capacity && ring.capacity <= kMaxRingCapacity);
}

}  // namespace sluice::ipc::detail
