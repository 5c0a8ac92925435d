// Pins, and copies of whole blocks between pinned slots and frames; and what the daemon's worker
// does to a table that nobody is in.
#include "kernels/cuda/device.cuh"

namespace sluice::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarp;
constexpr unsigned kCopyThreads = 512;
constexpr unsigned kMaxCopyBlocks = 16;  // as many as keep the link full

unsigned blocks_for(std::uint64_t threads, unsigned most = 1024) {
  const std::uint64_t blocks = (threads + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

// A warp per page. Pins grow from the bottom: windows are tried from pin_from on.
__global__ void __launch_bounds__(kThreads)
    claim(const __grid_constant__ HotTable table, std::uint32_t mapped, std::uint32_t actor,
          const Block* blocks, std::uint32_t count, Slot* slots) {
  __shared__ Wants wants[kWarps];
  const std::uint32_t per_block = table.sizes.pages_per_block;
  const std::uint64_t warps = std::uint64_t{gridDim.x} * kWarps;
  const std::uint32_t limit = min(limit_of(table), mapped);
  const std::uint32_t windows = windows_of(limit);
  const Step step = load(&actor_line(table, actor)->step) & kStepMask;
  const unsigned warp = threadIdx.x / kWarp;
  const bool marks = load(&table.header->forecasts) != 0;
  std::uint32_t displaced = 0;
  for (std::uint64_t n = std::uint64_t{blockIdx.x} * kWarps + warp;
       n < std::uint64_t{count} * per_block; n += warps) {
    const Block block = blocks[n / per_block];
    const Page page = page_number(table, block, static_cast<std::uint32_t>(n % per_block));
    Slot slot = kNoSlot;
    if (block < table.sizes.blocks && limit != 0) {
      const std::uint32_t first = load(&table.header->pin_from) % limit / kWindow;
      const Cut cut = cut_by_warp(table);
      for (std::uint32_t i = 0; i < windows && slot == kNoSlot; ++i) {
        const std::uint32_t index = (first + i) % windows;
        Window window;
        load_window(table, limit, index, window);
        const unsigned left = claim_from_window(table, window, {cut}, page, step, true, 1u, 1u,
                                                static_cast<unsigned>(n), wants[warp], displaced);
        if (left == 0) slot = wants[warp].slot[0];
        __syncwarp();
      }
      if (lane_id() == 0 && slot != kNoSlot) {
        if (marks) waste_mark(table, static_cast<std::uint32_t>(slot));
        set_slot_hint(table, page, slot);
        const std::uint32_t at = static_cast<std::uint32_t>(slot) / kWindow * kWindow;
        if (at > load(&table.header->pin_from)) store(&table.header->pin_from, at);
      }
    }
    if (lane_id() == 0) slots[n] = slot;
  }
  if (lane_id() == 0) add_freed(table, displaced);
}

__device__ void unpin(const HotTable& table, Slot slot, Page page, Step step, bool keep) {
  constexpr int kMaxTries = 64;
  if (!is_slot(table, slot)) return;
  Word word = load(&table.words[slot]);
  for (int i = 0; i < kMaxTries; ++i) {
    if (page_of(word) != page || !is_pinned(word)) return;
    const Step later = step_before(step_of(word), step) ? step : step_of(word);
    const Word was = exchange_if(&table.words[slot], word,
                                 keep ? make_word(page, later, false, true) : kFreeWord);
    if (was == word) break;
    word = was;
  }
  atomicMin(&table.header->pin_from, static_cast<std::uint32_t>(slot));
}

// Blocks with a page that found no slot give back the others.
__global__ void all_or_none(const __grid_constant__ HotTable table, const Block* blocks,
                            std::uint32_t count, Slot* slots) {
  const std::uint32_t per_block = table.sizes.pages_per_block;
  for (std::uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
    Slot* const mine = slots + std::uint64_t{i} * per_block;
    __shared__ bool lacking;
    if (threadIdx.x == 0) lacking = false;
    __syncthreads();
    for (std::uint32_t j = threadIdx.x; j < per_block; j += blockDim.x) {
      if (mine[j] == kNoSlot) lacking = true;
    }
    __syncthreads();
    for (std::uint32_t j = threadIdx.x; lacking && j < per_block; j += blockDim.x) {
      if (mine[j] != kNoSlot) unpin(table, mine[j], page_number(table, blocks[i], j), 0, false);
      mine[j] = kNoSlot;
    }
    __syncthreads();
  }
}

// `step_actor`: pins become pages in use in this actor's step; null: they are given up.
__global__ void unpin_all(const __grid_constant__ HotTable table, const ActorLine* step_actor,
                          const Block* blocks, std::uint32_t count, const Slot* slots) {
  const std::uint32_t per_block = table.sizes.pages_per_block;
  // Whoever meets the ready word sees the slot's bytes, written by launches before this one.
  __threadfence();
  const Step step = step_actor != nullptr ? load(&step_actor->step) & kStepMask : 0;
  for (std::uint64_t n = std::uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
       n < std::uint64_t{count} * per_block; n += std::uint64_t{gridDim.x} * blockDim.x) {
    const Page page =
        page_number(table, blocks[n / per_block], static_cast<std::uint32_t>(n % per_block));
    unpin(table, slots[n], page, step, step_actor != nullptr);
  }
}

template <class Chunk>
__device__ void copy_bytes(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  for (std::uint64_t at = std::uint64_t{threadIdx.x} * sizeof(Chunk); at + sizeof(Chunk) <= bytes;
       at += std::uint64_t{blockDim.x} * sizeof(Chunk)) {
    *reinterpret_cast<Chunk*>(to + at) = *reinterpret_cast<const Chunk*>(from + at);
  }
}

// A block of threads per page.
__global__ void __launch_bounds__(kCopyThreads)
    copy(const __grid_constant__ HotTable table, const __grid_constant__ PageStore store,
         std::byte* writable_frames, const Slot* slots, const Frame* frames, std::uint32_t count) {
  const std::uint32_t per_block = table.sizes.pages_per_block;
  const std::uint32_t frames_ready = load(store.frames_ready);
  for (std::uint64_t n = blockIdx.x; n < std::uint64_t{count} * per_block; n += gridDim.x) {
    const Slot slot = slots[n];
    const Frame frame = frames[n / per_block];
    const auto page = static_cast<std::uint32_t>(n % per_block);
    if (static_cast<std::uint32_t>(slot) >= store.slots || frame >= frames_ready) continue;
    std::byte* to = slot_bytes(store, slot);
    const std::byte* from = frame_bytes(store, frame, page);
    if (writable_frames != nullptr) {
      from = to;
      to = writable_frames + frame * store.frame_stride + page * store.page_bytes;
    }
    if (store.page_bytes % sizeof(uint4) == 0) {
      copy_bytes<uint4>(to, from, store.page_bytes);
    } else {
      copy_bytes<std::uint8_t>(to, from, store.page_bytes);
    }
  }
}

__global__ void make_empty(const __grid_constant__ HotTable table) {
  store(&table.header->limit, table.sizes.slots);
}

__global__ void __launch_bounds__(kThreads)
    drop(const __grid_constant__ HotTable table, const BlockSet blocks, Drop what) {
  constexpr int kMaxTries = 64;
  const Step step = load(&table.header->clock) & kStepMask;
  const bool marks = load(&table.header->forecasts) != 0;
  for (std::uint32_t slot = blockIdx.x * blockDim.x + threadIdx.x; slot < table.sizes.slots;
       slot += gridDim.x * blockDim.x) {
    Word word = load(&table.words[slot]);
    for (int i = 0; i < kMaxTries; ++i) {
      const Page page = page_of(word);
      if (page >= table.pages || (what != Drop::pages && !is_pinned(word)) ||
          !blocks.contains(block_of(table, page))) {
        break;
      }
      const Step later = step_before(step_of(word), step) ? step : step_of(word);
      const Word was =
          exchange_if(&table.words[slot], word,
                      what == Drop::seal_pins ? make_word(page, later, false, true) : kFreeWord);
      if (was == word) {
        if (marks && what != Drop::seal_pins) waste_mark(table, slot);
        break;
      }
      word = was;
    }
  }
  if (what != Drop::pages && blockIdx.x == 0 && threadIdx.x == 0) store(&table.header->pin_from, 0);
}

}  // namespace

Status claim_pins(const HotTable& table, std::uint32_t mapped_slots, std::uint32_t actor,
                  const Block* blocks, std::uint32_t count, Slot* slots, Stream stream) {
  const std::uint64_t pages = std::uint64_t{count} * table.sizes.pages_per_block;
  if (const Status failed = launch_kernel(claim, blocks_for(pages * kWarp), kThreads, stream, table,
                                          mapped_slots, actor, blocks, count, slots)) {
    return failed;
  }
  const unsigned groups = count == 0 ? 1 : min(count, 1024u);
  return launch_kernel(all_or_none, groups, kThreads, stream, table, blocks, count, slots);
}

Status seal_pins(const HotTable& table, std::uint32_t actor, const Block* blocks,
                 std::uint32_t count, const Slot* slots, Stream stream) {
  const std::uint64_t pages = std::uint64_t{count} * table.sizes.pages_per_block;
  return launch_kernel(unpin_all, blocks_for(pages), kThreads, stream, table,
                       actor_line(table, actor), blocks, count, slots);
}

Status drop_pins(const HotTable& table, const Block* blocks, std::uint32_t count, const Slot* slots,
                 Stream stream) {
  const std::uint64_t pages = std::uint64_t{count} * table.sizes.pages_per_block;
  return launch_kernel(unpin_all, blocks_for(pages), kThreads, stream, table, nullptr, blocks,
                       count, slots);
}

Status copy_to_frames(const HotTable& table, const PageStore& store, std::byte* writable_frames,
                      const Slot* slots, const Frame* frames, std::uint32_t count, Stream stream) {
  return launch_kernel(copy, kMaxCopyBlocks, kCopyThreads, stream, table, store, writable_frames,
                       slots, frames, count);
}

Status copy_to_slots(const HotTable& table, const PageStore& store, const Slot* slots,
                     const Frame* frames, std::uint32_t count, Stream stream) {
  return launch_kernel(copy, kMaxCopyBlocks, kCopyThreads, stream, table, store, nullptr, slots,
                       frames, count);
}

Status format(const HotTable& table, Stream stream) {
  return launch_kernel(make_empty, 1, 1, stream, table);
}

Status drop_blocks(const HotTable& table, const BlockSet& blocks, Drop what, Stream stream) {
  return launch_kernel(drop, blocks_for(table.sizes.slots), kThreads, stream, table, blocks, what);
}

Status load_blocks() {
  if (const Status failed = load_kernel(claim)) return failed;
  if (const Status failed = load_kernel(all_or_none)) return failed;
  if (const Status failed = load_kernel(unpin_all)) return failed;
  if (const Status failed = load_kernel(copy)) return failed;
  if (const Status failed = load_kernel(make_empty)) return failed;
  return load_kernel(drop);
}

}  // namespace sluice::kernels::cuda
