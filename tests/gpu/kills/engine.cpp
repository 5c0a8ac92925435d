#include <cuda_runtime_api.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "client/sluice.hpp"
#include "tests/gpu/engines/cache.h"
#include "tests/gpu/engines/cuda_memory.h"
#include "tests/gpu/engines/processes.h"
#include "tests/gpu/kills/board.h"
#include "tests/gpu/kills/wild_write.h"
#include "tools/replay/payload.h"
#include "tools/replay/slot_memory.h"

namespace sluice::test::kills {

namespace {

using client::Error;
using client::PageList;
using client::Result;
using client::Status;
using engines::check_cuda;
using engines::kTimeoutUs;
using engines::MappedArray;
using tools::PayloadShape;
using tools::SlotPage;
using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kListCapacity = 64;
constexpr std::chrono::seconds kLongestChild{60};

constexpr std::uint32_t kPages = engines::CacheShape::kPages;
constexpr std::uint32_t kBlockTokens = engines::CacheShape::kBlockTokens;
constexpr PayloadShape kPayload = kShape.payload();

std::uint64_t us_since(Clock::time_point from) {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - from).count());
}

std::unexpected<Error> failed(sluice_status code, std::string text) {
  return std::unexpected(Error{code, std::move(text)});
}

class Engine {
 public:
  Engine(const EngineJob& job, EngineRow& row)
      : job_(job), row_(row), random_(job.seed), uses_plan_(job.cuda && job.number % 2 == 1) {}

  Status run() {
    if (auto ok = open(); !ok) return ok;
    if (auto ok = fill(); !ok) return ok;
    if (auto ok = make_plan(); !ok) return ok;
    row_.phase = Phase::running;
    while (!row_.stop) {
      if (row_.go_wild) {
        if (auto ok = check_cuda(enqueue_wild_write(slots_->stream()), "a wild write"); !ok) {
          return ok;
        }
      }
      if (row_.leave_child != Child::none && !has_child_) leave_child();
      if (auto ok = step(); !ok) return ok;
      if (row_.steps % kStepsPerBlock == 0 && !alone_) {
        if (auto ok = own_block(); !ok) return ok;
      }
    }
    return {};
  }

  // After `first`, the error of an illegal access: what works on the device says that the context
  // is lost, in a step or not, and what asks the daemon goes on.
  Status check_loss(const Error& first) {
    const Status ended = actor_->end_step();
    const Status begun = actor_->begin_step();
    const auto is_lost = [](const Status& status) {
      return !status && status.error().code == SLUICE_CONTEXT_LOST;
    };
    if (ended || begun || (!is_lost(ended) && !is_lost(begun))) {
      const Error& last = !begun ? begun.error() : !ended ? ended.error() : first;
      return failed(SLUICE_INTERNAL, "a step after an illegal access (" + first.text +
                                         ") was not told that the context is lost: " + last.text);
    }
    return client_->ping();
  }

 private:
  // What runs in the child is what any thread may leave behind at a fork: system calls.
  void leave_child() {
    has_child_ = true;
    if (fork() != 0) return;
    if (row_.leave_child == Child::closes_sockets) engines::close_sockets();
    row_.child = getpid();
    (void)engines::eventually(kLongestChild, [&] { return row_.end_child.load(); });
    _exit(0);
  }

  std::string key(std::uint32_t block) const { return "shared-" + std::to_string(10'000 + block); }
  std::uint64_t seed_of(const std::string& key) const {
    return tools::payload_seed(job_.tenant, key);
  }

  Status open() {
    auto client = engines::connect(job_.socket, "gpu-kill-test");
    if (!client) return std::unexpected(client.error());
    client_.emplace(std::move(*client));
    auto info = client_->info();
    if (!info) return std::unexpected(info.error());
    row_.session = info->session;

    auto cache = engines::open_cache(*client_, shape_of(job_.arena_bytes), job_.cuda);
    if (!cache) return std::unexpected(cache.error());
    cache_.emplace(std::move(*cache));
    auto arena = cache_->arena();
    if (!arena) return std::unexpected(arena.error());
    arena_ = *arena;
    if (job_.cuda) {
      auto slots = tools::make_cuda_slots(kPayload, arena_);
      if (!slots) return std::unexpected(slots.error());
      slots_ = std::move(*slots);
    } else {
      slots_ = tools::make_host_slots(kPayload, arena_);
    }
    auto actor = cache_->open_actor();
    if (!actor) return std::unexpected(actor.error());
    actor_.emplace(std::move(*actor));
    if (!job_.cuda) return {};
    const sluice_stream stream{SLUICE_STREAM_CUDA, 0, slots_->stream()};
    return actor_->set_stream(&stream);
  }

  // Another engine of the tenant may have sealed some of the blocks, or be at it.
  Status fill() {
    std::string keys;
    for (std::uint32_t block = 0; block < kSharedBlocks; ++block) {
      keys += key(block);
      seeds_.push_back(seed_of(key(block)));
    }
    const auto key_bytes = static_cast<std::uint32_t>(key(0).size());
    auto opened = cache_->open_sequence({keys.data(), key_bytes, 0, kSharedBlocks});
    if (!opened) return std::unexpected(opened.error());
    sequence_.emplace(std::move(opened->sequence));
    const std::uint32_t known = opened->matched_blocks;
    if (known < kSharedBlocks) {
      if (auto first = sequence_->extend(kSharedBlocks - known); !first) {
        return std::unexpected(first.error());
      }
    }
    for (std::uint32_t block = known; block < kSharedBlocks; ++block) {
      auto frame = sequence_->map(block);
      if (!frame) return std::unexpected(frame.error());
      for (std::uint32_t page = 0; page < kPages; ++page) {
        tools::write_page(kPayload, seeds_[block], page, 0, kBlockTokens,
                          frame->data() + page * kShape.page_bytes());
      }
      const std::string name = key(block);
      if (auto sealed = sequence_->seal(block, std::as_bytes(std::span(name))); !sealed) {
        return std::unexpected(sealed.error());
      }
    }
    return cache_->wait_pinned(kTimeoutUs);
  }

  // One launch resolves the lists of all layers.
  Status make_plan() {
    if (!uses_plan_) return {};
    const std::size_t entries = std::size_t{kPages} * kListCapacity;
    for (const Status& ok : {items_.make(entries), out_.make(entries), outcomes_.make(entries),
                             counts_.make(kPages), rows_.make(1)}) {
      if (!ok) return ok;
    }
    auto row = sequence_->row();
    if (!row) return std::unexpected(row.error());
    rows_.data()[0] = *row;
    sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
    desc.kind = SLUICE_ITEM_BLOCK;
    desc.max_lists = kPages;
    desc.lists_per_sequence = kPages;
    desc.list_capacity = kListCapacity;
    desc.items = items_.data();
    desc.counts = counts_.data();
    desc.sequences = rows_.data();
    desc.slots = out_.data();
    desc.outcomes = outcomes_.data();
    auto plan = client::Plan::create(*actor_, desc);
    if (!plan) return std::unexpected(plan.error());
    plan_.emplace(std::move(*plan));
    return {};
  }

  std::uint32_t below(std::uint32_t end) {
    return std::uniform_int_distribution<std::uint32_t>(0, end - 1)(random_);
  }

  // A page that was resolved, to be compared with the others of its step.
  Status take(std::uint64_t seed, std::uint32_t page, std::int32_t slot, std::uint8_t outcome) {
    if (slot < 0) {
      ++(outcome == SLUICE_NO_ROOM ? row_.no_slot : row_.absent);
      return {};
    }
    if (outcome == SLUICE_MISS) ++row_.misses;
    if (static_cast<std::uint32_t>(slot) >= arena_.slots) {
      return failed(SLUICE_INTERNAL, "slot " + std::to_string(slot) + " of " +
                                         std::to_string(arena_.slots) + " was given");
    }
    compared_.push_back({seed, slot, page, 0, kBlockTokens});
    return {};
  }

  Status compare() {
    tools::Comparison found;
    if (auto ok = slots_->compare(compared_, found); !ok) return ok;
    row_.pages += compared_.size();
    row_.mismatches += found.different;
    compared_.clear();
    return {};
  }

  Status resolve_by_call() {
    std::vector<PageList> lists;
    std::vector<std::uint32_t> blocks(std::size_t{kPages} * kListCapacity);
    std::vector<std::int32_t> slots(blocks.size());
    std::vector<std::uint8_t> outcomes(blocks.size());
    for (std::uint32_t page = 0; page < kPages; ++page) {
      const std::size_t at = std::size_t{page} * kListCapacity;
      const std::uint32_t count = 1 + below(kListCapacity);
      for (std::uint32_t i = 0; i < count; ++i) blocks[at + i] = below(kSharedBlocks);
      lists.push_back({sequence_->get(), page, count, &blocks[at], &slots[at], &outcomes[at]});
    }
    if (auto counts = actor_->resolve(lists); !counts) return std::unexpected(counts.error());
    for (const PageList& list : lists) {
      for (std::uint32_t i = 0; i < list.count; ++i) {
        if (auto ok = take(seeds_[list.blocks[i]], list.page, list.slots[i], list.outcomes[i]);
            !ok) {
          return ok;
        }
      }
    }
    return {};
  }

  Status resolve_by_plan() {
    for (std::uint32_t page = 0; page < kPages; ++page) {
      const std::uint32_t count = 1 + below(kListCapacity);
      counts_.data()[page] = count;
      for (std::uint32_t i = 0; i < count; ++i) {
        items_.data()[page * kListCapacity + i] = static_cast<std::int32_t>(below(kSharedBlocks));
      }
    }
    if (auto ok = plan_->launch(); !ok) return ok;
    const auto stream = static_cast<cudaStream_t>(slots_->stream());
    if (auto ok = check_cuda(cudaStreamSynchronize(stream), "waiting for a plan"); !ok) return ok;
    for (std::uint32_t page = 0; page < kPages; ++page) {
      for (std::uint32_t i = 0; i < counts_.data()[page]; ++i) {
        const std::size_t at = page * kListCapacity + i;
        const auto block = static_cast<std::size_t>(items_.data()[at]);
        if (auto ok = take(seeds_[block], page, out_.data()[at], outcomes_.data()[at]); !ok) {
          return ok;
        }
      }
    }
    return {};
  }

  Status step() {
    const auto begin = Clock::now();
    if (auto ok = actor_->begin_step(); !ok) return ok;
    if (auto ok = uses_plan_ ? resolve_by_plan() : resolve_by_call(); !ok) return ok;
    if (auto ok = compare(); !ok) return ok;
    if (auto ok = actor_->end_step(); !ok) return ok;
    const std::uint64_t took = us_since(begin);
    if (took > row_.longest_step_us) row_.longest_step_us = took;
    ++row_.steps;
    return {};
  }

  // Whether an error of a call that asks the daemon is one of a daemon that is gone, as the driver
  // has announced.
  bool is_away(const Error& error) {
    alone_ = row_.without_daemon &&
             (error.code == SLUICE_DAEMON_AWAY || error.code == SLUICE_SHUTTING_DOWN);
    return alone_;
  }

  // A block that decode fills: pinned, written, sealed (every other one) and read again.
  Status own_block() {
    if (auto added = sequence_->extend(1); !added) {
      return is_away(added.error()) ? Status() : std::unexpected(added.error());
    }
    if (auto ok = actor_->begin_step(); !ok) return ok;
    if (auto ok = fill_own_block(); !ok && !is_away(ok.error())) return ok;
    if (auto ok = actor_->end_step(); !ok) return ok;
    if (alone_) return {};
    if (auto ok = sequence_->truncate(kSharedBlocks); !ok && !is_away(ok.error())) return ok;
    return {};
  }

  Status fill_own_block() {
    const std::string name =
        "own-" + std::to_string(row_.session) + "-" + std::to_string(own_blocks_++);
    const std::uint64_t seed = seed_of(name);
    std::int32_t pins[kPages];
    if (auto ok = sequence_->pin(kSharedBlocks, *actor_, pins); !ok) {
      if (ok.error().code != SLUICE_NO_SLOT) return ok;
      ++row_.no_slot;
      return {};
    }
    std::vector<SlotPage> pages;
    for (std::uint32_t page = 0; page < kPages; ++page) {
      pages.push_back({seed, pins[page], page, 0, kBlockTokens});
    }
    if (auto ok = slots_->write(pages); !ok) return ok;
    if (own_blocks_ % 3 == 0) {  // truncated with the store under way, half of them
      if (auto ok = sequence_->store(kSharedBlocks, *actor_); !ok) return ok;
    }
    if (own_blocks_ % 2 == 0) {
      auto sealed = sequence_->seal(kSharedBlocks, std::as_bytes(std::span(name)), &*actor_);
      if (!sealed) return std::unexpected(sealed.error());
      ++row_.sealed;
    }
    const std::uint32_t block = kSharedBlocks;
    for (std::uint32_t page = 0; page < kPages; ++page) {
      std::int32_t slot = -1;
      std::uint8_t outcome = SLUICE_ABSENT;
      const PageList list{sequence_->get(), page, 1, &block, &slot, &outcome};
      if (auto counts = actor_->resolve({&list, 1}); !counts) {
        return std::unexpected(counts.error());
      }
      if (auto ok = take(seed, page, slot, outcome); !ok) return ok;
    }
    return compare();
  }

  const EngineJob& job_;
  EngineRow& row_;
  std::mt19937_64 random_;
  const bool uses_plan_;
  bool alone_ = false;  // the daemon is gone
  bool has_child_ = false;
  std::uint64_t own_blocks_ = 0;
  std::vector<std::uint64_t> seeds_;  // of the shared blocks
  std::vector<SlotPage> compared_;
  sluice_arena_view arena_{};
  // In the order in which they are made; they go the other way round.
  std::unique_ptr<tools::SlotMemory> slots_;
  std::optional<client::Client> client_;
  std::optional<client::Cache> cache_;
  std::optional<client::Sequence> sequence_;
  std::optional<client::Actor> actor_;
  MappedArray<std::int32_t> items_, out_;
  MappedArray<std::uint8_t> outcomes_;
  MappedArray<std::uint32_t> counts_, rows_;
  std::optional<client::Plan> plan_;
};

}  // namespace

void EngineRow::reset() {
  for (auto* number : {&session, &steps, &pages, &misses, &no_slot, &absent, &sealed, &mismatches,
                       &longest_step_us}) {
    *number = 0;
  }
  text[0] = '\0';
  child = 0;
  stop = without_daemon = go_wild = end_child = false;
  leave_child = Child::none;
  phase = Phase::starting;
}

int run_engine(const EngineJob& job, EngineRow& row) {
  Status ran;
  std::optional<Status> lost;
  {
    Engine engine(job, row);
    ran = engine.run();
    if (!ran && row.go_wild) lost = engine.check_loss(ran.error());
    // It closes and releases as any other, and must come to an end.
  }
  if (lost) {
    if (*lost) return kWild;
    ran = *lost;
  }
  if (!ran) {
    std::snprintf(row.text, sizeof row.text, "%s: %s", sluice_status_name(ran.error().code),
                  ran.error().text.c_str());
    return kFailed;
  }
  row.phase = Phase::finished;
  return kDone;
}

}  // namespace sluice::test::kills
