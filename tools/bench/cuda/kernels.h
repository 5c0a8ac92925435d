// Kernels of sluice-bench: what a resolve is compared with, and what disturbs it.
//
// All are enqueued in `stream`, a cudaStream_t, and may be captured. Return a cudaError_t.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::tools::cuda {

// Loads all of them, so that none is loaded during a capture.
int load_kernels();

int launch_empty(void* stream);

// Row i: `row_bytes` from the address from[i], host memory, to place to[i] of `arena`.
// `row_bytes`: a multiple of 16.
int gather(std::uint32_t ctas, const std::uint64_t* from, std::byte* arena, const std::int32_t* to,
           std::uint32_t rows, std::uint32_t row_bytes, void* stream);

// Lists as those of a sluice_plan, with sequences in order.
struct VerifiedLists {
  const std::int32_t* items = nullptr;
  const std::uint32_t* counts = nullptr;  // or null
  const std::int32_t* slots = nullptr;
  std::uint32_t lists = 0;
  std::uint32_t list_capacity = 0;
  std::uint32_t lists_per_sequence = 1;
  std::uint32_t rows_per_block = 0;  // 0: items are blocks
  std::uint32_t blocks_per_sequence = 0;
  std::uint32_t pages_per_block = 1;
  std::uint32_t page_bytes = 0;
  std::uint32_t slot_limit = 0;
};
struct Verified {
  unsigned long long wrong_words;
  unsigned long long without_slot;
};
// Adds to `found`, in device memory.
int verify(const VerifiedLists& lists, const std::byte* arena, Verified* found, void* stream);

// Adds how many of the outcomes, of items within counts, are `outcome`.
int count_outcomes(const std::uint8_t* outcomes, const std::uint32_t* counts, std::uint32_t lists,
                   std::uint32_t list_capacity, std::uint8_t outcome, unsigned long long* count,
                   void* stream);

// Reads and writes a buffer that is larger than the L2.
int flush(void* buffer, std::size_t bytes, void* stream);

// Reads `bytes`, a multiple of 16, of HBM as an attention kernel does: all SMs, with room for
// others beside. `sink`: one word of device memory.
int read_hbm(const void* buffer, std::size_t bytes, unsigned sms, unsigned* sink, void* stream);

// Reads `bytes` of HBM as decode attention with split keys does: a block of threads for each
// kAttentionTile, placed as SMs have room, and a dot product with four queries. `bytes`: a multiple
// of kAttentionTile.
inline constexpr std::size_t kAttentionTile = std::size_t{128} << 10;
int attend(const void* buffer, std::size_t bytes, unsigned* sink, void* stream);

}  // namespace sluice::tools::cuda
