#include "tools/replay/payload.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace sluice::tools {
namespace {

// Two words at once: what every x86-64 has; g++ 12 spills wider vectors that the target lacks.
using Words = std::uint64_t __attribute__((vector_size(16)));
constexpr std::size_t kWordsBytes = sizeof(Words);

struct RowStream {
  Words state;

  RowStream(std::uint64_t seed, std::uint64_t row) {
    const std::uint64_t first = payload_row(seed, row);
    state = Words{first, first + kPayloadWordStride};
  }
  void next(Words& out) {
    out = state ^ (state >> 29);  // payload_word, of two
    state += 2 * kPayloadWordStride;
  }
};

void write_row(std::uint64_t seed, std::uint64_t row, std::byte* out, std::size_t bytes) {
  RowStream stream(seed, row);
  Words words;
  std::size_t at = 0;
  for (; at + kWordsBytes <= bytes; at += kWordsBytes) {
    stream.next(words);
    std::memcpy(out + at, &words, kWordsBytes);
  }
  if (at < bytes) {
    stream.next(words);
    std::memcpy(out + at, &words, bytes - at);
  }
}

// ORs what differs into `difference`.
inline void compare_row(std::uint64_t seed, std::uint64_t row, const std::byte* data,
                        std::size_t bytes, Words& difference) {
  RowStream stream(seed, row);
  Words expected;
  Words found;
  std::size_t at = 0;
  for (; at + kWordsBytes <= bytes; at += kWordsBytes) {
    stream.next(expected);
    std::memcpy(&found, data + at, kWordsBytes);
    difference |= expected ^ found;
  }
  if (at < bytes) {
    stream.next(expected);
    found = expected;
    std::memcpy(&found, data + at, bytes - at);
    difference |= expected ^ found;
  }
}

std::size_t first_difference_of_row(std::uint64_t seed, std::uint64_t row, const std::byte* data,
                                    std::size_t bytes) {
  RowStream stream(seed, row);
  for (std::size_t at = 0; at < bytes; at += kWordsBytes) {
    Words expected;
    stream.next(expected);
    std::byte want[kWordsBytes];
    std::memcpy(want, &expected, kWordsBytes);
    for (std::size_t i = 0; i < std::min(kWordsBytes, bytes - at); ++i) {
      if (want[i] != data[at + i]) return at + i;
    }
  }
  return bytes;
}

}  // namespace

std::uint64_t payload_seed(std::string_view tenant, std::string_view key) {
  return XXH3_64bits_withSeed(key.data(), key.size(), XXH3_64bits(tenant.data(), tenant.size()));
}

void write_page(const PayloadShape& shape, std::uint64_t seed, std::uint32_t page,
                std::uint32_t first_token, std::uint32_t end_token, std::byte* data) {
  const std::uint64_t first_group = std::uint64_t{page} * shape.groups_per_page;
  for (std::uint32_t group = 0; group < shape.groups_per_page; ++group) {
    const std::uint64_t first_row = (first_group + group) * shape.block_tokens;
    std::byte* const rows = data + group * shape.group_bytes();
    for (std::uint32_t token = first_token; token < end_token; ++token) {
      write_row(seed, first_row + token, rows + std::size_t{token} * shape.row_bytes,
                shape.row_bytes);
    }
  }
}

std::optional<std::size_t> find_difference(const PayloadShape& shape, std::uint64_t seed,
                                           std::uint32_t page, std::uint32_t valid_tokens,
                                           const std::byte* data) {
  const std::uint64_t first_group = std::uint64_t{page} * shape.groups_per_page;
  for (std::uint32_t group = 0; group < shape.groups_per_page; ++group) {
    const std::uint64_t first_row = (first_group + group) * shape.block_tokens;
    const std::size_t begin = group * shape.group_bytes();
    Words difference{};
    for (std::uint32_t token = 0; token < valid_tokens; ++token) {
      compare_row(seed, first_row + token, data + begin + std::size_t{token} * shape.row_bytes,
                  shape.row_bytes, difference);
    }
    if ((difference[0] | difference[1]) == 0) continue;
    for (std::uint32_t token = 0; token < valid_tokens; ++token) {
      const std::size_t at = begin + std::size_t{token} * shape.row_bytes;
      const std::size_t offset =
          first_difference_of_row(seed, first_row + token, data + at, shape.row_bytes);
      if (offset < shape.row_bytes) return at + offset;
    }
    // The bytes changed between the two looks: that is a difference, too.
    return begin;
  }
  return std::nullopt;
}

}  // namespace sluice::tools
