#include <cuda_runtime.h>

#include "tools/replay/cuda/slot_kernels.h"

namespace sluice::tools::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kMostBlocks = 4096;  // of threads; each takes a page after the other
constexpr std::uint32_t kWordBytes = sizeof(std::uint64_t);
constexpr unsigned kNowhere = ~0u;

// A word of a page that a thread looks after.
struct Word {
  std::uint64_t value;   // what is to be there
  std::uint32_t offset;  // in the page
  std::uint32_t bytes;   // fewer than a word at the end of a row
};

struct PageWords {
  const PayloadShape& shape;
  const SlotPage& page;
  std::uint32_t words_per_row;
  std::uint32_t tokens;
  std::uint32_t count;

  __device__ PageWords(const PayloadShape& s, const SlotPage& p)
      : shape(s),
        page(p),
        words_per_row((s.row_bytes + kWordBytes - 1) / kWordBytes),
        tokens(p.end_token - p.first_token),
        count(s.groups_per_page * tokens * words_per_row) {}

  __device__ Word at(std::uint32_t n) const {
    const std::uint32_t word = n % words_per_row;
    const std::uint32_t run = n / words_per_row;
    const std::uint32_t token = page.first_token + run % tokens;
    const std::uint32_t group = run / tokens;
    const std::uint64_t row =
        (std::uint64_t{page.page} * shape.groups_per_page + group) * shape.block_tokens + token;
    const std::uint64_t in_page =
        group * shape.group_bytes() + std::uint64_t{token} * shape.row_bytes + word * kWordBytes;
    return {payload_word(payload_row(page.seed, row) + word * kPayloadWordStride),
            static_cast<std::uint32_t>(in_page),
            min(kWordBytes, shape.row_bytes - word * kWordBytes)};
  }
};

__device__ bool is_whole(const std::byte* at, std::uint32_t bytes) {
  return bytes == kWordBytes && reinterpret_cast<std::uintptr_t>(at) % kWordBytes == 0;
}

__global__ void write(PayloadShape shape, std::byte* arena, const SlotPage* pages,
                      std::uint32_t count) {
  for (std::uint32_t p = blockIdx.x; p < count; p += gridDim.x) {
    const SlotPage page = pages[p];
    std::byte* const base = arena + static_cast<std::uint64_t>(page.slot) * shape.page_bytes();
    const PageWords words(shape, page);
    for (std::uint32_t n = threadIdx.x; n < words.count; n += kThreads) {
      const Word word = words.at(n);
      std::byte* const to = base + word.offset;
      if (is_whole(to, word.bytes)) {
        *reinterpret_cast<std::uint64_t*>(to) = word.value;
        continue;
      }
      for (std::uint32_t i = 0; i < word.bytes; ++i) {
        to[i] = static_cast<std::byte>(word.value >> (8 * i));
      }
    }
  }
}

// The first byte of the word that differs; word.bytes: none.
__device__ std::uint32_t first_difference(const std::byte* from, const Word& word) {
  if (is_whole(from, word.bytes)) {
    const std::uint64_t found = *reinterpret_cast<const std::uint64_t*>(from);
    if (found == word.value) return word.bytes;
  }
  for (std::uint32_t i = 0; i < word.bytes; ++i) {
    if (from[i] != static_cast<std::byte>(word.value >> (8 * i))) return i;
  }
  return word.bytes;
}

__global__ void compare(PayloadShape shape, const std::byte* arena, const SlotPage* pages,
                        std::uint32_t count, Compared* result) {
  __shared__ unsigned first;
  for (std::uint32_t p = blockIdx.x; p < count; p += gridDim.x) {
    if (threadIdx.x == 0) first = kNowhere;
    __syncthreads();
    const SlotPage page = pages[p];
    const std::byte* const base =
        arena + static_cast<std::uint64_t>(page.slot) * shape.page_bytes();
    const PageWords words(shape, page);
    for (std::uint32_t n = threadIdx.x; n < words.count; n += kThreads) {
      const Word word = words.at(n);
      const std::uint32_t at = first_difference(base + word.offset, word);
      if (at != word.bytes) atomicMin(&first, word.offset + at);
    }
    __syncthreads();
    if (threadIdx.x == 0 && first != kNowhere) {
      atomicAdd(&result->different, 1ull);
      atomicMin(&result->first, (static_cast<unsigned long long>(p) << 32) | first);
    }
    __syncthreads();
  }
}

}  // namespace

int write_slots(const PayloadShape& shape, std::byte* arena, const SlotPage* pages,
                std::uint32_t count, void* stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = count < kMostBlocks ? count : kMostBlocks;
  write<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(shape, arena, pages, count);
  return cudaGetLastError();
}

int compare_slots(const PayloadShape& shape, const std::byte* arena, const SlotPage* pages,
                  std::uint32_t count, Compared* result, void* stream) {
  if (count == 0) return cudaSuccess;
  const unsigned blocks = count < kMostBlocks ? count : kMostBlocks;
  compare<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(shape, arena, pages, count,
                                                                      result);
  return cudaGetLastError();
}

}  // namespace sluice::tools::cuda
