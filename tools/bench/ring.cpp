#include <array>

#include "tools/bench/benchmark.h"
#include "tools/bench/node.h"
#include "tools/bench/ping_pong.h"

namespace sluice::tools {
namespace {

constexpr std::uint32_t kVolley = 1000;

}  // namespace

ipc::Result<Figures> ring_round_trip(const Setting& setting) {
  auto ping_pong = PingPong::start();
  if (!ping_pong) return std::unexpected(std::move(ping_pong.error()));
  CacheSpec spec{.name = "ring", .head_dim = 16, .block_tokens = 16, .blocks = 1, .slots = 1};
  auto node = Node::open(setting, spec);
  if (!node) return std::unexpected(std::move(node.error()));
  const std::array<RoundFunction, 2> sides = {
      [&] { return ping_ns(node->client()); },
      [&] { return (*ping_pong)->volley(kVolley); },
  };
  auto series = take_turns(std::chrono::duration<double>(setting.seconds), sides);
  if (!series) return std::unexpected(std::move(series.error()));
  return Figures{(*series)[0], (*series)[1], {}, node->note()};
}

}  // namespace sluice::tools
