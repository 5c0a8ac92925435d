#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "tools/bench/cuda/kernels.h"
#include "tools/bench/gpu_words.h"

namespace sluice::tools::cuda {
namespace {

constexpr unsigned kGatherThreads = 512;
constexpr unsigned kGatherVectors = 4;  // per thread, on their way
constexpr unsigned kThreads = 256;
constexpr unsigned kMostBlocks = 2048;
constexpr unsigned kReaderBlocksPerSm = 2;
constexpr unsigned kReaderVectors = 8;
constexpr unsigned kQueries = 4;  // that share a key, as with grouped heads

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

unsigned blocks_for(std::size_t work) {
  return static_cast<unsigned>(work < kMostBlocks ? (work == 0 ? 1 : work) : kMostBlocks);
}

__global__ void empty_kernel() {}

__global__ void __launch_bounds__(kGatherThreads)
    gather_kernel(const std::uint64_t* from, std::byte* arena, const std::int32_t* to,
                  std::uint32_t rows, std::uint32_t vectors) {
  const std::uint64_t total = std::uint64_t{rows} * vectors;
  const std::uint64_t stride = std::uint64_t{gridDim.x} * kGatherThreads;
  for (std::uint64_t base = std::uint64_t{blockIdx.x} * kGatherThreads + threadIdx.x; base < total;
       base += stride * kGatherVectors) {
    uint4 data[kGatherVectors];
#pragma unroll
    for (unsigned j = 0; j < kGatherVectors; ++j) {
      const auto at = static_cast<std::uint32_t>(base + j * stride);
      if (base + j * stride >= total) continue;
      const std::uint32_t row = at / vectors;
      const auto* p = reinterpret_cast<const uint4*>(from[row]) + (at - row * vectors);
      asm volatile("ld.relaxed.sys.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(data[j].x), "=r"(data[j].y), "=r"(data[j].z), "=r"(data[j].w)
                   : "l"(p));
    }
#pragma unroll
    for (unsigned j = 0; j < kGatherVectors; ++j) {
      const auto at = static_cast<std::uint32_t>(base + j * stride);
      if (base + j * stride >= total) continue;
      const std::uint32_t row = at / vectors;
      auto* const slot = reinterpret_cast<uint4*>(arena) + std::uint64_t(to[row]) * vectors;
      slot[at - row * vectors] = data[j];
    }
  }
}

__global__ void verify_kernel(VerifiedLists lists, const std::byte* arena, Verified* found) {
  const std::uint32_t words = lists.page_bytes / 8;
  const std::uint32_t all = lists.lists * lists.list_capacity;
  for (std::uint32_t i = blockIdx.x; i < all; i += gridDim.x) {
    const std::uint32_t list = i / lists.list_capacity;
    if (lists.counts != nullptr && i - list * lists.list_capacity >= lists.counts[list]) continue;
    const std::int32_t slot = lists.slots[i];
    if (slot < 0 || static_cast<std::uint32_t>(slot) >= lists.slot_limit) {
      if (threadIdx.x == 0) atomicAdd(&found->without_slot, 1ull);
      continue;
    }
    const auto item = static_cast<std::uint32_t>(lists.items[i]);
    const bool rows = lists.rows_per_block != 0;
    const std::uint32_t block = rows ? item / lists.rows_per_block : item;
    const std::uint32_t in_block =
        rows ? item % lists.rows_per_block : list % lists.lists_per_sequence;
    const std::uint64_t page =
        (std::uint64_t{list / lists.lists_per_sequence} * lists.blocks_per_sequence + block) *
            lists.pages_per_block +
        in_block;
    const auto* const bytes = reinterpret_cast<const std::uint64_t*>(
        arena + static_cast<std::uint64_t>(slot) * lists.page_bytes);
    unsigned long long wrong = 0;
    for (std::uint32_t w = threadIdx.x; w < words; w += kThreads) {
      wrong += bytes[w] != bench_word(page, w) ? 1 : 0;
    }
    if (wrong != 0) atomicAdd(&found->wrong_words, wrong);
  }
}

__global__ void count_kernel(const std::uint8_t* outcomes, const std::uint32_t* counts,
                             std::uint32_t lists, std::uint32_t list_capacity, std::uint8_t outcome,
                             unsigned long long* count) {
  const std::uint32_t all = lists * list_capacity;
  unsigned long long found = 0;
  for (std::uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < all; i += gridDim.x * kThreads) {
    const std::uint32_t list = i / list_capacity;
    if (counts != nullptr && i - list * list_capacity >= counts[list]) continue;
    found += outcomes[i] == outcome ? 1 : 0;
  }
  if (found != 0) atomicAdd(count, found);
}

__global__ void flush_kernel(uint4* buffer, std::size_t vectors) {
  const std::size_t stride = std::size_t{gridDim.x} * kThreads;
  for (std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x; i < vectors; i += stride) {
    uint4 value = buffer[i];
    ++value.x;
    buffer[i] = value;
  }
}

__global__ void __launch_bounds__(kThreads)
    read_kernel(const uint4* buffer, std::size_t vectors, unsigned* sink) {
  const std::size_t stride = std::size_t{gridDim.x} * kThreads;
  unsigned sum = 0;
  for (std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x; i < vectors;
       i += stride * kReaderVectors) {
    uint4 data[kReaderVectors] = {};
#pragma unroll
    for (unsigned j = 0; j < kReaderVectors; ++j) {
      if (i + j * stride >= vectors) continue;
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(data[j].x), "=r"(data[j].y), "=r"(data[j].z), "=r"(data[j].w)
                   : "l"(buffer + i + j * stride));
    }
#pragma unroll
    for (unsigned j = 0; j < kReaderVectors; ++j) {
      sum += data[j].x ^ data[j].y ^ data[j].z ^ data[j].w;
    }
  }
  if (sum == 0xDEADBEEFu) *sink = sum;  // so that the loads are not in vain
}

__global__ void __launch_bounds__(kThreads)
    attend_kernel(const uint4* buffer, unsigned* sink, const float query) {
  constexpr std::size_t kTile = kAttentionTile / sizeof(uint4);
  const uint4* const tile = buffer + std::size_t{blockIdx.x} * kTile;
  float score[kQueries] = {};
  for (std::size_t i = threadIdx.x; i < kTile; i += std::size_t{kThreads} * kReaderVectors) {
    uint4 data[kReaderVectors];
#pragma unroll
    for (unsigned j = 0; j < kReaderVectors; ++j) {
      asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(data[j].x), "=r"(data[j].y), "=r"(data[j].z), "=r"(data[j].w)
                   : "l"(tile + i + j * kThreads));
    }
#pragma unroll
    for (unsigned j = 0; j < kReaderVectors; ++j) {
      const auto* const pairs = reinterpret_cast<const __nv_bfloat162*>(&data[j]);
#pragma unroll
      for (unsigned pair = 0; pair < sizeof(uint4) / sizeof(__nv_bfloat162); ++pair) {
        const float2 keys = __bfloat1622float2(pairs[pair]);
#pragma unroll
        for (unsigned q = 0; q < kQueries; ++q) {
          score[q] = fmaf(keys.x, query + static_cast<float>(q), score[q]);
          score[q] = fmaf(keys.y, query - static_cast<float>(q), score[q]);
        }
      }
    }
  }
  float sum = 0;
#pragma unroll
  for (unsigned q = 0; q < kQueries; ++q) sum += score[q];
  if (sum == 12345.678F) *sink = 1;  // so that the work is not in vain
}

template <class Kernel>
cudaError_t load(Kernel kernel) {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, kernel);
}

}  // namespace

int load_kernels() {
  for (const cudaError_t status :
       {load(empty_kernel), load(gather_kernel), load(verify_kernel), load(count_kernel),
        load(flush_kernel), load(read_kernel), load(attend_kernel)}) {
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

int launch_empty(void* stream) {
  empty_kernel<<<1, 32, 0, as_stream(stream)>>>();
  return cudaGetLastError();
}

int gather(std::uint32_t ctas, const std::uint64_t* from, std::byte* arena, const std::int32_t* to,
           std::uint32_t rows, std::uint32_t row_bytes, void* stream) {
  gather_kernel<<<ctas, kGatherThreads, 0, as_stream(stream)>>>(from, arena, to, rows,
                                                                row_bytes / 16);
  return cudaGetLastError();
}

int verify(const VerifiedLists& lists, const std::byte* arena, Verified* found, void* stream) {
  verify_kernel<<<blocks_for(std::size_t{lists.lists} * lists.list_capacity), kThreads, 0,
                  as_stream(stream)>>>(lists, arena, found);
  return cudaGetLastError();
}

int count_outcomes(const std::uint8_t* outcomes, const std::uint32_t* counts, std::uint32_t lists,
                   std::uint32_t list_capacity, std::uint8_t outcome, unsigned long long* count,
                   void* stream) {
  const std::size_t all = std::size_t{lists} * list_capacity;
  count_kernel<<<blocks_for((all + kThreads - 1) / kThreads), kThreads, 0, as_stream(stream)>>>(
      outcomes, counts, lists, list_capacity, outcome, count);
  return cudaGetLastError();
}

int flush(void* buffer, std::size_t bytes, void* stream) {
  flush_kernel<<<kMostBlocks, kThreads, 0, as_stream(stream)>>>(static_cast<uint4*>(buffer),
                                                                bytes / sizeof(uint4));
  return cudaGetLastError();
}

int read_hbm(const void* buffer, std::size_t bytes, unsigned sms, unsigned* sink, void* stream) {
  const unsigned blocks = sms * kReaderBlocksPerSm;
  const std::size_t vectors = bytes / sizeof(uint4);
  read_kernel<<<blocks, kThreads, 0, as_stream(stream)>>>(static_cast<const uint4*>(buffer),
                                                          vectors, sink);
  return cudaGetLastError();
}

int attend(const void* buffer, std::size_t bytes, unsigned* sink, void* stream) {
  attend_kernel<<<static_cast<unsigned>(bytes / kAttentionTile), kThreads, 0, as_stream(stream)>>>(
      static_cast<const uint4*>(buffer), sink, 1.0F);
  return cudaGetLastError();
}

}  // namespace sluice::tools::cuda
