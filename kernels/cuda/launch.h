// The hot table on a GPU: what a process enqueues in its own stream.
//
// Everything here is asynchronous and waits for nothing on the CPU; every launch may be captured
// into a CUDA graph and replayed, with lists, counts and the table changing between replays, since
// what changes is read on the device. Tables are views by view_split_table; both parts, the arena
// and the frames are addresses that the current device can use (frames: registered host memory,
// readable below store.frames_ready, which is in device memory).
//
// An actor belongs to one stream at a time: its launches run one after another.
//
// Errors are cudaError_t as int, 0 for success; describe() puts them into words.
//
// Thread-safety: any thread, with the device of the table current.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/page_store.h"
#include "kernels/resolve.h"
#include "kernels/table.h"

namespace sluice::kernels::cuda {

using Stream = void*;  // cudaStream_t; null is the legacy default stream
using Status = int;    // cudaError_t

const char* describe(Status status);

// Loads all kernels into the current context, so that none is loaded by its first launch: the
// driver may not do that while a stream is captured.
Status load();

// ---- steps

// The actor, idle, enters a step: publishes, applies the frame log, mirrors. Everything that the
// daemon had logged before the kernel runs holds for later launches of the actor.
Status enter_step(const HotTable& table, std::uint32_t actor, Stream stream);

// The actor leaves its step; the counters of its line are mirrored for the daemon.
Status leave_step(const HotTable& table, std::uint32_t actor, Stream stream);

// Another process than the one that entered the step goes on with it, after that one's end: fills
// that it began and did not end are in words of this step, and owed by nobody. From now on, until
// the actor enters the next one, nobody of the step leaves a fill to somebody else of it.
Status share_step(const HotTable& table, std::uint32_t actor, Stream stream);

// ---- resolve

// What an item of a list means.
enum class ItemKind : std::uint8_t {
  page,   // a page number of the table
  block,  // a block of the list's sequence; its page is first_page + (list % lists_per_sequence)
  row,    // a token of the list's sequence: page first_page + token % rows_per_block of its block
};

// The attached ids of a sequence's blocks, in device memory, kept by who owns the sequence.
struct SequenceRow {
  const std::uint32_t* ids = nullptr;
  std::uint32_t blocks = 0;
  std::uint32_t reserved = 0;
};

// Lists of one launch, all in device memory. Duplicates are allowed, within a list and between
// lists. A negative item is padding: it gets kNoSlot and counts as nothing.
struct ResolveBatch {
  const std::int32_t* items = nullptr;    // list l begins at l * item_stride
  std::int32_t* slots = nullptr;          // [as items] results
  Outcome* outcomes = nullptr;            // [as items] results, or null
  const std::uint32_t* counts = nullptr;  // [lists] items of each; null: item_stride. More is cut
  const std::uint32_t* list_count = nullptr;  // how many of the lists are real; null: all
  const std::uint32_t* sequences = nullptr;   // [lists / lists_per_sequence] numbers of rows
  const SequenceRow* rows = nullptr;          // [row_limit]; of kinds block and row
  std::uint32_t row_limit = 0;
  std::uint32_t lists = 0;
  std::uint32_t lists_per_sequence = 1;
  std::uint32_t item_stride = 0;
  std::uint32_t first_page = 0;  // page in block
  std::uint32_t rows_per_block = 1;
  ItemKind kind = ItemKind::page;
  std::uint32_t* without_slot = nullptr;  // result: items that got none; or null
};

// lists * item_stride of a launch, at most.
inline constexpr std::uint64_t kMaxBatchItems = std::uint64_t{1} << 30;

// Rows that are drawn from so many bytes of frames, and more, are copied in order of their
// addresses, as far as they are looked up together: their pages outnumber those whose physical
// addresses the GPU keeps (docs/measured.md).
inline constexpr std::uint64_t kFarBytes = std::uint64_t{2} << 30;

// How a launch is spread over the GPU.
struct Arrangement {
  std::uint32_t copying_ctas = 0;       // at most so many copy; 0: as many as look up
  bool advance = false;                 // leave the step and enter the next one, in the same launch
  bool only_if_far = false;             // copying_ctas is 0 unless rows lie far apart
  std::uint64_t far_bytes = kFarBytes;  // as they do in frames of so many bytes, if they are small
};

// What is fastest on an idle GPU, for so many items; there are never more bytes of frames.
Arrangement fastest_arrangement(const PageStore& store, std::uint64_t most_frame_bytes,
                                std::uint64_t items);

// Memory that resolves of such lists need of their own, with `copying_ctas` of the arrangement or
// more, or 0: device memory, zeroed once, that no other process can reach, for one launch at a
// time.
std::size_t resolve_scratch_bytes(std::uint32_t lists, std::uint32_t item_stride,
                                  std::uint32_t copying_ctas);

Status resolve(const HotTable& table, const PageStore& store, std::uint32_t actor,
               const ResolveBatch& batch, const Arrangement& arrangement, void* scratch,
               Stream stream);

// What the launches of a resolve that waits tell each other; device memory, zeroed once, one per
// `scratch`.
struct alignas(16) WaitState {
  std::uint32_t without_slot;
  std::uint32_t absent;
  std::uint32_t again;  // whether there is something to look up once more
  std::uint32_t reserved;
};

// The same, and waits in the stream for the blocks of absent items: at most `wait_us` on the
// device, and a look, by one block of threads that looks for their frames now and then. Then all is
// looked up once more; the outcomes are of that, but for what the first look brought in, which
// stays so. Nothing of it happens if nothing is absent; pages that somebody else brings in
// meanwhile, without a frame in sight, are not looked for. `batch.outcomes` is not null.
Status resolve_waiting(const HotTable& table, const PageStore& store, std::uint32_t actor,
                       const ResolveBatch& batch, const Arrangement& arrangement, void* scratch,
                       std::uint64_t wait_us, WaitState* state, Stream stream);

// ---- forecast

// What a forecast may do.
struct ForecastGoal {
  std::uint64_t budget_bytes = 0;  // of one launch; whole pages
  Step min_age = 1;                // of the table's clock: younger pages make no room
  std::uint32_t copying_ctas = 0;  // 0: kForecastCtas
};

// Few, so that an engine's kernels keep the GPU and its resolves the link.
inline constexpr std::uint32_t kForecastCtas = 4;

// Memory that forecasts need of their own, in device memory; one per actor that forecasts.
inline constexpr std::size_t kForecastScratchBytes = 16;

// Brings pages of the lists in before they are asked for; see kernels/forecast.h. Pages that are
// there, or that somebody is bringing in, are left as they are; the blocks of absent ones are
// marked wanted. `batch.slots` and `batch.outcomes` may be null; outcomes are hit (left as it is),
// filled, no_slot (no spare slot, or no budget left), absent, lost and invalid, and slots are where
// pages were seen, which nobody keeps there. The actor, one of its own, is in a step. Needs no
// order with launches of other actors.
Status forecast(const HotTable& table, const PageStore& store, std::uint32_t actor,
                const ResolveBatch& batch, const ForecastGoal& goal, void* scratch, Stream stream);

// ---- pins and whole blocks. Lists are in device memory; the actor is in a step.

// Pins slots for all pages of each block: slots[i * pages_per_block + page]; kNoSlot in all of a
// block's if one was not found (then nothing of it is pinned).
Status claim_pins(const HotTable& table, std::uint32_t mapped_slots, std::uint32_t actor,
                  const Block* blocks, std::uint32_t count, Slot* slots, Stream stream);

// Turns the pins of the blocks into ordinary pages in use in the actor's step.
Status seal_pins(const HotTable& table, std::uint32_t actor, const Block* blocks,
                 std::uint32_t count, const Slot* slots, Stream stream);

// Gives the pins of the blocks up.
Status drop_pins(const HotTable& table, const Block* blocks, std::uint32_t count, const Slot* slots,
                 Stream stream);

// Copies whole blocks between pinned slots and frames; frames[i] is the frame of slots [i *
// pages_per_block, ...). A write to frames is visible to the CPU when the stream has passed it.
Status copy_to_frames(const HotTable& table, const PageStore& store, std::byte* writable_frames,
                      const Slot* slots, const Frame* frames, std::uint32_t count, Stream stream);
Status copy_to_slots(const HotTable& table, const PageStore& store, const Slot* slots,
                     const Frame* frames, std::uint32_t count, Stream stream);

// ---- for the daemon's device worker: nobody is in a step that could use what is dropped

// Makes an empty table in zeroed memory of both parts.
Status format(const HotTable& table, Stream stream);

// The actor's process is gone: it is idle.
Status reset_actor(const HotTable& table, std::uint32_t actor, Stream stream);

enum class Drop : std::uint8_t {
  pages,      // every page of the blocks
  pins,       // the pinned ones
  seal_pins,  // pinned ones become ordinary pages
};
// `bits` is a BlockSet's, in device memory.
Status drop_blocks(const HotTable& table, const BlockSet& blocks, Drop what, Stream stream);

}  // namespace sluice::kernels::cuda
