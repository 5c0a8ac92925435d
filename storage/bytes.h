// Bytes as the store writes them: numbers little-endian, texts as they are.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "storage/io_engine.h"

namespace sluice::storage {

static_assert(std::endian::native == std::endian::little,
              "formats on disk are written as they are");

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

template <std::integral Number>
void append_number(std::string& bytes, Number number) {
  char raw[sizeof number];
  std::memcpy(raw, &number, sizeof number);
  bytes.append(raw, sizeof raw);
}

// Takes a number off the front; false: there are too few bytes.
template <std::integral Number>
bool take_number(std::span<const std::byte>& bytes, Number& number) {
  if (bytes.size() < sizeof number) return false;
  std::memcpy(&number, bytes.data(), sizeof number);
  bytes = bytes.subspan(sizeof number);
  return true;
}

constexpr std::uint64_t aligned_up(std::uint64_t bytes) {
  return (bytes + kIoAlign - 1) / kIoAlign * kIoAlign;
}

}  // namespace sluice::storage
