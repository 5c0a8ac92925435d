#include <array>
#include <utility>

#include "tools/bench/benchmark.h"
#include "tools/bench/resident.h"
#include "tools/bench/words.h"

namespace sluice::tools {
namespace {

constexpr std::uint32_t kHitPages = 100'000;
constexpr std::uint32_t kHitPagesPerBlock = 32;
constexpr std::uint32_t kScalePages = 10'000'000;
constexpr std::uint32_t kScalePagesPerBlock = 96;

// A round first warms the caches, which the other side had to itself, and then counts.
constexpr std::uint32_t kWarmingLists = 400;
constexpr std::uint32_t kCountedLists = 400;
constexpr std::uint32_t kAllLists = kWarmingLists + kCountedLists;
constexpr double kCountedPages = double{kCountedLists} * RandomLists::kListPages;
// Over the rings.
constexpr std::uint32_t kRemoteLists = 100;

// Value and same_step of executor direct, in nanoseconds per page, from fresh lists each.
class Direct {
 public:
  explicit Direct(Resident& resident) : resident_(resident) {}

  ipc::Result<double> a_step_per_call() {
    resident_.draw(lists_, kAllLists);
    if (auto ok = resident_.resolve_in_steps(lists_, 0, kWarmingLists); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    const Stopwatch watch;
    if (auto ok = resident_.resolve_in_steps(lists_, kWarmingLists, kAllLists); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return watch.nanoseconds() / kCountedPages;
  }

  ipc::Result<double> in_one_step() {
    resident_.draw(lists_, kCountedLists);
    if (auto ok = resident_.begin_step(); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = resident_.resolve(lists_, 0, kCountedLists); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    const Stopwatch watch;
    if (auto ok = resident_.resolve(lists_, 0, kCountedLists); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    const double ns = watch.nanoseconds() / kCountedPages;
    if (auto ok = resident_.end_step(); !ok) return std::unexpected(std::move(ok.error()));
    return ns;
  }

 private:
  Resident& resident_;
  RandomLists lists_;
};

// Nanoseconds per index of `look_up(indices)`, over as many random indices as the value has pages.
template <class LookUp>
class Plain {
 public:
  Plain(Random& random, std::uint32_t count, LookUp look_up)
      : random_(random), count_(count), look_up_(look_up) {}

  ipc::Result<double> operator()() {
    lists_.draw(random_, kAllLists, 1, count_);
    for (std::uint32_t i = 0; i < kWarmingLists; ++i) look_up_(indices(i));
    const Stopwatch watch;
    for (std::uint32_t i = kWarmingLists; i < kAllLists; ++i) look_up_(indices(i));
    return watch.nanoseconds() / kCountedPages;
  }

 private:
  std::span<const std::uint32_t> indices(std::uint32_t i) const {
    return {&lists_.blocks[std::size_t{i} * RandomLists::kListPages], RandomLists::kListPages};
  }

  Random& random_;
  std::uint32_t count_;
  LookUp look_up_;
  RandomLists lists_;
};

// Against `look_up(words, indices)` in an array of words in plain memory, and in such memory as the
// hot table has.
template <class LookUp>
ipc::Result<Figures> against(const Setting& setting, Resident& resident, LookUp look_up) {
  auto plain_words = Words::make(resident.pages(), Words::Memory::plain);
  if (!plain_words) return std::unexpected(std::move(plain_words.error()));
  auto table_words = Words::make(resident.pages(), Words::Memory::of_tables);
  if (!table_words) return std::unexpected(std::move(table_words.error()));
  Direct direct(resident);
  Plain plain(resident.random(), resident.pages(),
              [&](auto indices) { look_up(*plain_words, indices); });
  Plain in_table_memory(resident.random(), resident.pages(),
                        [&](auto indices) { look_up(*table_words, indices); });
  const std::array<RoundFunction, 4> sides = {
      [&] { return direct.a_step_per_call(); },
      [&] { return plain(); },
      [&] { return direct.in_one_step(); },
      [&] { return in_table_memory(); },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0],
                 (*series)[1],
                 {{"same_step", (*series)[2]}, {"ceiling_in_table_memory", (*series)[3]}},
                 resident.note()};
}

}  // namespace

ipc::Result<Figures> resolve_hit(const Setting& setting) {
  auto resident =
      Resident::make(setting, "hit", kHitPages, kHitPagesPerBlock, SLUICE_EXECUTOR_DIRECT);
  if (!resident) return std::unexpected(std::move(resident.error()));
  std::uint64_t step = 0;
  return against(setting, **resident,
                 [&](Words& words, auto indices) { words.stamp(indices, ++step); });
}

ipc::Result<Figures> resolve_scale(const Setting& setting) {
  auto resident =
      Resident::make(setting, "scale", kScalePages, kScalePagesPerBlock, SLUICE_EXECUTOR_DIRECT);
  if (!resident) return std::unexpected(std::move(resident.error()));
  volatile std::uint64_t kept = 0;  // so that the sums are not in vain
  return against(setting, **resident,
                 [&](const Words& words, auto indices) { kept = words.sum(indices); });
}

ipc::Result<Figures> resolve_daemon(const Setting& setting) {
  auto remote =
      Resident::make(setting, "remote", kHitPages, kHitPagesPerBlock, SLUICE_EXECUTOR_DAEMON);
  if (!remote) return std::unexpected(std::move(remote.error()));
  auto local =
      Resident::make(setting, "local", kHitPages, kHitPagesPerBlock, SLUICE_EXECUTOR_DIRECT);
  if (!local) return std::unexpected(std::move(local.error()));
  constexpr double kNsPerUs = 1000;
  RandomLists lists;
  Direct direct(**local);
  const std::array<RoundFunction, 2> sides = {
      [&]() -> ipc::Result<double> {
        (*remote)->draw(lists, kRemoteLists);
        if (auto ok = (*remote)->begin_step(); !ok) return std::unexpected(std::move(ok.error()));
        const Stopwatch watch;
        if (auto ok = (*remote)->resolve(lists, 0, kRemoteLists); !ok) {
          return std::unexpected(std::move(ok.error()));
        }
        const double us = watch.nanoseconds() / kRemoteLists / kNsPerUs;
        if (auto ok = (*remote)->end_step(); !ok) return std::unexpected(std::move(ok.error()));
        return us;
      },
      [&]() -> ipc::Result<double> {
        auto ping = ping_ns((*remote)->client());
        if (!ping) return ping;
        auto page = direct.a_step_per_call();
        if (!page) return page;
        return (*ping + *page * RandomLists::kListPages) / kNsPerUs;
      },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0], (*series)[1], {}, (*remote)->note()};
}

}  // namespace sluice::tools
