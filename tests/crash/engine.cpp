#include "tests/crash/engine.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <memory>
#include <span>
#include <utility>

namespace sluice::crash {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kTimeoutUs = 5'000'000;
constexpr int kMostHeldMs = 120;

void note_broken(Board& board, const std::string& who, const Broken& broken) {
  if (broken.wrong_bytes) ++board.counts.wrong_blocks;
  board.fail(who + ": " + broken.what);
}

void note_lost(Board& board, const EngineOptions& options, const Looked& looked) {
  if (looked.lost == 0) return;
  if (!options.may_lose) throw Broken{std::to_string(looked.lost) + " pages are lost"};
  board.counts.pages_lost += looked.lost;
}

class Worker {
 public:
  Worker(Board& board, const Engine& engine, const EngineOptions& options, std::uint64_t seed)
      : board_(board), engine_(engine), options_(options), random_(seed), client_(connect()) {}

  void run() {
    while (!board_.failed() && !chance(1, 200)) {
      try {
        work();
      } catch (const Refused&) {
        ++refusals_;  // there is room again when others have ended
      }
      note_resumes();
    }
  }

 private:
  client::Client connect() const {
    sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
    where.socket_path = engine_.socket.c_str();
    where.timeout_us = kTimeoutUs;
    const std::string name = "engine " + std::to_string(engine_.number);
    where.client_name = name.c_str();
    return get(client::Client::connect(where), "connect");
  }

  void note_resumes() {
    const std::uint32_t now = get(client_.info(), "client_get_info").resumes;
    board_.counts.resumed += now - resumes_;
    resumes_ = now;
  }

  std::uint32_t below(std::uint32_t bound) {
    return static_cast<std::uint32_t>(random_() % std::max(bound, 1u));
  }
  bool chance(std::uint32_t of, std::uint32_t in) { return below(in) < of; }

  BlockName some_chain(std::uint32_t model) { return {engine_.tenant, model, below(kChains), 0}; }

  OpenCache& some_cache() {
    const bool scratch = chance(1, 5);
    const std::uint32_t model = scratch ? kModels + below(kScratchModels) : below(kModels);
    auto& place = caches_[model];
    if (place == nullptr) place = std::make_unique<OpenCache>(client_, engine_, model);
    return *place;
  }

  void work() {
    OpenCache& cache = some_cache();
    switch (below(12)) {
      case 0:
      case 1:
      case 2:
        return read(cache);
      case 3:
      case 4:
      case 5:
        return write(cache);
      case 6:
        return decode(cache);
      case 7:
        return fork(cache);
      case 8:
        return truncate(cache);
      case 9:
        return take_much(cache);
      case 10:
        return forecast(cache);
      default:
        if (cache.model() >= kModels || chance(1, 4)) close(cache.model());
    }
  }

  // Now and then a step lasts, as one of a slow kernel does; a daemon may die and come meanwhile.
  std::function<bool()> sometimes_held() {
    if (!chance(1, 12)) return {};
    ++board_.counts.steps_held;
    const auto until = Clock::now() + std::chrono::milliseconds(1 + below(kMostHeldMs));
    return [until] { return Clock::now() < until; };
  }

  void compare(OpenCache& cache, const client::Sequence& sequence, const BlockName& chain,
               std::uint32_t blocks) {
    if (blocks == 0) return;
    const Looked looked =
        look_at(cache, sequence, chain, blocks, options_.wait_us, sometimes_held());
    board_.counts.blocks_compared += looked.pages / cache.info().pages_per_block;
    note_lost(board_, options_, looked);
  }

  void read(OpenCache& cache) {
    const BlockName chain = some_chain(cache.model());
    auto opened = cache.open_chain(chain, 1 + below(kBlocksPerChain));
    compare(cache, opened.sequence, chain, opened.matched);
  }

  // Seals that were not put off are acknowledged, those before them with them.
  class Sealing {
   public:
    Sealing(Board& board, client::Sequence& sequence) : board_(board), sequence_(sequence) {}

    void seal(const BlockName& name, client::Actor* actor) {
      const KeyBytes key = key_of(name);
      pending_.push_back({name, board_.epoch()});
      get(sequence_.seal(name.block, std::as_bytes(std::span(key)), actor), "seal");
      if (get(sequence_.info(), "sequence_get_info").to_be_sealed > 0) {
        ++board_.counts.seals_put_off;
        return;
      }
      for (const auto& [sealed, epoch] : pending_) board_.acknowledge(sealed, epoch);
      board_.counts.blocks_sealed += pending_.size();
      pending_.clear();
    }

   private:
    Board& board_;
    client::Sequence& sequence_;
    std::vector<std::pair<BlockName, std::uint32_t>> pending_;
  };

  // Nobody else writes where we do.
  static void expect_own(std::span<const std::byte> bytes, std::uint64_t seed,
                         std::size_t first_byte, const char* what) {
    if (wrong_words(bytes, seed, first_byte) == 0) return;
    throw Broken{std::string("somebody else wrote to ") + what + " of this engine", true};
  }

  void write(OpenCache& cache) {
    BlockName name = some_chain(cache.model());
    const std::uint32_t want = 1 + below(kBlocksPerChain);
    auto opened = cache.open_chain(name, want);
    const std::uint32_t fresh = want - opened.matched;
    if (fresh == 0) return compare(cache, opened.sequence, name, opened.matched);
    get(opened.sequence.extend(fresh), "extend");
    for (name.block = opened.matched; name.block < want; ++name.block) {
      fill(get(opened.sequence.map(name.block), "map"), seed_of(name));
    }
    const auto hold = sometimes_held();
    do {
      for (name.block = opened.matched; name.block < want; ++name.block) {
        const auto frame = get(opened.sequence.map(name.block), "map");
        expect_own(frame, seed_of(name), 0, "a frame");
        if (hold) fill(frame, seed_of(name));
      }
    } while (hold && hold());
    Sealing sealing(board_, opened.sequence);
    for (name.block = opened.matched; name.block < want; ++name.block) {
      sealing.seal(name, nullptr);
    }
    compare(cache, opened.sequence, name, want);
  }

  // As decode does: into pinned slots.
  void decode(OpenCache& cache) {
    BlockName name = some_chain(cache.model());
    auto opened = cache.open_chain(name, kBlocksPerChain - 1);
    name.block = opened.matched;
    get(opened.sequence.extend(1), "extend");
    std::vector<std::int32_t> slots(cache.info().pages_per_block);
    get(cache.actor().begin_step(), "step_begin");
    try {
      get(opened.sequence.pin(name.block, cache.actor(), slots), "pin");
      for_slots(cache, slots, [&](auto slot, auto at) { fill(slot, seed_of(name), at); });
      const auto hold = sometimes_held();
      do {
        for_slots(cache, slots, [&](auto slot, auto at) {
          expect_own(slot, seed_of(name), at, "a pinned slot");
        });
      } while (hold && hold());
      if (chance(3, 4)) Sealing(board_, opened.sequence).seal(name, &cache.actor());
    } catch (const Refused&) {
      get(cache.actor().end_step(), "step_end");
      throw;
    }
    get(cache.actor().end_step(), "step_end");
  }

  template <class Do>
  static void for_slots(const OpenCache& cache, const std::vector<std::int32_t>& slots, Do&& each) {
    std::size_t at = 0;
    for (const std::int32_t slot : slots) {
      each(cache.slot(slot), at);
      at += cache.info().page_bytes;
    }
  }

  void fork(OpenCache& cache) {
    const BlockName chain = some_chain(cache.model());
    auto opened = cache.open_chain(chain, kBlocksPerChain);
    get(opened.sequence.extend(2), "extend");
    const std::uint64_t own = random_();
    for (std::uint32_t i = 0; i < 2; ++i) {
      fill(get(opened.sequence.map(opened.matched + i), "map"), own + i);
    }
    auto child = get(opened.sequence.fork(), "fork");
    for (std::uint32_t i = 0; i < 2; ++i) {
      expect_own(get(child.map(opened.matched + i), "map"), own + i, 0, "a forked block");
    }
    if (chance(1, 2)) get(opened.sequence.release(), "release");
    compare(cache, child, chain, opened.matched);
  }

  void truncate(OpenCache& cache) {
    const BlockName chain = some_chain(cache.model());
    auto opened = cache.open_chain(chain, kBlocksPerChain);
    get(opened.sequence.extend(1 + below(8)), "extend");
    const std::uint32_t left = below(opened.matched + 1);
    get(opened.sequence.truncate(left), "truncate");
    compare(cache, opened.sequence, chain, left);
  }

  // More than the extents that are there, given back at once.
  void take_much(OpenCache& cache) {
    if (options_.large_blocks == 0 || !board_.take_turn()) return;
    const struct Turn {
      Board& board;
      ~Turn() { board.end_turn(); }
    } turn{board_};
    client::Sequence sequence = cache.open_empty();
    const std::uint32_t blocks = 1 + below(options_.large_blocks);
    get(sequence.extend(blocks), "extend");
    const std::uint64_t own = random_();
    for (std::uint32_t i = 0; i < blocks; i += 16) fill(get(sequence.map(i), "map"), own + i);
    for (std::uint32_t i = 0; i < blocks; i += 16) {
      expect_own(get(sequence.map(i), "map"), own + i, 0, "a frame");
    }
    get(sequence.release(), "release");
  }

  void forecast(OpenCache& cache) {
    const BlockName chain = some_chain(cache.model());
    auto opened = cache.open_chain(chain, kBlocksPerChain);
    if (opened.matched == 0) return;
    std::vector<std::uint32_t> indices(opened.matched);
    for (std::uint32_t i = 0; i < opened.matched; ++i) indices[i] = i;
    const sluice_page_list list{opened.sequence.get(),
                                below(cache.info().pages_per_block),
                                opened.matched,
                                indices.data(),
                                nullptr,
                                nullptr};
    get(cache.actor().forecast({&list, 1}, 1000, 80), "forecast");
    compare(cache, opened.sequence, chain, opened.matched);
  }

  void close(std::uint32_t model) { caches_.at(model).reset(); }

  Board& board_;
  Engine engine_;
  EngineOptions options_;
  std::mt19937_64 random_;
  std::uint64_t refusals_ = 0;
  client::Client client_;
  std::uint32_t resumes_ = 0;
  std::map<std::uint32_t, std::unique_ptr<OpenCache>> caches_;
};

// One cache's part of a check.
void check_model(Board& board, const Engine& engine, client::Client& client,
                 const EngineOptions& options, std::uint32_t model, std::uint32_t share,
                 std::mt19937_64& random) {
  OpenCache cache(client, engine, model);
  for (std::uint32_t chain = 0; chain < kChains; ++chain) {
    if (random() % 16 >= share) continue;
    BlockName name{engine.tenant, model, chain, 0};
    const std::uint32_t least = board.acknowledged(name);
    auto opened = cache.open_chain(name, kBlocksPerChain);
    board.counts.keys_checked += least;
    if (opened.matched < least && options.may_lose) {
      board.counts.keys_missing += least - opened.matched;
    } else if (opened.matched < least) {
      name.block = opened.matched;
      throw Broken{std::string("key ") + key_of(name).data() +
                   " was acknowledged and is not found; of its chain " +
                   std::to_string(opened.matched) + " of " + std::to_string(least) + " are there"};
    }
    if (opened.matched == 0) continue;
    const Looked looked =
        look_at(cache, opened.sequence, name, opened.matched, options.wait_us, {});
    board.counts.blocks_compared += looked.pages / cache.info().pages_per_block;
    note_lost(board, options, looked);
  }
}

}  // namespace

void run_engine(Board& board, const Engine& engine, const EngineOptions& options,
                std::uint64_t seed) {
  try {
    Worker(board, engine, options, seed).run();
  } catch (const Over&) {
    return;
  } catch (const Refused&) {
    return;
  } catch (const Broken& broken) {
    note_broken(board,
                "engine " + std::to_string(engine.number) + ", pid " + std::to_string(getpid()) +
                    ", executor " +
                    (engine.executor == SLUICE_EXECUTOR_DIRECT ? "direct" : "daemon"),
                broken);
  }
}

bool check_acknowledged(Board& board, const std::string& socket_folder,
                        const EngineOptions& options, std::uint32_t share, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  try {
    for (std::uint32_t tenant = 0; tenant < kTenants; ++tenant) {
      Engine checker{0, tenant, random() % 2 == 0 ? SLUICE_EXECUTOR_DIRECT : SLUICE_EXECUTOR_DAEMON,
                     socket_folder + "/" + static_cast<char>('a' + tenant) + ".sock"};
      sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
      where.socket_path = checker.socket.c_str();
      where.timeout_us = kTimeoutUs;
      where.client_name = "checker";
      client::Client client = get(client::Client::connect(where), "connect");
      for (std::uint32_t model = 0; model < kModels; ++model) {
        check_model(board, checker, client, options, model, share, random);
      }
    }
    ++board.counts.checks;
    return true;
  } catch (const Over&) {
    return false;
  } catch (const Refused&) {
    return false;
  } catch (const Broken& broken) {
    note_broken(board, "the check after a restart", broken);
  }
  return false;
}

}  // namespace sluice::crash
