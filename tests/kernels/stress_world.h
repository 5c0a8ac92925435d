// The world of the stress tests: actors that resolve, verify, pin and seal, and a daemon that
// retires ids, takes frames away and gives both to new contents. Everything that an actor changes
// lies in shared memory, so that actors may be threads or processes, and may be killed at any
// instruction.
//
// An actor verifies the bytes of every slot that it resolved, several times while it is in the
// step.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <random>
#include <thread>
#include <vector>

#include "kernels/drop.h"
#include "kernels/grace.h"
#include "kernels/pins.h"
#include "tests/kernels/pool.h"

namespace sluice::kernels::test {

inline constexpr std::uint32_t kStressBlocks = 24;
inline constexpr std::uint32_t kStressActors = 6;
inline constexpr std::uint32_t kHeld = 3;
inline constexpr std::uint32_t kNobody = 0xFFFFFFFF;

inline PoolShape stress_shape() {
  return {.slots = 28,
          .blocks = kStressBlocks,
          .pages_per_block = 3,
          .actors = kStressActors,
          .frames = 20,
          .log_capacity = kMinLogCapacity,
          .hint_capacity = kMinHintCapacity,
          .page_bytes = 512};
}

enum class BlockState : std::uint32_t { free, open, sealing, live, retired };

struct Findings {
  std::atomic<std::uint64_t> wrong_pages;
  std::atomic<std::uint64_t> lost_pins;
  std::atomic<std::uint64_t> served_pins;
  std::atomic<std::uint64_t> verified;
  std::atomic<std::uint64_t> sealed;
  std::atomic<std::uint64_t> reused_ids;
  std::atomic<std::uint64_t> taken_frames;

  bool any() const { return wrong_pages != 0 || lost_pins != 0 || served_pins != 0; }
};

// Plain shared memory; zero is the start.
struct StressShared {
  std::atomic<BlockState> state[kStressBlocks];
  std::atomic<std::uint64_t> content[kStressBlocks];
  std::atomic<std::uint32_t> owner[kStressBlocks];        // of an open or sealing block
  std::atomic<Frame> private_frame[kStressBlocks];        // of an open block
  std::atomic<std::uint32_t> held[kStressActors][kHeld];  // block + 1
  std::atomic<bool> stop;
  Findings findings;
};

class StressWorld {
 public:
  StressWorld() : pool(stress_shape()), shared_memory(sizeof(StressShared)) {
    shared = new (shared_memory.data()) StressShared{};
  }
  Pool pool;
  SharedMemory shared_memory;
  StressShared* shared;
};

// One actor, as a thread or as a process.
class StressActor {
 public:
  StressActor(StressWorld& world, std::uint32_t actor, std::uint64_t seed)
      : pool_(world.pool), shared_(*world.shared), actor_(actor), random_(seed) {}

  void run() {
    while (!shared_.stop.load(std::memory_order_relaxed)) {
      turn();
      // More actors than cores: whoever is preempted here is idle, and graces come to an end.
      if (below(4) != 0) std::this_thread::yield();
    }
  }

  void turn() {
    for (std::uint32_t i = 0; i < kHeld; ++i) acquire(i, below(kStressBlocks));
    const Step step = enter_step(pool_.table, actor_);
    used_.clear();
    work_on_own_block(step);
    for (std::uint32_t round = 1 + below(3); round != 0; --round) {
      resolve_some(step);
      // A reference may go in mid-step: what was resolved stays until the step is left.
      if (below(8) == 0) {
        release(below(kHeld));
        seeded_window<SeededBug::no_id_grace>();
      }
      verify();
    }
    leave_step(pool_.table, actor_);
    for (std::uint32_t i = 0; i < kHeld; ++i) release(i);
    finish_own_step();
  }

 private:
  struct Used {
    Slot slot;
    std::uint64_t content;
    std::uint32_t page_in_block;
  };
  struct Held {
    Block block = kNobody;
    std::uint64_t content = 0;
  };
  enum class OwnStage : std::uint8_t { none, first_half, second_half, written, sealing };

  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  // Says "mine", then looks whether the block is live; the daemon retires, then looks whether it is
  // held.
  void acquire(std::uint32_t place, Block block) {
    shared_.held[actor_][place].store(block + 1, std::memory_order_seq_cst);
    if (shared_.state[block].load(std::memory_order_seq_cst) != BlockState::live) {
      release(place);
      return;
    }
    held_[place] = {block, shared_.content[block].load()};
  }

  void release(std::uint32_t place) {
    held_[place].block = kNobody;
    shared_.held[actor_][place].store(0, std::memory_order_seq_cst);
  }

  void resolve_some(Step step) {
    pages_.clear();
    for (std::uint32_t i = 1 + below(8); i != 0; --i) {
      const Held& held = held_[below(kHeld)];
      if (held.block == kNobody) continue;
      pages_.push_back(pool_.page(held.block, below(pool_.shape.pages_per_block)));
    }
    const Resolved got = resolve_pages(pool_, actor_, step, pages_, own_set());
    for (std::size_t i = 0; i < pages_.size(); ++i) {
      if (got.slots[i] == kNoSlot) continue;
      const Block block = block_of(pool_.table, pages_[i]);
      for (const Held& held : held_) {
        if (held.block != block) continue;
        used_.push_back({got.slots[i], held.content, page_in_block(pool_.table, pages_[i])});
        break;
      }
    }
  }

  void verify() {
    for (const Used& used : used_) {
      if (!pool_.slot_holds(used.slot, used.content, used.page_in_block)) {
        ++shared_.findings.wrong_pages;
      }
    }
    shared_.findings.verified += used_.size();
  }

  BlockSet own_set() const {
    return own_ == kNobody ? kNoBlocks : BlockSet{&own_bits_, kStressBlocks};
  }

  // ---- the life of an unsealed block: two steps of writing, the frame, the seal

  void work_on_own_block(Step step) {
    if (own_ == kNobody) find_own_block();
    if (own_ == kNobody) return;
    const std::uint64_t half = pool_.shape.page_bytes / 2;
    if (own_stage_ == OwnStage::first_half && claim_pins(step)) {
      write_own(0, half);
      own_stage_ = OwnStage::second_half;
    } else if (own_stage_ == OwnStage::second_half) {
      if (!raise_pins(step)) return abandon();
      check_own(0, half);
      write_own(half, pool_.shape.page_bytes);
      check_own(0, pool_.shape.page_bytes);
      store_own_in_frame();
      own_stage_ = OwnStage::written;
    } else if (own_stage_ == OwnStage::sealing && shared_.state[own_].load() == BlockState::live) {
      for (std::uint32_t i = 0; i < own_slots_.size(); ++i) {
        if (!seal_pin(pool_.table, own_slots_[i], pool_.page(own_, i), step)) {
          ++shared_.findings.lost_pins;
        }
      }
      check_own(0, pool_.shape.page_bytes);
      ++shared_.findings.sealed;
      abandon();
    }
  }

  void finish_own_step() {
    if (own_ == kNobody || own_stage_ != OwnStage::written) return;
    own_stage_ = OwnStage::sealing;
    shared_.state[own_].store(BlockState::sealing);
  }

  void find_own_block() {
    for (Block block = 0; block < kStressBlocks; ++block) {
      if (shared_.state[block].load() == BlockState::open && shared_.owner[block] == actor_) {
        own_ = block;
        own_bits_ = std::uint64_t{1} << block;
        own_content_ = shared_.content[block];
        own_slots_.clear();
        own_stage_ = OwnStage::first_half;
        return;
      }
    }
  }

  void abandon() {
    shared_.owner[own_].store(kNobody);
    own_ = kNobody;
    own_stage_ = OwnStage::none;
  }

  bool claim_pins(Step step) {
    while (own_slots_.size() < pool_.shape.pages_per_block) {
      const auto i = static_cast<std::uint32_t>(own_slots_.size());
      const Slot slot = claim_pinned(pool_.table, pool_.store.slots, pool_.page(own_, i), step);
      if (slot == kNoSlot) return false;
      own_slots_.push_back(slot);
    }
    return raise_pins(step);
  }

  bool raise_pins(Step step) {
    for (std::uint32_t i = 0; i < own_slots_.size(); ++i) {
      if (raise_pin(pool_.table, own_slots_[i], pool_.page(own_, i), step)) continue;
      ++shared_.findings.lost_pins;
      return false;
    }
    return true;
  }

  void write_own(std::uint64_t from, std::uint64_t to) {
    for (std::uint32_t i = 0; i < own_slots_.size(); ++i) {
      const auto chunks = page_content(own_content_, i, pool_.shape.page_bytes);
      copy_page(slot_bytes(pool_.store, own_slots_[i]) + from,
                reinterpret_cast<const std::byte*>(chunks.data()) + from, to - from);
    }
  }

  void check_own(std::uint64_t from, std::uint64_t to) {
    for (std::uint32_t i = 0; i < own_slots_.size(); ++i) {
      if (!holds_content(slot_bytes(pool_.store, own_slots_[i]), own_content_, i, from, to)) {
        ++shared_.findings.wrong_pages;
      }
    }
  }

  void store_own_in_frame() {
    const Frame frame = shared_.private_frame[own_];
    for (std::uint32_t i = 0; i < own_slots_.size(); ++i) {
      copy_page(pool_.page_of_frame(frame, i), slot_bytes(pool_.store, own_slots_[i]),
                pool_.shape.page_bytes);
    }
  }

  Pool& pool_;
  StressShared& shared_;
  std::uint32_t actor_;
  std::mt19937_64 random_;
  Held held_[kHeld];
  std::vector<Page> pages_;
  std::vector<Used> used_;
  Block own_ = kNobody;
  std::uint64_t own_bits_ = 0;
  std::uint64_t own_content_ = 0;
  std::vector<Slot> own_slots_;
  OwnStage own_stage_ = OwnStage::none;
};

// The daemon: one thread, never waits inside a turn.
class StressDaemon {
 public:
  StressDaemon(StressWorld& world, std::uint64_t seed)
      : pool_(world.pool), shared_(*world.shared), random_(seed) {
    for (Frame frame = 0; frame < pool_.shape.frames; ++frame) free_frames_.push_back(frame);
    for (Block block = 0; block < kStressBlocks; ++block) shared_.owner[block].store(kNobody);
  }

  void turn() {
    publish_seals();
    if (waiting_) {
      if (grace_.poll(pool_.table)) finish_grace();
    } else {
      withdraw();
    }
    for (std::uint32_t i = 0; i < 8; ++i) {
      make_block();
      promote();
    }
  }

  // The actor's process is gone (waitpid said so).
  void bury(std::uint32_t actor) {
    reset_actor(pool_.table, actor);
    for (auto& held : shared_.held[actor]) held.store(0);
    for (Block block = 0; block < kStressBlocks; ++block) {
      if (shared_.owner[block] != actor) continue;
      const std::uint64_t bits = std::uint64_t{1} << block;
      drop_pins(pool_.table, {&bits, kStressBlocks});
      // Unsealed: it never had a name, so it goes. Sealing: its frame is complete.
      if (shared_.state[block] == BlockState::open) {
        shared_.state[block] = BlockState::retired;
        orphans_.push_back(block);
      }
      shared_.owner[block] = kNobody;
    }
  }

 private:
  std::uint32_t below(std::uint32_t n) { return static_cast<std::uint32_t>(random_() % n); }

  bool is_held(Block block) const {
    for (const auto& actor : shared_.held) {
      for (const auto& held : actor) {
        if (held.load(std::memory_order_seq_cst) == block + 1) return true;
      }
    }
    return false;
  }

  Frame frame_now(Block block) const { return frame_in(pool_.current[block]); }

  void publish_seals() {
    for (Block block = 0; block < kStressBlocks; ++block) {
      if (shared_.state[block] != BlockState::sealing) continue;
      append_log(pool_.table, pool_.log, block, shared_.private_frame[block]);
      shared_.private_frame[block] = kNoFrame;
      shared_.state[block] = BlockState::live;
    }
  }

  // Withdraws ids that nobody holds, and frames whoever holds their blocks; then a grace begins.
  void withdraw() {
    retired_bits_ = 0;
    for (Block block : orphans_) retire(block);
    orphans_.clear();
    for (std::uint32_t i = 1 + below(6); i != 0; --i) {
      const Block block = below(kStressBlocks);
      BlockState live = BlockState::live;
      if (shared_.owner[block] != kNobody ||
          !shared_.state[block].compare_exchange_strong(live, BlockState::retired)) {
        continue;
      }
      if (is_held(block)) {
        shared_.state[block] = BlockState::live;
      } else {
        retire(block);
      }
    }
    for (std::uint32_t i = 1 + below(6); i != 0; --i) {
      const Block block = below(kStressBlocks);
      if (shared_.state[block] != BlockState::live || frame_now(block) == kNoFrame) continue;
      leaving_frames_.push_back(frame_now(block));
      append_log(pool_.table, pool_.log, block, kNoFrame);
      ++shared_.findings.taken_frames;
    }
    if (retired_bits_ == 0 && leaving_frames_.empty()) return;
    grace_ = Grace{};
    grace_.start(pool_.table, pool_.log.end);
    waiting_ = true;
  }

  void retire(Block block) {
    retired_bits_ |= std::uint64_t{1} << block;
    if (frame_now(block) != kNoFrame) {
      leaving_frames_.push_back(frame_now(block));
      append_log(pool_.table, pool_.log, block, kNoFrame);
    } else if (shared_.private_frame[block] != kNoFrame) {
      leaving_frames_.push_back(shared_.private_frame[block]);
    }
    shared_.private_frame[block] = kNoFrame;
  }

  void finish_grace() {
    waiting_ = false;
    drop_blocks(pool_.table, {&retired_bits_, kStressBlocks});
    for (Block block = 0; block < kStressBlocks; ++block) {
      if (((retired_bits_ >> block) & 1) == 0) continue;
      shared_.state[block] = BlockState::free;
      ++shared_.findings.reused_ids;
    }
    free_frames_.insert(free_frames_.end(), leaving_frames_.begin(), leaving_frames_.end());
    leaving_frames_.clear();
  }

  Frame take_frame() {
    const Frame frame = free_frames_.front();
    free_frames_.pop_front();
    return frame;
  }

  // A free id gets a new content: sealed and in a frame, or unsealed and given to an actor.
  void make_block() {
    const Block block = below(kStressBlocks);
    if (free_frames_.empty() || shared_.state[block] != BlockState::free) return;
    const Frame frame = take_frame();
    shared_.content[block] = ++last_content_;
    if (below(4) == 0) {
      shared_.private_frame[block] = frame;
      shared_.owner[block] = below(kStressActors);
      shared_.state[block] = BlockState::open;
      return;
    }
    shared_.private_frame[block] = kNoFrame;
    pool_.write_frame(frame, last_content_);
    append_log(pool_.table, pool_.log, block, frame);
    shared_.state[block] = BlockState::live;
  }

  // A live block without a frame gets one again.
  void promote() {
    const Block block = below(kStressBlocks);
    if (free_frames_.empty() || shared_.state[block] != BlockState::live ||
        frame_now(block) != kNoFrame) {
      return;
    }
    const Frame frame = take_frame();
    pool_.write_frame(frame, shared_.content[block]);
    append_log(pool_.table, pool_.log, block, frame);
  }

  Pool& pool_;
  StressShared& shared_;
  std::mt19937_64 random_;
  std::deque<Frame> free_frames_;
  std::vector<Frame> leaving_frames_;
  std::vector<Block> orphans_;
  std::uint64_t retired_bits_ = 0;
  std::uint64_t last_content_ = 0;
  Grace grace_;
  bool waiting_ = false;
};

}  // namespace sluice::kernels::test
