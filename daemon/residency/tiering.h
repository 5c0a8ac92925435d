// Moves of sealed blocks between DRAM and the block store.
//
// A block that the store has not is *written* before it leaves DRAM, and stays readable until that
// is done. One that nobody refers to is then evicted, with its id. One that sequences refer to is
// *displaced*: its frame is withdrawn from resolvers, which takes a grace period (rule 7), and is
// free then; its id stays, with the pages of it that are in HBM, and it is *promoted* again, into
// another frame, as soon as somebody wants one that is not. What was read goes into a frame that
// nobody knows until it is complete, so no resolver sees half of it.
//
// The store may not drop what a displaced block was written to, until DRAM has it again or nobody
// refers to it: it is *held*. One that was stored long before is not known to be there still, so
// every block that is displaced is written, as far as the store has it not, and held at once.
//
// A block that the store could not give back is *lost*: out of the directory, so that nobody finds
// it any more and it can be sealed anew, and absent for those who refer to it.
//
// Which blocks are displaced: in the order of ids, round and round, since the manager is not told
// of resolves.
#pragma once

#include "daemon/residency/state.h"

namespace sluice::residency {

// How many blocks of the cache may move at a time, if `bytes` of them may.
std::uint64_t most_moving(const Cache& cache, std::uint64_t bytes);

// Evicts a block in the order of use, or has it written first if the store has it not. False: as
// many as may be are being written, and nothing was done.
bool give_up(Cache& cache, const std::array<std::uint64_t, 2>& seed, BlockId id, EvictReason reason,
             std::uint64_t now);

// Begins to write blocks in the order of use that the store has not, with ids from `next` to
// `end`, which it moves on. False: as many as may be are being written.
bool write_some(Cache& cache, std::uint32_t& next, std::uint32_t end);
bool may_write(const Cache& cache, std::uint64_t now);  // the store was not refusing lately
bool may_write_more(const Cache& cache);

// Blocks in DRAM that sequences refer to and that could be displaced.
std::uint64_t displaceable(const Cache& cache, std::uint64_t now);
// Begins to displace up to `most` of these; how many it were.
std::uint64_t displace(Cache& cache, std::uint64_t most, std::uint64_t now);

// The block is to be read as soon as it can be, unless it is there, on its way or lost.
void want(Cache& cache, BlockId id, Urgency urgency);
// Begins to read what is wanted, first what is wanted now, and sees to frames for the rest.
void promote(State& state, Cache& cache, Actions& actions);

// HoldStored for what is to be held, or not any more.
void order_holds(Cache& cache, Actions& actions);

// These, WriteBlock for what is to be written, and Withdraw for what is leaving, as far as
// kMaxRetireBatches allows.
void order_moves(Cache& cache, std::uint64_t& next_batch, Actions& actions);

}  // namespace sluice::residency
