#include "tools/replay/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "tools/common/size.h"

namespace sluice::tools {
namespace {

constexpr std::chrono::milliseconds kRedraw{200};
constexpr std::size_t kBarWidth = 24;

std::string bar(double fraction) {
  const auto full = static_cast<std::size_t>(std::clamp(fraction, 0.0, 1.0) * kBarWidth);
  return "[" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "]";
}

}  // namespace

ProgressLine::ProgressLine(Progress mode, std::uint64_t total_steps)
    : enabled_(mode == Progress::always ||
               (mode == Progress::automatic && ::isatty(STDERR_FILENO) != 0)),
      total_steps_(total_steps) {}

void ProgressLine::update(const Counters& total) {
  const auto now = Clock::now();
  if (!enabled_ || now - drawn_at_ < kRedraw) return;
  if (drawn_) {
    const std::chrono::duration<double> passed = now - drawn_at_;
    pages_per_s_ = static_cast<double>(total.verified_pages - pages_at_) / passed.count();
  }
  drawn_ = true;
  drawn_at_ = now;
  pages_at_ = total.verified_pages;
  const double done =
      total_steps_ == 0 ? 1 : static_cast<double>(total.steps) / static_cast<double>(total_steps_);
  const double hit_rate = total.rated_pages == 0 ? 0
                                                 : static_cast<double>(total.rated_hits) /
                                                       static_cast<double>(total.rated_pages);
  std::fprintf(
      stderr,
      "\r\033[K%s %3.0f%%  %s of %s steps  %s pages/s verified  hit rate %.1f%%  mismatches %llu",
      bar(done).c_str(), 100 * done, human_count(total.steps).c_str(),
      human_count(total_steps_).c_str(),
      human_count(static_cast<std::uint64_t>(pages_per_s_)).c_str(), 100 * hit_rate,
      static_cast<unsigned long long>(total.mismatches));
  std::fflush(stderr);
}

void ProgressLine::clear() {
  if (drawn_) std::fprintf(stderr, "\r\033[K");
  drawn_ = false;
}

}  // namespace sluice::tools
