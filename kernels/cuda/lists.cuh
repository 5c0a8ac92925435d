// What the kernels that take lists share: launches, and their items.
//
// Warps claim slots for what is missing; the fills that they owe are gathered in shared memory, and
// all threads of the block copy.
#pragma once

#include <cstdint>

#include "kernels/cuda/steps.cuh"

namespace sluice::kernels::cuda {

inline constexpr std::uint32_t kMostItems = 1024;  // that one block of threads looks up
inline constexpr unsigned kThreads = 512;
inline constexpr unsigned kWarps = kThreads / kWarp;
static_assert(kMostItems % kThreads == 0);
inline constexpr unsigned kMostPerWindow = 16;  // of kWindow: claims take the oldest eighth

// A page to be copied.
struct alignas(16) Fill {
  std::uint64_t from;  // in the frames' range
  std::int32_t slot;
  std::uint32_t seen;  // by copiers: 0, or kHandedOver and the pieces that are copied
};

inline constexpr std::uint32_t kHandedOver = 1;

struct alignas(16) Books {
  std::uint32_t looked;    // blocks that ended their look-ups, but for clerks
  std::uint32_t handed;    // lookers that handed over what they missed
  std::uint32_t pages[2];  // handed over, by the parity of the turn
};

// What the blocks of threads of a launch tell each other, in scratch memory of the process: a block
// waits for what is said here, so nobody else may be able to say it, nor to die in the middle. The
// counts are of all launches so far, and go round.
struct Scratch {
  // As the launch begins; changed when all of its blocks have read them.
  alignas(16) std::uint32_t looked_base;
  std::uint32_t handed_base;
  std::uint32_t turn;  // of the launches with this scratch memory
  std::uint32_t far;   // 1: rows lie far apart, as the launch before saw it
  Books books;
  Fill fills[];  // as many as a launch has items; not seen between launches
};

// Division by a number that is known before the launch; exact below 2^31 (Hacker's Delight, 10).
struct Divisor {
  std::uint32_t magic = 0;  // 2^(31 + shift) / divisor, rounded up; 0: the divisor is 1
  std::uint32_t shift = 0;  // 2^shift is not below the divisor
  explicit Divisor(std::uint32_t divisor = 1) {
    if (divisor <= 1) return;
    while ((std::uint64_t{1} << shift) < divisor) ++shift;
    magic =
        static_cast<std::uint32_t>(((std::uint64_t{1} << (31 + shift)) + divisor - 1) / divisor);
  }
  __device__ std::uint32_t operator()(std::uint32_t n) const {
    return magic == 0 ? n : __umulhi(2 * n, magic) >> shift;
  }
};

// Roles of the blocks of threads of a launch, in the order in which the device starts them:
// `lookers` look up, claim and, unless there are copiers, copy; `copiers` copy what the lookers
// missed; the clerk keeps the books. Copiers and the clerk wait for blocks that were started before
// them; lookers, too, but only so long.
struct Launch {
  HotTable table;
  PageStore store;
  ResolveBatch batch;
  Scratch* scratch = nullptr;
  std::uint32_t actor = 0;
  std::uint32_t items = 0;
  std::uint32_t slice = 0;  // items of a looker
  std::uint32_t warps = 0;  // of a looker, that have items
  std::uint32_t lookers = 0;
  std::uint32_t copiers = 0;
  std::uint32_t blocks = 0;  // of all roles
  Divisor by_stride;
  Divisor by_lists;
  Divisor by_rows;     // of a block
  Divisor by_page;     // of a page's vectors
  Divisor by_parts;    // of a page: pieces that a block of threads reads at once
  bool plain = false;  // every item is a page of a real list
  bool advance = false;
  bool only_if_far = false;  // there are copiers for that alone: else lookers copy
  std::uint64_t far_bytes = 0;
  const std::uint32_t* only_if = nullptr;  // nothing is done if it leads to 0
  std::uint32_t* absent = nullptr;         // items that are absent or lost are added to it
};

// All but the roles; items is 0 if there is nothing to do.
inline Status bind_lists(Launch& launch, const HotTable& table, const PageStore& store,
                         std::uint32_t actor, const ResolveBatch& batch) {
  const std::uint64_t items = std::uint64_t{batch.lists} * batch.item_stride;
  if (items > kMaxBatchItems) return cudaErrorInvalidValue;
  if (items == 0) return cudaSuccess;
  if (batch.lists_per_sequence == 0 || batch.rows_per_block == 0) return cudaErrorInvalidValue;
  launch.table = table;
  launch.store = store;
  launch.store.slots = store.slots < table.sizes.slots ? store.slots : table.sizes.slots;
  launch.batch = batch;
  launch.actor = actor;
  launch.items = static_cast<std::uint32_t>(items);
  launch.by_stride = Divisor(batch.item_stride);
  launch.by_lists = Divisor(batch.lists_per_sequence);
  launch.by_rows = Divisor(batch.rows_per_block);
  const auto vectors = static_cast<std::uint32_t>(store.page_bytes / sizeof(uint4));
  launch.by_page = Divisor(vectors);
  launch.by_parts = Divisor((vectors + kThreads - 1) / kThreads);
  launch.plain =
      batch.kind == ItemKind::page && batch.counts == nullptr && batch.list_count == nullptr;
  return cudaSuccess;
}

// What a warp misses, or a block of threads.
template <unsigned kMost>
struct Missing {
  Page page[kMost];
  std::uint32_t item[kMost];
  std::uint32_t hint[kMost];  // as it is stored
  Slot slot[kMost];           // before the claim: of a fill that somebody else began
  Frame frame[kMost];         // kNoFrame: it cannot be read here
};

// Fills that a block of threads owes.
struct Fills {
  std::uint32_t count;
  Fill at[kMostItems];
};

struct Item {
  Page page = kNoPage;
  bool real = false;
  bool padding = false;
};

// Items of a thread, in stages whose loads are under way together; `beside` begins others. All of
// it is there, whatever the counts say, so that loads do not wait for what bounds them.
template <unsigned kCount, class Beside>
__device__ inline void load_items(const Launch& launch, const std::uint32_t (&index)[kCount],
                                  std::uint32_t end, Item (&items)[kCount], Beside beside) {
  const ResolveBatch& batch = launch.batch;
  std::int32_t number[kCount];
  std::uint32_t list[kCount];
  std::uint32_t row[kCount];
  SequenceRow ids[kCount];
#pragma unroll
  for (unsigned j = 0; j < kCount; ++j) {
    number[j] = index[j] < end ? batch.items[index[j]] : -1;
  }
  if (launch.plain) {
    beside();
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) {
      // A negative one is no page.
      items[j] = {static_cast<std::uint32_t>(number[j]), index[j] < end, number[j] < 0};
    }
    return;
  }
  const bool pages = batch.kind == ItemKind::page;
#pragma unroll
  for (unsigned j = 0; j < kCount; ++j) {
    list[j] = index[j] < end ? launch.by_stride(index[j]) : 0;
    row[j] = pages ? 0 : batch.sequences[launch.by_lists(list[j])];
  }
  beside();
#pragma unroll
  for (unsigned j = 0; j < kCount; ++j) {
    const std::uint32_t count = batch.counts == nullptr ? batch.item_stride : batch.counts[list[j]];
    items[j].padding = number[j] < 0;
    items[j].real = index[j] < end && index[j] - list[j] * batch.item_stride < count;
    ids[j] = !pages && row[j] < batch.row_limit ? batch.rows[row[j]] : SequenceRow{};
  }
  if (batch.list_count != nullptr) {
    const std::uint32_t lists = *batch.list_count;
#pragma unroll
    for (unsigned j = 0; j < kCount; ++j) items[j].real = items[j].real && list[j] < lists;
  }
  std::uint32_t page[kCount];
#pragma unroll
  for (unsigned j = 0; j < kCount; ++j) {
    const auto item = static_cast<std::uint32_t>(number[j]);
    if (!items[j].real || number[j] < 0) continue;
    if (pages) {
      items[j].page = item;
      continue;
    }
    const bool rows = batch.kind == ItemKind::row;
    const std::uint32_t place = rows ? launch.by_rows(item) : item;
    page[j] =
        batch.first_page + (rows ? item - place * batch.rows_per_block
                                 : list[j] - launch.by_lists(list[j]) * batch.lists_per_sequence);
    if (place >= ids[j].blocks || page[j] >= launch.table.sizes.pages_per_block) continue;
    items[j].page = ids[j].ids[place];  // a block, for now
  }
  if (pages) return;
#pragma unroll
  for (unsigned j = 0; j < kCount; ++j) {
    const Block block = items[j].page;
    items[j].page = kNoPage;
    if (block < launch.table.sizes.blocks) {
      items[j].page = page_number(launch.table, block, page[j]);
    }
  }
}

__device__ inline void finish(const Launch& launch, std::uint32_t index, Slot slot,
                              Outcome outcome) {
  launch.batch.slots[index] = slot;
  if (launch.batch.outcomes != nullptr) launch.batch.outcomes[index] = outcome;
}

// As mark_wanted and ring_wanted_bell. The bell cannot be counted up over PCIe, so it tells the
// time: another value also for a launch of the same step that asks again.
__device__ inline void mark_wanted_by(const HotTable& table, Block block, std::uint32_t mark) {
  if (mark != kWantedSoon || load_system(&table.wanted[block]) == kNotWanted) {
    store_system(&table.wanted[block], mark);
  }
  asm volatile(
      "st.relaxed.sys.global.u8 [%0], %1;" ::"l"(&table.wanted_groups[block / kWantedGroup]), "r"(1)
      : "memory");
  store_system(&table.host_header->wanted_bell, time_now());
}

// As without_frame.
__device__ inline Outcome without_frame_by(const HotTable& table, Block block, Frame frame,
                                           std::uint32_t mark) {
  if (frame == kLostFrame) return Outcome::lost;
  mark_wanted_by(table, block, mark);
  return Outcome::absent;
}

// While there are slots that were never claimed, they go first: windows fill unevenly, and a full
// one would give pages up while others have room. Returns who still wants, as claim_from_window.
__device__ inline unsigned claim_fresh(const HotTable& table, std::uint32_t slots, Page page,
                                       Step step, unsigned wanting, Wants& wants) {
  std::uint32_t first = 0;
  if (lane_id() == 0 && wanting != 0) first = atomicAdd(&table.header->fresh, __popc(wanting));
  first = __shfl_sync(kWholeWarp, first, 0);
  bool served = false;
  const std::uint32_t slot = first + __popc(wanting & lanes_below());
  if ((wanting >> lane_id() & 1) != 0 && slot >= first && slot < slots) {
    const Word seen = load(&table.words[slot]);
    if (is_free(seen) &&
        exchange_if(&table.words[slot], seen, make_word(page, step, false, false)) == seen) {
      wants.slot[lane_id()] = static_cast<Slot>(slot);
      served = true;
    }
  }
  __syncwarp();
  return wanting & ~__ballot_sync(kWholeWarp, served);
}

}  // namespace sluice::kernels::cuda
