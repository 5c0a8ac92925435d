// The property test of the residency manager: random events from a seed against a simple oracle
// (world.h).
//
//   residency_property [--events N] [--seed S] [--store on|off|auto] [--expect BUG]
//
// A run is a row of worlds. --store: whether their nodes have a block store; auto, the default:
// every second has.
// Runs in a child process, so that a failed assertion of the manager is a finding like any other.
// On failure it prints the seed, what went wrong, and the shortest failing list of events that it
// found: the prefix up to the failure, from which parts are dropped as long as what remains still
// fails.
// --expect BUG (only in the build with seeded bugs): success is to find that bug.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/residency/seeded.h"
#include "tests/residency/world.h"

namespace sluice::residency::test {
namespace {

constexpr std::uint64_t kVerifyEvery = 256;
constexpr std::uint64_t kFinishEvery = 5'000;  // a fresh world after so many events
constexpr auto kShrinkFor = std::chrono::seconds(20);
constexpr auto kShrinkExpectedFor = std::chrono::seconds(1);  // a seeded bug

// splitmix64: the same numbers with every library.
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

struct Weight {
  Kind kind;
  std::uint32_t weight;
};
constexpr Weight kWeights[] = {
    {Kind::open_session, 12},  {Kind::session_dead, 6},    {Kind::open_cache, 30},
    {Kind::close_cache, 8},    {Kind::open_sequence, 160}, {Kind::append_known, 30},
    {Kind::extend, 200},       {Kind::seal, 420},          {Kind::fork, 30},
    {Kind::truncate, 60},      {Kind::release, 110},       {Kind::answer, 160},
    {Kind::answer_failed, 4},  {Kind::turn, 60},           {Kind::set_quota, 3},
    {Kind::evict, 3},          {Kind::bad_input, 4},       {Kind::repeat_key, 1},
    {Kind::append_stored, 60}, {Kind::wanted, 60},         {Kind::store_drop, 3},
};

Event draw(Numbers& numbers) {
  std::uint32_t sum = 0;
  for (const Weight& weight : kWeights) sum += weight.weight;
  auto at = static_cast<std::uint32_t>(numbers.next() % sum);
  Event event;
  for (const Weight& weight : kWeights) {
    event.kind = weight.kind;
    if (at < weight.weight) break;
    at -= weight.weight;
  }
  const std::uint64_t first = numbers.next();
  const std::uint64_t second = numbers.next();
  event.a = static_cast<std::uint32_t>(first);
  event.b = static_cast<std::uint32_t>(first >> 32);
  event.c = static_cast<std::uint32_t>(second);
  event.d = static_cast<std::uint32_t>(second >> 32);
  return event;
}

enum class Stores : std::uint8_t { automatic, off, on };

// The store of the world that begins with a seed.
std::optional<StoreSpec> store_of(Stores stores, std::uint64_t seed) {
  if (stores == Stores::off) return std::nullopt;
  const std::uint64_t drawn = Numbers(~seed).next();
  if (stores == Stores::automatic && drawn / 16 % 2 == 0) return std::nullopt;
  constexpr std::uint32_t refuses[] = {0, 0, 400, 40};
  return StoreSpec{drawn % 4 == 0 ? 4u : 1024u, refuses[drawn / 4 % 4], 50};
}

struct Arguments {
  std::uint64_t events = 300'000;
  std::uint64_t seed = 1;
  Stores stores = Stores::automatic;
  std::string expect;
};

// A world and what to do in it.
struct List {
  std::optional<StoreSpec> store;
  std::vector<Event> events;
};

// What a child leaves for its parent, whatever end it takes.
struct Outcome {
  std::uint64_t done = 0;  // events applied before the one that failed
  std::uint64_t digest = 0;
  char text[512] = {};
};

// Runs `body` in a child. True: it ended well.
bool in_child(Outcome& shared, bool quiet, const std::function<void(Outcome&)>& body) {
  shared = Outcome{};
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) std::abort();
  if (child == 0) {
    if (quiet && std::freopen("/dev/null", "w", stderr) == nullptr) _exit(3);
    try {
      body(shared);
    } catch (const std::exception& error) {
      std::snprintf(shared.text, sizeof shared.text, "%s", error.what());
      _exit(1);
    }
    _exit(0);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) std::abort();
  if (WIFSIGNALED(status)) {
    std::snprintf(shared.text, sizeof shared.text, "the manager ended by signal %d%s",
                  WTERMSIG(status),
                  WTERMSIG(status) == SIGABRT ? " (an assertion; see above)" : "");
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void run_list(const List& list, Outcome& outcome) {
  World world(list.store);
  for (const Event& event : list.events) {
    world.apply(event);
    if (++outcome.done % kVerifyEvery == 0) world.verify();
  }
  world.verify();
  world.finish();
  outcome.digest = world.digest();
}

// Events are drawn and applied one by one, world after world; nothing is stored.
void run_seed(const Arguments& arguments, std::uint64_t events, bool print, Outcome& outcome) {
  std::map<std::string, std::uint64_t> seen;
  for (std::uint64_t first = 0; first < events; first += kFinishEvery) {
    const std::uint64_t seed = arguments.seed + first;
    Numbers numbers(seed);
    World world(store_of(arguments.stores, seed));
    const std::uint64_t count = std::min(kFinishEvery, events - first);
    for (std::uint64_t i = 0; i < count; ++i) {
      world.apply(draw(numbers));
      if (++outcome.done % kVerifyEvery == 0) world.verify();
    }
    world.verify();
    world.finish();
    outcome.digest ^= world.digest();
    for (const auto& [what, times] : world.seen()) seen[what] += times;
  }
  if (!print) return;
  for (const auto& [what, times] : seen) {
    std::printf("  %-28s %10llu\n", what.c_str(), static_cast<unsigned long long>(times));
  }
  std::fflush(stdout);
}

// Drops events as long as the rest fails in the same way: with a text that begins alike.
List shrink(List list, const std::string& text, std::chrono::seconds most, Outcome& shared) {
  constexpr std::size_t kAlike = 24;
  const auto fails = [&](const List& candidate) {
    return !in_child(shared, true, [&](Outcome& outcome) { run_list(candidate, outcome); }) &&
           text.compare(0, kAlike, shared.text, std::min(kAlike, std::strlen(shared.text))) == 0;
  };
  const auto deadline = std::chrono::steady_clock::now() + most;
  for (std::size_t part = list.events.size() / 2; part > 0;) {
    bool dropped = false;
    for (std::size_t at = 0; at < list.events.size();) {
      if (std::chrono::steady_clock::now() > deadline) return list;
      const auto begin = list.events.begin() + static_cast<std::ptrdiff_t>(at);
      const std::size_t count = std::min(part, list.events.size() - at);
      List rest{list.store, {list.events.begin(), begin}};
      rest.events.insert(rest.events.end(), begin + static_cast<std::ptrdiff_t>(count),
                         list.events.end());
      if (fails(rest)) {
        list = std::move(rest);
        dropped = true;
      } else {
        at += part;
      }
    }
    if (!dropped || part > list.events.size()) part /= 2;
  }
  return list;
}

// The events up to the failure, of the world in which it happened.
List failing_prefix(const Arguments& arguments, std::uint64_t done) {
  const std::uint64_t first = done / kFinishEvery * kFinishEvery;
  const std::uint64_t seed = arguments.seed + first;
  Numbers numbers(seed);
  List list{store_of(arguments.stores, seed), {}};
  for (std::uint64_t i = first; i <= done; ++i) list.events.push_back(draw(numbers));
  return list;
}

void report(const Arguments& arguments, const Outcome& found, Outcome& shared) {
  std::printf("FAILED: seed %llu, after %llu events: %s\n",
              static_cast<unsigned long long>(arguments.seed),
              static_cast<unsigned long long>(found.done), found.text);
  List list = failing_prefix(arguments, found.done);
  if (in_child(shared, true, [&](Outcome& outcome) { run_list(list, outcome); })) {
    // It failed at the end of its world, or in a verification between events.
    list = failing_prefix(arguments, found.done == 0 ? 0 : found.done - 1);
  }
  const std::size_t prefix = list.events.size();
  list = shrink(std::move(list), found.text,
                arguments.expect.empty() ? kShrinkFor : kShrinkExpectedFor, shared);
  in_child(shared, true, [&](Outcome& outcome) { run_list(list, outcome); });
  std::printf(
      "shortest failing list found, %s a block store: %zu of the %zu events of the "
      "prefix: %s\n",
      list.store ? "with" : "without", list.events.size(), prefix, shared.text);
  for (const Event& event : list.events) std::printf("  %s\n", to_string(event).c_str());
}

#ifdef SLUICE_SEEDED_BUGS
constexpr struct {
  std::string_view name;
  SeededBug bug;
} kBugs[] = {
    {"reuse_without_grace", SeededBug::reuse_without_grace},
    {"stay_in_directory", SeededBug::stay_in_directory},
    {"forget_reference", SeededBug::forget_reference},
    {"evict_referenced", SeededBug::evict_referenced},
    {"ignore_key", SeededBug::ignore_key},
    {"ignore_limit", SeededBug::ignore_limit},
    {"leak_on_death", SeededBug::leak_on_death},
    {"dedup_keeps_private", SeededBug::dedup_keeps_private},
    {"forget_uncharge", SeededBug::forget_uncharge},
    {"ignore_reserve", SeededBug::ignore_reserve},
    {"destroy_open_arena", SeededBug::destroy_open_arena},
    {"forget_arena_charge", SeededBug::forget_arena_charge},
    {"withdraw_without_grace", SeededBug::withdraw_without_grace},
    {"publish_before_loaded", SeededBug::publish_before_loaded},
    {"evict_while_writing", SeededBug::evict_while_writing},
    {"drop_unwritten", SeededBug::drop_unwritten},
    {"displace_unwritten", SeededBug::displace_unwritten},
    {"believe_refused", SeededBug::believe_refused},
    {"stay_lost_in_directory", SeededBug::stay_lost_in_directory},
    {"keep_lost_frame", SeededBug::keep_lost_frame},
    {"strand_displaced", SeededBug::strand_displaced},
    {"displace_unheld", SeededBug::displace_unheld},
    {"forget_hold", SeededBug::forget_hold},
    {"recall_in_batch", SeededBug::recall_in_batch},
};

bool seed_bug(std::string_view name) {
  for (const auto& bug : kBugs) {
    if (bug.name == name) seeded_bug = bug.bug;
  }
  return seeded_bug != SeededBug::none;
}
#else
bool seed_bug(std::string_view) { return false; }
#endif

bool parse_stores(std::string_view text, Stores& stores) {
  if (text == "on") {
    stores = Stores::on;
  } else if (text == "off") {
    stores = Stores::off;
  } else {
    stores = Stores::automatic;
    return text == "auto";
  }
  return true;
}

bool parse(int argc, char** argv, Arguments& arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--events") {
      arguments.events = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--seed") {
      arguments.seed = std::strtoull(argv[i + 1], nullptr, 10);
    } else if (name == "--store") {
      if (!parse_stores(argv[i + 1], arguments.stores)) return false;
    } else if (name == "--expect") {
      arguments.expect = argv[i + 1];
    } else {
      return false;
    }
  }
  return argc % 2 == 1;
}

int run(const Arguments& arguments) {
  void* memory =
      mmap(nullptr, sizeof(Outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  Outcome& shared = *new (memory) Outcome;
  const auto once = [&](std::uint64_t events, bool print) {
    return in_child(shared, false,
                    [&](Outcome& outcome) { run_seed(arguments, events, print, outcome); });
  };
  const bool good = once(arguments.events, true);
  const Outcome first = shared;
  if (!good) {
    report(arguments, first, shared);
    return arguments.expect.empty() ? 1 : 0;
  }
  if (!arguments.expect.empty()) {
    std::printf("FAILED: the seeded bug %s was not found\n", arguments.expect.c_str());
    return 1;
  }
  // The same events again: the same actions and replies.
  const std::uint64_t again = std::min<std::uint64_t>(arguments.events, 2 * kFinishEvery);
  once(again, false);
  const std::uint64_t digest = shared.digest;
  once(again, false);
  if (digest != shared.digest) {
    std::printf("FAILED: seed %llu: two runs of the same events differ\n",
                static_cast<unsigned long long>(arguments.seed));
    return 1;
  }
  std::printf("%llu events from seed %llu: no difference\n",
              static_cast<unsigned long long>(arguments.events),
              static_cast<unsigned long long>(arguments.seed));
  return 0;
}

}  // namespace

std::string to_string(const Event& event) {
  constexpr std::string_view names[] = {
      "open_session",  "session_dead", "open_cache", "close_cache", "open_sequence", "append_known",
      "extend",        "seal",         "fork",       "truncate",    "release",       "answer",
      "answer_failed", "turn",         "set_quota",  "evict",       "bad_input",     "repeat_key",
      "append_stored", "wanted",       "store_drop"};
  static_assert(std::size(names) == static_cast<std::size_t>(Kind::count_));
  return std::string(names[static_cast<std::size_t>(event.kind)]) + " " + std::to_string(event.a) +
         " " + std::to_string(event.b) + " " + std::to_string(event.c) + " " +
         std::to_string(event.d);
}

}  // namespace sluice::residency::test

int main(int argc, char** argv) {
  using namespace sluice::residency::test;
  Arguments arguments;
  if (!parse(argc, argv, arguments) || (!arguments.expect.empty() && !seed_bug(arguments.expect))) {
    std::fprintf(stderr, "usage: %s [--events N] [--seed S] [--store on|off|auto] [--expect BUG]\n",
                 argv[0]);
    return 2;
  }
  return run(arguments);
}
