// What the kernels that take lists share: resolve and forecast.
//
// A block of threads gathers what it misses in shared memory, its warps claim slots, and all of its
// threads copy.
#pragma once

#include <cstdint>

#include "kernels/cuda/steps.cuh"

namespace sluice::kernels::cuda {

inline constexpr std::uint32_t kMostItems = 1024;  // that one block of threads looks up
inline constexpr unsigned kThreads = 512;
inline constexpr unsigned kWarps = kThreads / kWarp;
static_assert(kMostItems % kThreads == 0);
inline constexpr unsigned kMostPerWindow = 16;    // of kWindow: claims take the oldest eighth
inline constexpr unsigned kVectorsPerThread = 4;  // on their way at a time
inline constexpr unsigned kEarlyPerThread = 2;    // of these before slots are known

// A page to be copied.
struct alignas(16) Fill {
  std::uint64_t from;  // in the frames' range
  std::int32_t slot;
  std::uint32_t pieces;  // that are copied
};

// What the blocks of threads of a launch tell each other, in scratch memory of the process: a block
// waits for what is said here, so nobody else may be able to say it, nor to die in the middle. The
// counts are of all launches so far, and go round.
struct Scratch {
  // As the launch begins; changed when all of its blocks have read them.
  alignas(16) std::uint32_t looked_base;
  std::uint32_t handed_base;
  std::uint32_t turn;  // of the launches with this scratch memory
  std::uint32_t reserved;
  std::uint32_t looked;    // blocks that ended their look-ups
  std::uint32_t handed;    // lookers that handed over what they missed
  std::uint32_t pages[2];  // handed over, by the parity of the turn
  Fill fills[];            // as many as a launch has items
};

// Division by a number that is known before the launch; exact for 32 bits.
struct Divisor {
  std::uint64_t magic = 0;  // 2^64 / divisor, rounded up; 0: the divisor is 1
  explicit Divisor(std::uint32_t divisor = 1)
      : magic(divisor <= 1 ? 0 : ~std::uint64_t{0} / divisor + 1) {}
  __device__ std::uint32_t operator()(std::uint32_t n) const {
    return magic == 0 ? n : static_cast<std::uint32_t>(__umul64hi(magic, n));
  }
};

// Roles of the blocks of threads of a launch, in the order in which the device starts them:
// `lookers` look up, claim and, unless there are copiers, copy; `copiers` copy what the lookers
// missed; one more, if `advance`, reads the log. Only copiers wait, for lookers, which were started
// before them.
struct Launch {
  HotTable table;
  PageStore store;
  ResolveBatch batch;
  Scratch* scratch = nullptr;
  std::uint32_t actor = 0;
  std::uint32_t items = 0;
  std::uint32_t slice = 0;  // items of a looker
  std::uint32_t lookers = 0;
  std::uint32_t copiers = 0;
  std::uint32_t blocks = 0;  // of all roles
  Divisor by_stride;
  Divisor by_lists;
  bool plain = false;  // every item is a page of a real list
  bool advance = false;
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
  launch.plain =
      batch.kind == ItemKind::page && batch.counts == nullptr && batch.list_count == nullptr;
  return cudaSuccess;
}

// What a looker misses.
struct Missing {
  Page page[kMostItems];
  std::uint32_t item[kMostItems];
  std::uint32_t hint[kMostItems];  // as it is stored
  Slot slot[kMostItems];           // before the claim: of a fill that somebody else began
  Frame frame[kMostItems];         // kNoFrame: it cannot be read here
  Outcome outcome[kMostItems];     // by the claim; filled: we owe the copy
};

struct Shared {
  std::uint32_t missing;
  std::uint32_t fills;
  std::uint32_t looked_base;
  std::uint32_t handed_base;
  std::uint32_t turn;
  std::uint32_t launches;
  Step clock;
  Step step;
  Step previous;
  bool shared_step;
  std::uint32_t slots;  // that may be claimed
  std::uint32_t fresh;  // the first of them that nobody has claimed yet
  std::uint32_t windows;
  std::uint32_t first_window;
  std::uint32_t hits;
  std::uint32_t no_slot;
  std::uint32_t absent;
  std::uint32_t forecasts;  // as header->forecasts was: 0 if no slot has a mark
  std::uint32_t used;       // marks that hits took away
  Wants wants[kWarps];
  Missing miss;
};

struct Item {
  Page page = kNoPage;
  bool real = false;
};

__device__ inline Item item_at(const Launch& launch, std::uint32_t index) {
  const ResolveBatch& batch = launch.batch;
  // The item is loaded before the counts that bound it: it is there, whatever they say.
  const std::int32_t item = batch.items[index];
  Item found;
  if (launch.plain) {
    found.real = true;
    found.page = static_cast<std::uint32_t>(item);  // a negative one is none
    return found;
  }
  const std::uint32_t list = launch.by_stride(index);
  if (batch.list_count != nullptr && list >= *batch.list_count) return found;
  if (batch.counts != nullptr && index - list * batch.item_stride >= batch.counts[list]) {
    return found;
  }
  found.real = true;
  if (item < 0) return found;
  const auto number = static_cast<std::uint32_t>(item);
  if (batch.kind == ItemKind::page) {
    found.page = number;
    return found;
  }
  const std::uint32_t sequence = launch.by_lists(list);
  const std::uint32_t row = batch.sequences[sequence];
  if (row >= batch.row_limit) return found;
  const std::uint32_t in_block = batch.kind == ItemKind::row
                                     ? number % batch.rows_per_block
                                     : list - sequence * batch.lists_per_sequence;
  const std::uint32_t place = batch.kind == ItemKind::row ? number / batch.rows_per_block : number;
  const SequenceRow& ids = batch.rows[row];
  const std::uint32_t page = batch.first_page + in_block;
  if (place >= ids.blocks || page >= launch.table.sizes.pages_per_block) return found;
  const Block block = ids.ids[place];
  if (block < launch.table.sizes.blocks) found.page = page_number(launch.table, block, page);
  return found;
}

// When the warps of the block are through with their claims.
__device__ inline std::uint32_t displaced_by_block(const Shared& shared) {
  std::uint32_t sum = 0;
  for (unsigned warp = 0; warp < kWarps; ++warp) sum += shared.wants[warp].displaced;
  return sum;
}

__device__ inline void finish(const Launch& launch, std::uint32_t index, Slot slot,
                              Outcome outcome) {
  launch.batch.slots[index] = slot;
  if (launch.batch.outcomes != nullptr) launch.batch.outcomes[index] = outcome;
}

__device__ inline void mark_wanted_by(const HotTable& table, Block block, Step step) {
  store_system(&table.wanted[block], (step << 1) | 1);
  asm volatile(
      "st.relaxed.sys.global.u8 [%0], %1;" ::"l"(&table.wanted_groups[block / kWantedGroup]), "r"(1)
      : "memory");
  store_system(&table.host_header->wanted_bell, step);
}

// While there are slots that were never claimed, they go first: windows fill unevenly, and a full
// one would give pages up while others have room. Returns who still wants, as claim_from_window.
__device__ inline unsigned claim_fresh(const HotTable& table, Shared& shared, Page page,
                                       unsigned wanting, unsigned warp) {
  std::uint32_t first = 0;
  if (lane_id() == 0 && wanting != 0) first = atomicAdd(&table.header->fresh, __popc(wanting));
  first = __shfl_sync(kWholeWarp, first, 0);
  bool served = false;
  const std::uint32_t slot = first + __popc(wanting & lanes_below());
  if ((wanting >> lane_id() & 1) != 0 && slot >= first && slot < shared.slots) {
    const Word seen = load(&table.words[slot]);
    if (is_free(seen) &&
        exchange_if(&table.words[slot], seen, make_word(page, shared.step, false, false)) == seen) {
      shared.wants[warp].slot[lane_id()] = static_cast<Slot>(slot);
      served = true;
    }
  }
  __syncwarp();
  return wanting & ~__ballot_sync(kWholeWarp, served);
}

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
__device__ inline std::uint32_t read_once(const std::uint32_t* at) { return *at; }
__device__ inline std::uint8_t read_once(const std::uint8_t* at) { return *at; }

// The missing pages of the block as one run of vectors, a few per thread on their way at a time.
template <class Vector>
struct Run {
  const Launch& launch;
  Shared& shared;
  std::uint32_t per_page;
  std::uint32_t total;  // below 2^32: 1,024 pages of at most 1 MiB are 2^30 bytes
  Vector early[kEarlyPerThread];

  __device__ Run(const Launch& in, Shared& among)
      : launch(in),
        shared(among),
        per_page(static_cast<std::uint32_t>(in.store.page_bytes / sizeof(Vector))),
        total(among.missing * per_page) {}

  // Where vector `index` comes from; null: it is not to be copied.
  __device__ const Vector* from(std::uint32_t index) const {
    if (index >= total) return nullptr;
    const std::uint32_t place = index / per_page;
    const Frame frame = shared.miss.frame[place];
    if (frame == kNoFrame) return nullptr;
    const std::byte* page =
        frame_bytes(launch.store, frame, page_in_block(launch.table, shared.miss.page[place]));
    return reinterpret_cast<const Vector*>(page) + (index - place * per_page);
  }

  __device__ Vector* to(std::uint32_t index) const {
    if (index >= total) return nullptr;
    const std::uint32_t place = index / per_page;
    if (shared.miss.outcome[place] != Outcome::filled) return nullptr;
    return reinterpret_cast<Vector*>(slot_bytes(launch.store, shared.miss.slot[place])) +
           (index - place * per_page);
  }

  // Starts the first reads: the link takes longer than the claims.
  __device__ void begin() {
#pragma unroll
    for (unsigned j = 0; j < kEarlyPerThread; ++j) {
      const Vector* const at = from(threadIdx.x + j * kThreads);
      if (at != nullptr) early[j] = read_once(at);
    }
  }

  // The slots are known: copies everything; begin() came before.
  __device__ void end() const {
#pragma unroll
    for (unsigned j = 0; j < kEarlyPerThread; ++j) {
      Vector* const at = to(threadIdx.x + j * kThreads);
      if (at != nullptr) *at = early[j];
    }
    constexpr std::uint32_t done = kThreads * kEarlyPerThread;
    for (std::uint32_t base = done + threadIdx.x; base < total;
         base += kThreads * kVectorsPerThread) {
      Vector data[kVectorsPerThread];
#pragma unroll
      for (unsigned j = 0; j < kVectorsPerThread; ++j) {
        const Vector* const at = from(base + j * kThreads);
        if (at != nullptr) data[j] = read_once(at);
      }
#pragma unroll
      for (unsigned j = 0; j < kVectorsPerThread; ++j) {
        Vector* const at = to(base + j * kThreads);
        if (at != nullptr) *at = data[j];
      }
    }
  }
};

template <class F>
__device__ inline void with_vector(std::uint64_t page_bytes, F f) {
  if (page_bytes % sizeof(uint4) == 0) {
    f(uint4{});
  } else if (page_bytes % sizeof(std::uint32_t) == 0) {
    f(std::uint32_t{});
  } else {
    f(std::uint8_t{});
  }
}

}  // namespace sluice::kernels::cuda
