// An engine of a crash test: a process that does everything an engine does, until it is killed or
// its daemon is. What it seals it tells the board; what it is served it compares; what is its own
// it goes on writing, also while there is no daemon.
#pragma once

#include <cstdint>

#include "tests/crash/board.h"
#include "tests/crash/session.h"

namespace sluice::crash {

// Whether blocks may have to come from a store, and how long they are waited for.
struct EngineOptions {
  std::uint64_t wait_us = 0;
  std::uint32_t large_blocks = 0;  // that one engine at a time takes without need; 0: none does
  bool may_lose = false;           // what the store does not give back is counted, and no failure
};

// Never returns an error: what must not be is on the board. For a child process, which ends then.
void run_engine(Board& board, const Engine& engine, const EngineOptions& options,
                std::uint64_t seed);

// Looks for what was acknowledged. `share`: of 16 chains, how many; 16 is all of them. True: it was
// done; false: the daemon went, or a failure is on the board.
bool check_acknowledged(Board& board, const std::string& socket_folder,
                        const EngineOptions& options, std::uint32_t share, std::uint64_t seed);

}  // namespace sluice::crash
