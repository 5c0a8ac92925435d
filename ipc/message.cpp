#include "ipc/message.h"

#include <string>

#include "ipc/frame.h"

namespace sluice::ipc {
namespace {

// Our messages nest two deep (Envelope, body, layout); the rest is room for what newer peers add.
constexpr flatbuffers::uoffset_t kMaxDepth = 8;
constexpr flatbuffers::uoffset_t kMaxTables = 64;
constexpr std::size_t kBufferAlignment = 8;

}  // namespace

Result<const wire::Envelope*> verify_envelope(std::span<const std::byte> bytes) {
  SLUICE_ASSERT(reinterpret_cast<std::uintptr_t>(bytes.data()) % kBufferAlignment == 0);
  if (bytes.size() > kMaxFrameBytes) {
    return fail(Errc::peer_violation, "a message of " + std::to_string(bytes.size()) +
                                          " bytes; expected at most " +
                                          std::to_string(kMaxFrameBytes));
  }
  const auto* data = reinterpret_cast<const std::uint8_t*>(bytes.data());
  flatbuffers::Verifier verifier(data, bytes.size(), kMaxDepth, kMaxTables);
  if (!wire::VerifyEnvelopeBuffer(verifier)) {
    return fail(Errc::peer_violation, "a message of " + std::to_string(bytes.size()) +
                                          " bytes is not a well-formed envelope");
  }
  const wire::Envelope* envelope = wire::GetEnvelope(data);
  // The verifier lets a union pass that has a type and no value.
  if (envelope->body_type() == wire::Body::NONE || envelope->body() == nullptr) {
    return fail(Errc::peer_violation, "an envelope without a body");
  }
  return envelope;
}

std::vector<std::byte> make_failed(std::uint64_t request, const Error& error) {
  return make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    const auto text = builder.CreateString(error.text.substr(0, kMaxErrorText));
    return wire::CreateFailed(builder, static_cast<std::uint16_t>(error.code), text);
  });
}

std::vector<std::byte> make_done(std::uint64_t request) {
  return make_message(
      request, [](flatbuffers::FlatBufferBuilder& builder) { return wire::CreateDone(builder); });
}

Error error_from_wire(std::uint16_t code, std::string_view text) {
  std::string words(text.substr(0, kMaxErrorText));
  if (code != 0 && code <= static_cast<std::uint16_t>(kLastErrc)) {
    return {static_cast<Errc>(code), std::move(words)};
  }
  return {Errc::internal, words + " (code " + std::to_string(code) + ", unknown to this version)"};
}

}  // namespace sluice::ipc
