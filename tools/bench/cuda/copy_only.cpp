#include "tools/bench/cuda/copy_only.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "tools/bench/cuda/kernels.h"
#include "tools/bench/node.h"

namespace sluice::tools::cuda {
namespace {

constexpr std::uint32_t kPages = 2048;
constexpr std::uint32_t kCtas[] = {8, 16, 32};
constexpr double kSeconds = 0.3;
constexpr double kBytesPerUsAndGb = 1000;

std::vector<std::uint64_t> drawn_pages(const GpuNode& node) {
  const GpuNodeSpec& spec = node.spec();
  Random random(kSeed);
  std::vector<std::uint64_t> from;
  for (std::uint32_t i = 0; i < kPages; ++i) {
    const std::uint32_t sequence = below(random, spec.sequences);
    const std::uint32_t block = below(random, spec.blocks_per_sequence);
    const std::uint32_t page = below(random, spec.shape.pages_per_block());
    from.push_back(node.frame(sequence, block) + page * spec.shape.page_bytes());
  }
  std::ranges::sort(from);
  return from;
}

}  // namespace

ipc::Result<double> copy_only_gb_per_s(GpuNode& node) {
  const std::uint64_t page_bytes = node.spec().shape.page_bytes();
  auto from = DeviceArray<std::uint64_t>::of(drawn_pages(node), "addresses of pages");
  if (!from) return std::unexpected(std::move(from.error()));
  std::vector<std::int32_t> places(kPages);
  std::iota(places.begin(), places.end(), 0);
  auto to = DeviceArray<std::int32_t>::of(places, "places of pages");
  if (!to) return std::unexpected(std::move(to.error()));
  auto place = DeviceArray<std::byte>::make(kPages * page_bytes, "the place of copied pages");
  if (!place) return std::unexpected(std::move(place.error()));
  double best = 0;
  for (const std::uint32_t ctas : kCtas) {
    auto graph = Graph::capture(node.stream(), [&] {
      return check(gather(ctas, from->data(), place->data(), to->data(), kPages,
                          static_cast<std::uint32_t>(page_bytes), node.stream().get()),
                   "launching the copy-only gather");
    });
    if (!graph) return std::unexpected(std::move(graph.error()));
    auto times = time_graph(node.stream(), *graph, 1, kSeconds);
    if (!times) return std::unexpected(std::move(times.error()));
    best = std::max(best, kPages * static_cast<double>(page_bytes) / times->median());
  }
  return best / kBytesPerUsAndGb;
}

}  // namespace sluice::tools::cuda
