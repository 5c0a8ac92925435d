// Kernels of `sluice-bench decode`: attention over pages wherever they lie, and what checks it.
//
// Heads of 128 elements in bf16, four query heads to a KV head, pages of 16 tokens ordered
// [head][plane][token][dim], as libsluice has them. All are enqueued in `stream`, a cudaStream_t,
// and may be captured. Return a cudaError_t.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::tools::cuda {

inline constexpr std::uint32_t kDecodeHeadDim = 128;
inline constexpr std::uint32_t kDecodeKvHeads = 8;
inline constexpr std::uint32_t kDecodeGroup = 4;  // query heads of a KV head
inline constexpr std::uint32_t kDecodeQueryHeads = kDecodeKvHeads * kDecodeGroup;
inline constexpr std::uint32_t kDecodePageTokens = 16;
inline constexpr std::uint64_t kDecodePageBytes =
    std::uint64_t{kDecodePageTokens} * kDecodeKvHeads * kDecodeHeadDim * 2 * 2;
inline constexpr std::uint32_t kDecodeMostSplits = 16;
// Of the reference, whose scores lie in shared memory.
inline constexpr std::uint32_t kDecodeLongestList = 704;

// Loads all of them, so that none is loaded during a capture.
int load_decode_kernels();

// One layer of all sequences: attention of one query token over the pages of a list each.
struct Attention {
  const std::uint16_t* queries = nullptr;  // [sequences][kDecodeQueryHeads][kDecodeHeadDim]
  const std::byte* pages = nullptr;        // slot s lies at s * kDecodePageBytes
  const std::int32_t* slots = nullptr;     // [sequences][capacity]; negative: left out
  const std::uint32_t* counts = nullptr;   // [sequences]
  std::uint32_t sequences = 0;
  std::uint32_t capacity = 0;
  std::uint32_t splits = 1;      // of a list, at most kDecodeMostSplits
  float* partials = nullptr;     // of attention_partials(sequences, splits) floats
  std::uint16_t* out = nullptr;  // as the queries
};
std::size_t attention_partials(std::uint32_t sequences, std::uint32_t splits);
// So many that the GPU is full.
std::uint32_t attention_splits(std::uint32_t sequences, unsigned sms);
int attend(const Attention& attention, void* stream);

// The page of a list's item is (first_page + sequence * pages_per_sequence + item *
// pages_per_block) of all: its words are those of decode_word.
struct KnownPages {
  const std::int32_t* items = nullptr;  // [sequences][capacity] blocks
  std::uint64_t first_page = 0;         // the layer
  std::uint64_t pages_per_sequence = 0;
  std::uint64_t pages_per_block = 0;
};

// In device memory; kernels add to it.
struct DecodeFound {
  unsigned long long wrong_words = 0;    // of pages in slots
  unsigned long long without_slot = 0;   // items
  unsigned long long wrong_outputs = 0;  // numbers of attention that differ from the reference
  unsigned long long outputs = 0;        // that were compared
};
// Compares the bytes of all pages. `slot_limit`: slots there are.
int verify_pages(const Attention& attention, const KnownPages& known, std::uint32_t slot_limit,
                 DecodeFound* found, void* stream);
// Compares `out` for some pairs of a sequence and a query head with attention over what the pages
// of the items must be, computed without looking at slots' bytes.
int verify_attention(const Attention& attention, const KnownPages& known, std::uint32_t pairs,
                     std::uint32_t seed, DecodeFound* found, void* stream);

// Fills `count` pages, with the words of decode_word of page first_page + i in the i-th.
int fill_pages(void* pages, std::uint64_t count, std::uint64_t first_page, void* stream);

// Adds outcomes of items within their counts to counts[0..4), by sluice_outcome; 3 and more is 3.
int tally(const std::uint8_t* outcomes, const std::uint32_t* counts, std::uint32_t lists,
          std::uint32_t capacity, unsigned long long* tallied, void* stream);

}  // namespace sluice::tools::cuda
