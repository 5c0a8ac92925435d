// The documents of a stream: sequences over blocks that any stream of either process may have
// sealed, and that get a new content, under new keys, all the time.
//
// Thread-safety: one thread.
#pragma once

#include <optional>
#include <random>
#include <string>

#include "client/sluice.hpp"
#include "tests/gpu/stress/board.h"
#include "tools/replay/slot_memory.h"

namespace sluice::test::stress {

struct Document {
  client::Sequence sequence;
  std::uint64_t seeds[kDocumentBlocks];  // of the payload of its blocks
};

class Documents {
 public:
  // What writes pinned slots may be null: then new blocks are written in their frames only.
  Documents(const ProcessJob& job, Board& board, StreamRow& row, client::Cache& cache,
            std::mt19937_64& random)
      : job_(job), board_(board), row_(row), cache_(cache), random_(random) {}

  // From now on some blocks are written through slots that `actor` pins. It is in no step when
  // replace() is called.
  void write_through(client::Actor& actor, tools::SlotMemory& slots) {
    actor_ = &actor;
    slots_ = &slots;
  }

  // Launches that name it have passed.
  client::Status release(std::uint32_t place);
  // In a step that has resolved pages of it. Lets the others take the memory of its blocks, as far
  // as they can while the step goes on.
  client::Status release_in_step(std::uint32_t place);
  // Opens another document there, and computes what is not known of it.
  client::Status replace(std::uint32_t place);

  const std::optional<Document>& at(std::uint32_t place) const { return held_[place]; }

 private:
  std::uint32_t below(std::uint32_t end);
  client::Status write(client::Sequence& sequence, std::uint32_t block, const std::string& key,
                       std::uint64_t seed);
  // Whether it did: the arena may have no slots.
  client::Result<bool> write_pinned(client::Sequence& sequence, std::uint32_t block,
                                    const std::string& key, std::uint64_t seed);
  std::uint64_t sealed_by_all() const;
  void count_seal(bool deduplicated);

  const ProcessJob& job_;
  Board& board_;
  StreamRow& row_;
  client::Cache& cache_;
  std::mt19937_64& random_;
  client::Actor* actor_ = nullptr;
  tools::SlotMemory* slots_ = nullptr;
  std::optional<Document> held_[kHeld];
};

}  // namespace sluice::test::stress
