// How a block of threads moves pages from the node's memory into slots.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cuda/lists.cuh"

namespace sluice::kernels::cuda {

// Vectors of a thread on their way at a time: of small pages, and of such as are larger than a
// block of threads reads at once.
inline constexpr unsigned kVectorsPerThread = 4;
inline constexpr unsigned kVectorsOfLarge = 8;
// Of a copier, whose next ones are asked for before these are stored. With more it is faster, and
// slows down what else runs on the device by more than that.
inline constexpr unsigned kVectorsOfCopier = 2;

// The page cannot have left the slot: we are in the step that the word has.
__device__ inline void set_ready_bit(const HotTable& table, Slot slot) {
  atomicOr(reinterpret_cast<unsigned long long*>(&table.words[slot]), kReadyBit);
}

// Vectors of host memory are read once: they do not displace what the L1 holds. Volatile: they are
// read where it says so, and not where they are needed.
__device__ inline uint4 read_once(const uint4* at) {
  uint4 v;
  asm volatile("ld.relaxed.sys.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}

// For what is read soon after: it leaves the L2 late.
__device__ inline void store_to_keep(uint4* at, const uint4& v) {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("st.global.L2::cache_hint.v4.u32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(at), "r"(v.x),
               "r"(v.y), "r"(v.z), "r"(v.w), "l"(policy)
               : "memory");
}

// Sixteen bytes that others store or read at the same time, as a whole.
template <class T>
__device__ inline void store_whole(T* at, const T& value) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
  std::uint64_t half[2];
  std::memcpy(half, &value, sizeof(half));
  asm volatile(
      "{\n\t.reg .b128 whole;\n\t"
      "mov.b128 whole, {%1, %2};\n\t"
      "st.relaxed.gpu.global.b128 [%0], whole;\n\t}" ::"l"(at),
      "l"(half[0]), "l"(half[1])
      : "memory");
}
template <class T>
__device__ inline T load_whole(const T* at) {
  static_assert(sizeof(T) == 16 && alignof(T) == 16);
  std::uint64_t half[2];
  asm volatile(
      "{\n\t.reg .b128 whole;\n\t"
      "ld.relaxed.gpu.global.b128 whole, [%2];\n\t"
      "mov.b128 {%0, %1}, whole;\n\t}"
      : "=l"(half[0]), "=l"(half[1])
      : "l"(at)
      : "memory");
  T value;
  std::memcpy(&value, half, sizeof(value));
  return value;
}

// Small pages as one run of vectors, by all threads of the block.
__device__ inline void copy_small(const Launch& launch, const Fill* fills, std::uint32_t count) {
  using Vector = uint4;
  const auto per_page = static_cast<std::uint32_t>(launch.store.page_bytes / sizeof(Vector));
  const std::uint32_t total = count * per_page;
#pragma unroll 1
  for (std::uint32_t base = threadIdx.x; base < total; base += kThreads * kVectorsPerThread) {
    Vector data[kVectorsPerThread];
    Vector* to[kVectorsPerThread];
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      const std::uint32_t index = base + j * kThreads;
      if (index >= total) continue;
      const std::uint32_t place = launch.by_page(index);
      const std::uint32_t vector = index - place * per_page;
      const Fill& fill = fills[place];
      to[j] = reinterpret_cast<Vector*>(slot_bytes(launch.store, fill.slot)) + vector;
      data[j] =
          read_once(reinterpret_cast<const Vector*>(launch.store.frames + fill.from) + vector);
    }
#pragma unroll
    for (unsigned j = 0; j < kVectorsPerThread; ++j) {
      if (base + j * kThreads < total) *to[j] = data[j];
    }
  }
}

// Pages that are larger than what the block of threads reads at once: pieces of so many vectors,
// whose pages are the same for all threads.
__device__ inline void copy_large(const Launch& launch, const Fill* fills, std::uint32_t count) {
  using Vector = uint4;
  const auto per_page = static_cast<std::uint32_t>(launch.store.page_bytes / sizeof(Vector));
  const std::uint32_t parts = (per_page + kThreads - 1) / kThreads;
  const std::uint32_t pieces = count * parts;
  std::uint32_t page = 0;
  std::uint32_t part = 0;
#pragma unroll 1
  for (std::uint32_t piece = 0; piece < pieces; piece += kVectorsOfLarge) {
    Vector data[kVectorsOfLarge];
    const std::uint32_t first_page = page;
    const std::uint32_t first_part = part;
#pragma unroll
    for (unsigned j = 0; j < kVectorsOfLarge; ++j) {
      const std::uint32_t vector = part * kThreads + threadIdx.x;
      if (page < count && vector < per_page) {
        data[j] = read_once(
            reinterpret_cast<const Vector*>(launch.store.frames + fills[page].from) + vector);
      }
      if (++part == parts) {
        part = 0;
        ++page;
      }
    }
    std::uint32_t to_page = first_page;
    std::uint32_t to_part = first_part;
#pragma unroll
    for (unsigned j = 0; j < kVectorsOfLarge; ++j) {
      const std::uint32_t vector = to_part * kThreads + threadIdx.x;
      if (to_page < count && vector < per_page) {
        reinterpret_cast<Vector*>(slot_bytes(launch.store, fills[to_page].slot))[vector] = data[j];
      }
      if (++to_part == parts) {
        to_part = 0;
        ++to_page;
      }
    }
  }
}

// Pages that are no multiple of 16 bytes, byte by byte.
static __device__ __noinline__ void copy_odd(const Launch& launch, const Fill* fills,
                                             std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::byte* const from = launch.store.frames + fills[i].from;
    std::byte* const to = slot_bytes(launch.store, fills[i].slot);
#pragma unroll 4
    for (std::uint64_t at = threadIdx.x; at < launch.store.page_bytes; at += kThreads) {
      to[at] = from[at];
    }
  }
}

// Copies, and sets the ready bits; by all threads of the block, before which there is a barrier.
__device__ inline void copy_fills(const Launch& launch, const Fills& fills) {
  const std::uint32_t count = fills.count;
  if (count == 0) return;
  if (launch.store.page_bytes % sizeof(uint4) != 0) {
    copy_odd(launch, fills.at, count);
  } else if (launch.store.page_bytes > kThreads * sizeof(uint4)) {
    copy_large(launch, fills.at, count);
  } else {
    copy_small(launch, fills.at, count);
  }
  // Each thread's stores come before the ready bits of the pages that it had a part in.
  __threadfence();
  __syncthreads();
#pragma unroll 1
  for (std::uint32_t i = threadIdx.x; i < count; i += kThreads) {
    set_ready_bit(launch.table, fills.at[i].slot);
  }
}

__device__ inline std::uint64_t frame_offset(const Launch& launch, Frame frame, Page page) {
  return frame * launch.store.frame_stride +
         page_in_block(launch.table, page) * launch.store.page_bytes;
}

}  // namespace sluice::kernels::cuda
