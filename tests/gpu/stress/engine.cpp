// A process of the stress test: a client, its cache, and streams that are threads.
#include <cstdio>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "tests/gpu/stress/board.h"
#include "tests/gpu/stress/stream.h"

namespace sluice::test::stress {

namespace {

using client::Status;

std::unique_ptr<Stream> make_stream(const StreamJob& job, std::uint32_t number) {
  if (!job.process.cuda || number < 2) return make_call_stream(job, number == 0);
  return make_plan_stream(job, number == 3);
}

Status run_stream(Stream& stream, const Board& board) {
  if (auto ok = stream.open(); !ok) return ok;
  while (!board.stop) {
    if (auto ok = stream.turn(); !ok) return ok;
  }
  return stream.finish();
}

Status run(const ProcessJob& job, Board& board) {
  auto client = engines::connect(job.socket, "gpu-stress-test");
  if (!client) return std::unexpected(client.error());
  auto cache = engines::open_cache(*client, job.shape, job.cuda);
  if (!cache) return std::unexpected(cache.error());
  const auto info = cache->info();
  if (!info) return std::unexpected(info.error());
  board.max_blocks = info->max_blocks;
  board.slots = info->slots;

  std::mutex mutex;
  Status first;  // that failed; guarded by mutex
  std::mt19937_64 random(job.seed);
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::thread> threads;
  for (std::uint32_t number = 0; number < kStreams; ++number) {
    streams.push_back(
        make_stream({job, board, board.rows[job.number][number], *cache, random()}, number));
    threads.emplace_back([&, stream = streams.back().get()] {
      auto ran = run_stream(*stream, board);
      if (ran) return;
      board.stop = true;
      const std::lock_guard lock(mutex);
      if (first) first = std::move(ran);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return first;
}

}  // namespace

int run_process(const ProcessJob& job, Board& board) {
  const Status ran = run(job, board);
  if (ran) return 0;
  std::snprintf(board.text[job.number], kTextBytes, "%s: %s", sluice_status_name(ran.error().code),
                ran.error().text.c_str());
  return 1;
}

}  // namespace sluice::test::stress
