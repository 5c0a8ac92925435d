#include <cuda_runtime.h>

#include <algorithm>

#include "tools/bench/cuda/decode_kernels.h"
#include "tools/bench/decode_words.h"

namespace sluice::tools::cuda {
namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kWholeWarp = 0xFFFFFFFFu;
constexpr unsigned kHalfWarp = 16;
constexpr unsigned kAttentionThreads = 128;
constexpr unsigned kAttentionBlocksPerSm = 3;  // so that each thread has the registers it needs
constexpr unsigned kHalves = kAttentionThreads / kHalfWarp;
constexpr unsigned kDims = 8;  // of a lane: 16 bytes
constexpr unsigned kVectorsPerToken = kDecodeHeadDim / kDims;
constexpr unsigned kTokensPerHalf = kDecodePageTokens / 2;
constexpr unsigned kVectorsPerPlane = kDecodePageTokens * kVectorsPerToken;
constexpr unsigned kVectorsPerHead = 2 * kVectorsPerPlane;
constexpr unsigned kPageVectors = kDecodePageBytes / sizeof(uint4);
constexpr unsigned kThreads = 256;
constexpr unsigned kReferenceThreads = 128;
constexpr unsigned kMostBlocks = 4096;
// Of attention: more than run at a time, so that the end is short, but lists are not cut too small.
constexpr unsigned kBlocksPerSm = 8;
constexpr float kScale = 0.08838834764831845f;  // 1 / sqrt(kDecodeHeadDim)
constexpr float kNone = -1e30f;                 // as a maximum: there is nothing yet
// Numbers of an output are below 2 and mostly below 0.3; bf16 keeps eight bits of them.
constexpr float kTolerance = 0.004f;
constexpr float kRelativeTolerance = 0.01f;

static_assert(kVectorsPerToken == kHalfWarp, "a half warp reads a token");

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

__device__ float low_number(unsigned two) { return __uint_as_float(two << 16); }
__device__ float high_number(unsigned two) { return __uint_as_float(two & 0xFFFF0000u); }

__device__ void unpack(const uint4& vector, float (&numbers)[kDims]) {
  const unsigned words[] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) {
    numbers[2 * i] = low_number(words[i]);
    numbers[2 * i + 1] = high_number(words[i]);
  }
}

__device__ std::uint16_t to_bf16(float number) {
  const unsigned bits = __float_as_uint(number);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

__device__ uint4 load_once(const uint4* from) {
  uint4 value;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(from));
  return value;
}

// Softmax so far of the tokens that a half warp has seen: each lane has kDims of the sums.
struct Running {
  float max[kDecodeGroup];
  float sum[kDecodeGroup];
  float out[kDecodeGroup][kDims];
};

// One head of a page: the half warps of a warp take a token each in turn.
__device__ void attend_page(const uint4* head, const float (&query)[kDecodeGroup][kDims],
                            Running& running) {
  uint4 keys[kTokensPerHalf];
  uint4 values[kTokensPerHalf];
#pragma unroll
  for (unsigned t = 0; t < kTokensPerHalf; ++t) {
    keys[t] = load_once(head + t * kWarp);
  }
#pragma unroll
  for (unsigned t = 0; t < kTokensPerHalf; ++t) {
    values[t] = load_once(head + kVectorsPerPlane + t * kWarp);
  }
  float scores[kTokensPerHalf][kDecodeGroup];
#pragma unroll
  for (unsigned t = 0; t < kTokensPerHalf; ++t) {
    float key[kDims];
    unpack(keys[t], key);
#pragma unroll
    for (unsigned h = 0; h < kDecodeGroup; ++h) {
      float dot = 0;
#pragma unroll
      for (unsigned d = 0; d < kDims; ++d) dot = fmaf(query[h][d], key[d], dot);
#pragma unroll
      for (unsigned other = kHalfWarp / 2; other > 0; other /= 2) {
        dot += __shfl_xor_sync(kWholeWarp, dot, other);
      }
      scores[t][h] = dot;
    }
  }
#pragma unroll
  for (unsigned h = 0; h < kDecodeGroup; ++h) {
    float max = running.max[h];
#pragma unroll
    for (unsigned t = 0; t < kTokensPerHalf; ++t) max = fmaxf(max, scores[t][h]);
    const float shrink = __expf(running.max[h] - max);
    running.max[h] = max;
    running.sum[h] *= shrink;
#pragma unroll
    for (unsigned d = 0; d < kDims; ++d) running.out[h][d] *= shrink;
#pragma unroll
    for (unsigned t = 0; t < kTokensPerHalf; ++t) {
      scores[t][h] = __expf(scores[t][h] - max);
      running.sum[h] += scores[t][h];
    }
  }
#pragma unroll
  for (unsigned t = 0; t < kTokensPerHalf; ++t) {
    float value[kDims];
    unpack(values[t], value);
#pragma unroll
    for (unsigned h = 0; h < kDecodeGroup; ++h) {
#pragma unroll
      for (unsigned d = 0; d < kDims; ++d) {
        running.out[h][d] = fmaf(scores[t][h], value[d], running.out[h][d]);
      }
    }
  }
}

// Of one softmax: max, sum, then the sums of values.
constexpr unsigned kPartial = 2 + kDecodeHeadDim;

// Block (split, KV head, sequence): its warps take pages of its part of the list in turn.
__global__ void __launch_bounds__(kAttentionThreads, kAttentionBlocksPerSm)
    attention_kernel(Attention attention) {
  __shared__ float shared[kHalves][kPartial];
  const unsigned head = blockIdx.y;
  const unsigned sequence = blockIdx.z;
  const unsigned lane = threadIdx.x % kWarp;
  const unsigned warp = threadIdx.x / kWarp;
  const unsigned in_half = threadIdx.x % kHalfWarp;
  float query[kDecodeGroup][kDims];
  const std::size_t first_query =
      std::size_t{sequence} * kDecodeQueryHeads + std::size_t{head} * kDecodeGroup;
  Running running;
#pragma unroll
  for (unsigned h = 0; h < kDecodeGroup; ++h) {
    const auto* const row =
        reinterpret_cast<const uint4*>(attention.queries + (first_query + h) * kDecodeHeadDim);
    unpack(row[in_half], query[h]);
    running.max[h] = kNone;
    running.sum[h] = 0;
#pragma unroll
    for (unsigned d = 0; d < kDims; ++d) {
      query[h][d] *= kScale;
      running.out[h][d] = 0;
    }
  }
  const unsigned count = min(attention.counts[sequence], attention.capacity);
  const auto* const slots = attention.slots + std::size_t{sequence} * attention.capacity;
  const unsigned readers = attention.splits * (kAttentionThreads / kWarp);
  for (unsigned i = blockIdx.x * (kAttentionThreads / kWarp) + warp; i < count; i += readers) {
    const std::int32_t slot = slots[i];
    if (slot < 0) continue;
    const auto* const page = reinterpret_cast<const uint4*>(attention.pages) +
                             static_cast<std::uint64_t>(slot) * kPageVectors;
    attend_page(page + head * kVectorsPerHead + lane, query, running);
  }
  for (unsigned h = 0; h < kDecodeGroup; ++h) {
    __syncthreads();
    float* const mine = shared[threadIdx.x / kHalfWarp];
    if (in_half == 0) {
      mine[0] = running.max[h];
      mine[1] = running.sum[h];
    }
#pragma unroll
    for (unsigned d = 0; d < kDims; ++d) mine[2 + in_half * kDims + d] = running.out[h][d];
    __syncthreads();
    float max = kNone;
    for (unsigned i = 0; i < kHalves; ++i) max = fmaxf(max, shared[i][0]);
    float sum = 0;
    float out = 0;
    for (unsigned i = 0; i < kHalves; ++i) {
      const float weight = __expf(shared[i][0] - max);
      sum += weight * shared[i][1];
      out += weight * shared[i][2 + threadIdx.x];
    }
    float* const partial =
        attention.partials + ((first_query + h) * attention.splits + blockIdx.x) * kPartial;
    if (threadIdx.x == 0) {
      partial[0] = max;
      partial[1] = sum;
    }
    partial[2 + threadIdx.x] = out;
  }
}
static_assert(kAttentionThreads == kDecodeHeadDim, "a thread per dimension joins the parts");

// Block (query head, sequence).
__global__ void __launch_bounds__(kDecodeHeadDim) join_kernel(Attention attention) {
  const std::size_t query = std::size_t{blockIdx.y} * kDecodeQueryHeads + blockIdx.x;
  const float* const partials = attention.partials + query * attention.splits * kPartial;
  float max = kNone;
  for (unsigned i = 0; i < attention.splits; ++i) max = fmaxf(max, partials[i * kPartial]);
  float sum = 0;
  float out = 0;
  for (unsigned i = 0; i < attention.splits; ++i) {
    const float weight = __expf(partials[i * kPartial] - max);
    sum += weight * partials[i * kPartial + 1];
    out += weight * partials[i * kPartial + 2 + threadIdx.x];
  }
  attention.out[query * kDecodeHeadDim + threadIdx.x] = to_bf16(sum > 0 ? out / sum : 0.0f);
}

__device__ std::uint64_t known_page(const KnownPages& known, unsigned sequence,
                                    std::int32_t block) {
  return known.first_page + sequence * known.pages_per_sequence +
         static_cast<std::uint64_t>(block) * known.pages_per_block;
}

// A block per item.
__global__ void __launch_bounds__(kThreads)
    verify_pages_kernel(Attention attention, KnownPages known, std::uint32_t slot_limit,
                        DecodeFound* found) {
  constexpr unsigned kWords = kDecodePageBytes / sizeof(std::uint64_t);
  const unsigned all = attention.sequences * attention.capacity;
  for (unsigned i = blockIdx.x; i < all; i += gridDim.x) {
    const unsigned sequence = i / attention.capacity;
    if (i - sequence * attention.capacity >= attention.counts[sequence]) continue;
    const std::int32_t slot = attention.slots[i];
    if (slot < 0 || static_cast<std::uint32_t>(slot) >= slot_limit) {
      if (threadIdx.x == 0) atomicAdd(&found->without_slot, 1ull);
      continue;
    }
    const std::uint64_t page = known_page(known, sequence, known.items[i]);
    const auto* const words = reinterpret_cast<const std::uint64_t*>(
        attention.pages + static_cast<std::uint64_t>(slot) * kDecodePageBytes);
    unsigned long long wrong = 0;
    for (unsigned w = threadIdx.x; w < kWords; w += kThreads) {
      wrong += words[w] != decode_word(page, w) ? 1 : 0;
    }
    if (wrong != 0) atomicAdd(&found->wrong_words, wrong);
  }
}

// Number `dim` of a token's K (plane 0) or V (plane 1), as it must be.
__device__ float known_number(std::uint64_t page, unsigned head, unsigned plane, unsigned token,
                              unsigned dim) {
  constexpr unsigned kNumbers = sizeof(std::uint64_t) / 2;
  const unsigned place = ((head * 2 + plane) * kDecodePageTokens + token) * kDecodeHeadDim + dim;
  const std::uint64_t word = decode_word(page, place / kNumbers);
  return low_number(static_cast<unsigned>(word >> (place % kNumbers * 16)) & 0xFFFFu);
}

// A block per pair: all scores, then the softmax, then the sums of values.
__global__ void __launch_bounds__(kReferenceThreads)
    verify_attention_kernel(Attention attention, KnownPages known, std::uint32_t seed,
                            DecodeFound* found) {
  extern __shared__ float scores[];
  __shared__ float query[kDecodeHeadDim];
  const unsigned drawn = (seed + blockIdx.x) * 2654435761u;
  const unsigned sequence = (drawn >> 8) % attention.sequences;
  const unsigned query_head = (drawn >> 3) % kDecodeQueryHeads;
  const unsigned head = query_head / kDecodeGroup;
  const std::size_t row = (std::size_t{sequence} * kDecodeQueryHeads + query_head) * kDecodeHeadDim;
  query[threadIdx.x] = low_number(attention.queries[row + threadIdx.x]);
  __syncthreads();
  const std::size_t first = std::size_t{sequence} * attention.capacity;
  const unsigned tokens = attention.counts[sequence] * kDecodePageTokens;
  for (unsigned t = threadIdx.x; t < tokens; t += kReferenceThreads) {
    const std::size_t item = first + t / kDecodePageTokens;
    const std::uint64_t page = known_page(known, sequence, known.items[item]);
    float dot = 0;
    for (unsigned d = 0; d < kDecodeHeadDim; ++d) {
      dot += query[d] * known_number(page, head, 0, t % kDecodePageTokens, d);
    }
    scores[t] = attention.slots[item] < 0 ? kNone : dot * kScale;
  }
  __syncthreads();
  float max = kNone;
  for (unsigned t = 0; t < tokens; ++t) max = fmaxf(max, scores[t]);
  float sum = 0;
  float out = 0;
  for (unsigned t = 0; t < tokens; ++t) {
    if (scores[t] == kNone) continue;
    const std::uint64_t page =
        known_page(known, sequence, known.items[first + t / kDecodePageTokens]);
    const float weight = expf(scores[t] - max);
    sum += weight;
    out += weight * known_number(page, head, 1, t % kDecodePageTokens, threadIdx.x);
  }
  const float expected = sum > 0 ? out / sum : 0.0f;
  const float got = low_number(attention.out[row + threadIdx.x]);
  const bool right = fabsf(got - expected) <= kTolerance + kRelativeTolerance * fabsf(expected);
  atomicAdd(&found->outputs, 1ull);
  if (!right) atomicAdd(&found->wrong_outputs, 1ull);  // also of what is no number
}
static_assert(kReferenceThreads == kDecodeHeadDim, "a thread per dimension");

__global__ void __launch_bounds__(kThreads)
    fill_kernel(std::uint64_t* words, std::uint64_t count, std::uint64_t first_page) {
  constexpr unsigned kWords = kDecodePageBytes / sizeof(std::uint64_t);
  for (std::uint64_t p = blockIdx.x; p < count; p += gridDim.x) {
    for (unsigned w = threadIdx.x; w < kWords; w += kThreads) {
      words[p * kWords + w] = decode_word(first_page + p, w);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    tally_kernel(const std::uint8_t* outcomes, const std::uint32_t* counts, std::uint32_t lists,
                 std::uint32_t capacity, unsigned long long* tallied) {
  constexpr unsigned kOutcomes = 4;
  unsigned long long mine[kOutcomes] = {};
  for (std::uint32_t list = blockIdx.x; list < lists; list += gridDim.x) {
    for (std::uint32_t i = threadIdx.x; i < counts[list]; i += kThreads) {
      const unsigned outcome =
          min(unsigned{outcomes[std::size_t{list} * capacity + i]}, kOutcomes - 1);
#pragma unroll
      for (unsigned o = 0; o < kOutcomes; ++o) mine[o] += o == outcome ? 1 : 0;
    }
  }
  for (unsigned o = 0; o < kOutcomes; ++o) {
    if (mine[o] != 0) atomicAdd(&tallied[o], mine[o]);
  }
}

template <class Kernel>
cudaError_t load(Kernel kernel) {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, kernel);
}

std::size_t reference_bytes(std::uint32_t capacity) {
  return std::size_t{capacity} * kDecodePageTokens * sizeof(float);
}

}  // namespace

int load_decode_kernels() {
  for (const cudaError_t status :
       {load(attention_kernel), load(join_kernel), load(verify_pages_kernel),
        load(verify_attention_kernel), load(fill_kernel), load(tally_kernel)}) {
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

std::size_t attention_partials(std::uint32_t sequences, std::uint32_t splits) {
  return std::size_t{sequences} * kDecodeQueryHeads * splits * kPartial;
}

std::uint32_t attention_splits(std::uint32_t sequences, unsigned sms) {
  const std::uint32_t pairs = std::max(sequences, 1u) * kDecodeKvHeads;
  return std::clamp((sms * kBlocksPerSm + pairs - 1) / pairs, 1u, kDecodeMostSplits);
}

int attend(const Attention& attention, void* stream) {
  const dim3 grid(attention.splits, kDecodeKvHeads, attention.sequences);
  attention_kernel<<<grid, kAttentionThreads, 0, as_stream(stream)>>>(attention);
  if (const cudaError_t status = cudaGetLastError(); status != cudaSuccess) return status;
  join_kernel<<<dim3(kDecodeQueryHeads, attention.sequences), kDecodeHeadDim, 0,
                as_stream(stream)>>>(attention);
  return cudaGetLastError();
}

int verify_pages(const Attention& attention, const KnownPages& known, std::uint32_t slot_limit,
                 DecodeFound* found, void* stream) {
  const unsigned items = attention.sequences * attention.capacity;
  verify_pages_kernel<<<std::min(items, kMostBlocks), kThreads, 0, as_stream(stream)>>>(
      attention, known, slot_limit, found);
  return cudaGetLastError();
}

int verify_attention(const Attention& attention, const KnownPages& known, std::uint32_t pairs,
                     std::uint32_t seed, DecodeFound* found, void* stream) {
  verify_attention_kernel<<<pairs, kReferenceThreads, reference_bytes(attention.capacity),
                            as_stream(stream)>>>(attention, known, seed, found);
  return cudaGetLastError();
}

int fill_pages(void* pages, std::uint64_t count, std::uint64_t first_page, void* stream) {
  if (count == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(std::min<std::uint64_t>(count, kMostBlocks));
  fill_kernel<<<blocks, kThreads, 0, as_stream(stream)>>>(static_cast<std::uint64_t*>(pages), count,
                                                          first_page);
  return cudaGetLastError();
}

int tally(const std::uint8_t* outcomes, const std::uint32_t* counts, std::uint32_t lists,
          std::uint32_t capacity, unsigned long long* tallied, void* stream) {
  tally_kernel<<<std::min(lists, kMostBlocks), kThreads, 0, as_stream(stream)>>>(
      outcomes, counts, lists, capacity, tallied);
  return cudaGetLastError();
}

}  // namespace sluice::tools::cuda
