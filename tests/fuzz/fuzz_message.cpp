// Any bytes as a message: refused, or every accessor stays inside the buffer.
#include <cstdint>
#include <cstring>
#include <vector>

#include "ipc/message.h"
#include "tests/fuzz/walk_envelope.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::byte> bytes(size);  // aligned, and with nothing behind its end
  if (size != 0) std::memcpy(bytes.data(), data, size);
  const auto envelope = sluice::ipc::verify_envelope(bytes);
  if (envelope) {
    sluice::ipc::EnvelopeWalk().walk(**envelope);
  } else {
    SLUICE_ASSERT(envelope.error().code == sluice::ipc::Errc::peer_violation);
  }
  return 0;
}
