// What the processes of the stress test share: which contents documents have now, and what streams
// have seen.
//
// Thread-safety: generations by anybody; each row has one writer, and any number of readers.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "tests/gpu/engines/cache.h"

namespace sluice::test::stress {

inline constexpr std::uint32_t kProcesses = 2;
inline constexpr std::uint32_t kStreams = 4;  // of a process, each an actor
inline constexpr std::size_t kTextBytes = 512;

// A document is a prompt whose end changes with every generation, and whose beginning with every
// few.
inline constexpr std::uint32_t kDocuments = 12;
inline constexpr std::uint32_t kDocumentBlocks = 8;
inline constexpr std::uint32_t kPrefixBlocks = 3;
inline constexpr std::uint32_t kGenerationsOfPrefix = 4;
inline constexpr std::uint32_t kHeld = 2;  // documents that a stream has open

inline constexpr std::uint32_t kStepsPerRelease = 16;  // of a document in mid-step

// DRAM for what all streams have open, and hardly more: a new block takes the id and the frame of
// an old one.
inline constexpr std::uint32_t kDramBlocks =
    kProcesses * kStreams * kHeld * kDocumentBlocks + 2 * kDocumentBlocks;

// The longest launch of a stream takes half of the slots.
inline constexpr std::uint32_t kListsOfLaunch = kHeld * engines::CacheShape::kPages;
constexpr std::uint32_t list_capacity(std::uint32_t slots) {
  return slots / 2 / kListsOfLaunch > 0 ? slots / 2 / kListsOfLaunch : 1;
}

struct StreamRow {
  std::atomic<std::uint64_t> steps;
  std::atomic<std::uint64_t> compared;  // pages; one that is compared twice counts twice
  std::atomic<std::uint64_t> misses;
  std::atomic<std::uint64_t> no_slot;
  std::atomic<std::uint64_t> absent;
  std::atomic<std::uint64_t> wrong;   // pages with other bytes than their blocks have
  std::atomic<std::uint64_t> absurd;  // answers that no resolve may give
  std::atomic<std::uint64_t> sealed;  // blocks, without those that were known by then
  std::atomic<std::uint64_t> deduplicated;
  std::atomic<std::uint64_t> sealed_pins;       // blocks that were written in slots
  std::atomic<std::uint64_t> released_in_step;  // documents, before their pages were compared
};

struct Board {
  std::atomic<std::uint64_t> generation[kDocuments];
  std::atomic<bool> stop;
  std::atomic<std::uint32_t> max_blocks;  // ids of the cache
  std::atomic<std::uint32_t> slots;
  StreamRow rows[kProcesses][kStreams];
  char text[kProcesses][kTextBytes];  // why a process failed, written before it ends
};

struct ProcessJob {
  std::uint32_t number = 0;
  std::uint64_t seed = 0;
  bool cuda = true;
  engines::CacheShape shape;
  std::string tenant;
  std::string socket;
};

// The life of a process: streams, each a thread, until they are told to stop. The exit status.
int run_process(const ProcessJob& job, Board& board);

}  // namespace sluice::test::stress
