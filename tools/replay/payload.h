// The bytes that replay expects in a block: a function of (tenant, key, layer, head, plane, token),
// cheap enough to compare with at memory speed without writing a buffer first.
//
// A block is a sequence of *rows* in frame order [layer][head][plane][token], each head_dim *
// dtype_bytes long, so the row's number stands for all four. A row is a stream of 64-bit words that
// follow from a mix of the block's seed and the row's number; rows need not be multiples of 8
// bytes. Two blocks, two rows, or two places in a row give unrelated words, so a page in the wrong
// place never compares equal.
//
// Pure functions; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "tools/replay/payload_words.h"

namespace sluice::tools {

// The seed of a block's bytes.
std::uint64_t payload_seed(std::string_view tenant, std::string_view key);

// Writes tokens [first_token, end_token) of page `page` to `data`, the beginning of the page.
void write_page(const PayloadShape& shape, std::uint64_t seed, std::uint32_t page,
                std::uint32_t first_token, std::uint32_t end_token, std::byte* data);

// Compares the first `valid_tokens` tokens of page `page`, which begins at `data`. Returns the
// offset of the first byte that differs, in the page.
std::optional<std::size_t> find_difference(const PayloadShape& shape, std::uint64_t seed,
                                           std::uint32_t page, std::uint32_t valid_tokens,
                                           const std::byte* data);

}  // namespace sluice::tools
