// Envelopes: what one frame of the control socket holds.
//
// Thread-safety: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "ipc/error.h"
#include "ipc/wire_generated.h"

namespace sluice::ipc {

inline constexpr std::size_t kMaxErrorText =
    1024;  // bytes of an error's text that cross the socket

// The envelope in `bytes`, which must outlive it. Everything reachable through the accessors is
// inside `bytes`; what it says is still untrusted. Guaranteed: the body is not NONE and not null.
// Not guaranteed: that its type is one we know (a newer peer may send others: answer
// Errc::not_supported), or that any string, vector or nested table is there (each may be null: see
// text_of, bytes_of). Errors: peer_violation.
Result<const wire::Envelope*> verify_envelope(std::span<const std::byte> bytes);

// A missing string or vector reads as an empty one.
inline std::string_view text_of(const flatbuffers::String* text) {
  return text == nullptr ? std::string_view() : std::string_view(text->data(), text->size());
}
inline std::span<const std::byte> bytes_of(const flatbuffers::Vector<std::uint8_t>* bytes) {
  if (bytes == nullptr) return {};
  return {reinterpret_cast<const std::byte*>(bytes->data()), bytes->size()};
}

// An envelope around the table that `make(builder)` returns, as bytes for send_frame:
//   make_message(7, [&](auto& builder) { return wire::CreateOpenActor(builder, cache); });
template <class Make>
std::vector<std::byte> make_message(std::uint64_t request, Make&& make);

// Failed with the code and the first kMaxErrorText bytes of the text.
std::vector<std::byte> make_failed(std::uint64_t request, const Error& error);
std::vector<std::byte> make_done(std::uint64_t request);

// The error that a Failed or Closing carries; a code that we do not know becomes Errc::internal,
// with the number in its text.
Error error_from_wire(std::uint16_t code, std::string_view text);

// ---- implementation

namespace detail {

template <class Offset>
struct BodyOf;
template <class Table>
struct BodyOf<flatbuffers::Offset<Table>> {
  static constexpr wire::Body kType = wire::BodyTraits<Table>::enum_value;
};

}  // namespace detail

template <class Make>
std::vector<std::byte> make_message(std::uint64_t request, Make&& make) {
  flatbuffers::FlatBufferBuilder builder;
  const auto body = std::forward<Make>(make)(builder);
  constexpr wire::Body type = detail::BodyOf<std::remove_const_t<decltype(body)>>::kType;
  builder.Finish(wire::CreateEnvelope(builder, request, type, body.Union()),
                 wire::EnvelopeIdentifier());
  const auto* first = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  return {first, first + builder.GetSize()};
}

}  // namespace sluice::ipc
