// Copies by a bounded number of blocks of threads: what the others, the lookers, miss is handed
// over to the copiers through a list in scratch memory, fill by fill. A launch leaves the list
// empty.
//
// Order. A fill is stored as a whole, after a fence that comes after the claim of its slot; who
// sees it copies, fences, and sets the ready bit. What says how many fills there are is released
// after it is counted.
#pragma once

#include <cstdint>

#include "kernels/cuda/copies.cuh"
#include "kernels/cuda/resolve_state.cuh"

namespace sluice::kernels::cuda {

// How many of the block's fills come before it in the node's memory.
static __device__ __noinline__ std::uint32_t rank_of(const Fills& fills, std::uint32_t i) {
  const std::uint64_t from = fills.at[i].from;
  std::uint32_t rank = 0;
#pragma unroll 4
  for (std::uint32_t j = 0; j < fills.count; ++j) {
    const std::uint64_t other = fills.at[j].from;
    rank += other < from || (other == from && j < i) ? 1 : 0;
  }
  return rank;
}

// Leaves the copies to the copiers, which begin as soon as they see a fill.
__device__ inline void hand_over(const Launch& launch, Shared& shared) {
  const std::uint32_t count = shared.fills.count;
  if (count != 0) {
    if (threadIdx.x == 0) {
      shared.handed = atomicAdd(&launch.scratch->books.pages[shared.turn % 2], count);
    }
    __syncthreads();
    // The claims of the block come before its fills.
    if (threadIdx.x < count) __threadfence();
#pragma unroll 1
    for (std::uint32_t i = threadIdx.x; i < count; i += kThreads) {
      Fill fill = shared.fills.at[i];
      fill.seen = kHandedOver;
      const std::uint32_t place = shared.far ? rank_of(shared.fills, i) : i;
      store_whole(&launch.scratch->fills[shared.handed + place], fill);
    }
  }
  if (threadIdx.x == 0) {
    // Release: the count of pages comes before it.
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(&launch.scratch->books.handed),
                 "r"(1)
                 : "memory");
  }
}

// What the lookers hand over, as a copier sees it.
class Handed {
 public:
  __device__ Handed(const Launch& launch, const Shared& shared)
      : launch_(launch), base_(shared.handed_base), turn_(shared.turn % 2) {}

  // The fill at a place, if it is there.
  __device__ Fill look(std::uint32_t place) const {
    return place < end_ ? load_whole(&launch_.scratch->fills[place]) : Fill{};
  }

  // Waits for the fill at a place, which was looked at; false: there are not so many. Lookers were
  // started before us, and wait for others only with a bound.
  __device__ bool wait(std::uint32_t place, Fill& fill) {
    while (fill.seen == 0) {
      if (known_ && place >= end_) return false;
      const Books now = books();
      fill = look(place);
      take(now);
    }
    return true;
  }

  // How many there are; waits until all lookers have said so.
  __device__ std::uint32_t count() {
    while (!known_) take(books());
    return end_;
  }

 private:
  // As one load: when all lookers have counted what they hand over, the pages are all counted.
  __device__ Books books() const { return load_whole(&launch_.scratch->books); }
  __device__ void take(const Books& now) {
    if (known_ || now.handed - base_ < launch_.lookers) return;
    end_ = turn_ == 0 ? now.pages[0] : now.pages[1];
    known_ = true;
  }

  const Launch& launch_;
  const std::uint32_t base_;
  const std::uint32_t turn_;
  std::uint32_t end_ = launch_.items;
  bool known_ = false;
};

// The pieces that the copiers take in turn: some pages, or a part of one.
struct Pieces {
  std::uint32_t per_page;  // vectors
  std::uint32_t parts;     // pieces of a page
  std::uint32_t together;  // pages of a piece

  __device__ explicit Pieces(const PageStore& store)
      : per_page(static_cast<std::uint32_t>(store.page_bytes / sizeof(uint4))),
        parts((per_page + kThreads - 1) / kThreads),
        together(max(1u, kThreads / per_page)) {}
};

// What a thread of a copier has on its way.
struct Round {
  uint4 data[kVectorsOfCopier];
  uint4* to[kVectorsOfCopier];
};

// Says of pages, copied in pieces that this block of threads took in turn, that their bytes are
// there, and clears their places for the next launch.
__device__ inline void set_ready_bits(const Launch& launch, const Pieces& pieces,
                                      std::uint32_t pages) {
  const std::uint32_t me = blockIdx.x - launch.lookers;
  const auto set = [&](Fill* fill) {
    set_ready_bit(launch.table, load_whole(fill).slot);
    store(&fill->seen, 0);
  };
  if (pages == 0) return;
  __threadfence();
  __syncthreads();
  let_next_come();
#pragma unroll 1
  for (std::uint32_t i = threadIdx.x;; i += kThreads) {
    const std::uint32_t piece = me + i / pieces.together * launch.copiers;
    const std::uint32_t page =
        pieces.parts > 1 ? launch.by_parts(piece) : piece * pieces.together + i % pieces.together;
    if (page >= pages) return;
    Fill* const fill = &launch.scratch->fills[page];
    if (pieces.parts == 1) {
      set(fill);
    } else if (atomicAdd(&fill->seen, 1u) + 1 == kHandedOver + pieces.parts) {
      // The last of the pieces says so for all: each of the others was fenced before it was
      // counted.
      __threadfence();
      set(fill);
    }
  }
}

// Copies what the lookers miss, while they hand it over: the next vectors are on their way before
// those that have come are stored, which may take long while others use the device's memory.
__device__ inline void copy_handed(const Launch& launch, Shared& shared) {
  const PageStore& store = launch.store;
  const Pieces pieces(store);
  const std::uint32_t me = blockIdx.x - launch.lookers;
  Handed handed(launch, shared);
  const std::uint32_t in_piece = pieces.parts > 1 ? 0 : launch.by_page(threadIdx.x);
  const std::uint32_t in_page = threadIdx.x - in_piece * pieces.per_page;
  const std::uint32_t stride = launch.copiers * kVectorsOfCopier;
  const auto page_of_vector = [&](std::uint32_t piece) {
    return pieces.parts > 1 ? launch.by_parts(piece) : piece * pieces.together + in_piece;
  };
  Fill next[kVectorsOfCopier];
  const auto look = [&](std::uint32_t piece) {
#pragma unroll
    for (unsigned j = 0; j < kVectorsOfCopier; ++j) {
      next[j] = handed.look(page_of_vector(piece + j * launch.copiers));
    }
  };
  // What was looked at; whether there was anything. Looks at the next round's.
  const auto read = [&](std::uint32_t piece, Round& round) {
    bool any = false;
#pragma unroll
    for (unsigned j = 0; j < kVectorsOfCopier; ++j) {
      const std::uint32_t at = piece + j * launch.copiers;
      const std::uint32_t page = page_of_vector(at);
      const std::uint32_t vector =
          pieces.parts > 1 ? (at - page * pieces.parts) * kThreads + in_page : in_page;
      round.to[j] = nullptr;
      if (!handed.wait(page, next[j])) continue;
      any = true;
      if (vector >= pieces.per_page) continue;
      round.to[j] = reinterpret_cast<uint4*>(slot_bytes(store, next[j].slot)) + vector;
      round.data[j] =
          read_once(reinterpret_cast<const uint4*>(store.frames + next[j].from) + vector);
    }
    if (any) look(piece + stride);
    return any;
  };
  const auto write = [&](const Round& round) {
#pragma unroll
    for (unsigned j = 0; j < kVectorsOfCopier; ++j) {
      if (round.to[j] != nullptr) store_to_keep(round.to[j], round.data[j]);
    }
  };
  if (in_piece < pieces.together) {
    Round first;
    Round second;
    std::uint32_t piece = me;
    look(piece);
    bool more = read(piece, first);
#pragma unroll 1
    while (more) {
      more = read(piece += stride, second);
      write(first);
      if (!more) break;
      more = read(piece += stride, first);
      write(second);
    }
  }
  set_ready_bits(launch, pieces, handed.count());
}

// The same for pages that are no multiple of 16 bytes.
__device__ inline void copy_handed_odd(const Launch& launch, Shared& shared) {
  Handed handed(launch, shared);
  Fill& fill = shared.fills.at[0];
  for (std::uint32_t page = blockIdx.x - launch.lookers;; page += launch.copiers) {
    if (threadIdx.x == 0) {
      fill = handed.look(page);
      shared.more = handed.wait(page, fill);
      // What its looker had read from the CPU comes before what all of us read there.
      __threadfence();
    }
    __syncthreads();
    if (!shared.more) return;
    copy_odd(launch, &fill, 1);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      set_ready_bit(launch.table, fill.slot);
      store(&launch.scratch->fills[page].seen, 0);
    }
  }
}

}  // namespace sluice::kernels::cuda
