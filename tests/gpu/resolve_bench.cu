// How long a resolve takes on this GPU, beside a gather of the same rows whose sources and places are
// known. Development tool; prints one JSON object per case.
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/frame_log.h"

namespace {
using namespace sluice::kernels;
namespace gpu = sluice::kernels::cuda;

#define CHECK(call)                                                                          \
  do {                                                                                       \
    const int status_ = static_cast<int>(call);                                              \
    if (status_ != 0) {                                                                      \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, gpu::describe(status_)); \
      std::exit(1);                                                                          \
    }                                                                                        \
  } while (0)

constexpr unsigned kThreads = 512;

__global__ void gather(const std::byte* frames, const std::uint64_t* from, std::byte* arena,
                       const std::int32_t* slots, std::uint32_t rows, std::uint32_t vectors) {
  const std::uint64_t total = std::uint64_t{rows} * vectors;
  const std::uint64_t stride = std::uint64_t{gridDim.x} * kThreads;
  for (std::uint64_t base = std::uint64_t{blockIdx.x} * kThreads + threadIdx.x; base < total;
       base += stride * 4) {
    uint4 data[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const auto at = static_cast<std::uint32_t>(base + j * stride);
      if (at >= total) continue;
      const std::uint32_t row = at / vectors;
      const auto* p = reinterpret_cast<const uint4*>(frames + from[row]) + (at - row * vectors);
      asm volatile("ld.relaxed.sys.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(data[j].x), "=r"(data[j].y), "=r"(data[j].z), "=r"(data[j].w)
                   : "l"(p));
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const auto at = static_cast<std::uint32_t>(base + j * stride);
      if (at >= total) continue;
      const std::uint32_t row = at / vectors;
      reinterpret_cast<uint4*>(arena + std::uint64_t(slots[row]) * vectors * 16)[at - row * vectors] = data[j];
    }
  }
}

__global__ void empty() {}

__global__ void verify(const std::byte* frames, std::byte* arena, const std::int32_t* slots,
                       const std::uint64_t* expected, std::uint32_t items, std::uint32_t vectors,
                       unsigned long long* wrong) {
  for (std::uint32_t i = blockIdx.x; i < items; i += gridDim.x) {
    if (slots[i] < 0) {
      if (threadIdx.x == 0) atomicAdd(wrong + 1, 1ull);
      continue;
    }
    const auto* a = reinterpret_cast<const uint4*>(frames + expected[i]);
    const auto* b = reinterpret_cast<const uint4*>(arena + std::uint64_t(slots[i]) * vectors * 16);
    for (std::uint32_t v = threadIdx.x; v < vectors; v += blockDim.x) {
      const uint4 x = a[v], y = b[v];
      if (x.x != y.x || x.y != y.y || x.z != y.z || x.w != y.w) atomicAdd(wrong, 1ull);
    }
  }
}

struct Shape {
  std::string name;
  std::uint32_t page_bytes, pages_per_block, items, lists_per_sequence;
  double pool;  // slots over items
};

struct Bench {
  Shape shape;
  std::uint32_t sequences;
  double misses;
  double duplicates = 0;
  bool flush = false;
};

template <class T>
T* on_device(const std::vector<T>& v) {
  T* p = nullptr;
  CHECK(cudaMalloc(&p, std::max<std::size_t>(v.size(), 1) * sizeof(T)));
  CHECK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  return p;
}

double time_graph(cudaStream_t stream, cudaGraphExec_t graph, int launches, int repeats) {
  cudaEvent_t a, b;
  CHECK(cudaEventCreate(&a));
  CHECK(cudaEventCreate(&b));
  std::vector<double> times;
  for (int i = 0; i < repeats + 2; ++i) {
    CHECK(cudaEventRecord(a, stream));
    CHECK(cudaGraphLaunch(graph, stream));
    CHECK(cudaEventRecord(b, stream));
    CHECK(cudaEventSynchronize(b));
    float ms = 0;
    CHECK(cudaEventElapsedTime(&ms, a, b));
    if (i >= 2) times.push_back(ms * 1000.0 / launches);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <class F>
cudaGraphExec_t capture(cudaStream_t stream, F f) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  f();
  CHECK(cudaStreamEndCapture(stream, &graph));
  CHECK(cudaGraphInstantiate(&exec, graph, 0));
  CHECK(cudaGraphDestroy(graph));
  return exec;
}

void run(const Bench& bench, const std::vector<std::uint32_t>& arrangements, int repeats) {
  const Shape& shape = bench.shape;
  const std::uint32_t lists = bench.sequences * shape.lists_per_sequence;
  const std::uint32_t per_list = shape.items;
  auto fresh = static_cast<std::uint32_t>(per_list * bench.misses + 0.5);
  if (bench.misses > 0 && fresh == 0) fresh = 1;
  const std::uint32_t slots = static_cast<std::uint32_t>(lists * per_list * shape.pool);
  // A list's pages in the order in which they come into use; a step uses a window of it.
  std::uint32_t steps = 1;
  std::uint32_t universe = per_list;
  if (fresh != 0) {
    const auto least = static_cast<std::uint32_t>(per_list * shape.pool * 3);
    steps = std::max(16u, (least + fresh - 1) / fresh);
    universe = steps * fresh;
  }
  // List l has blocks of its own; page p of it is page-in-block (p % ppb) of block p / ppb.
  const std::uint32_t in_use = shape.pages_per_block / shape.lists_per_sequence;
  const std::uint32_t list_blocks = (universe + in_use - 1) / in_use;
  TableSizes sizes;
  sizes.slots = slots;
  sizes.blocks = bench.sequences * list_blocks;
  sizes.pages_per_block = shape.pages_per_block;
  sizes.actors = 64;
  sizes.log_capacity = 65536;
  sizes.hint_capacity = 1024;
  const SplitOffsets offsets = split_offsets_of(sizes);
  void* device_part = nullptr;
  CHECK(cudaMalloc(&device_part, offsets.device_end));
  CHECK(cudaMemset(device_part, 0, offsets.device_end));
  void* host_part = nullptr;
  CHECK(cudaHostAlloc(&host_part, offsets.host_end, cudaHostAllocDefault));
  std::memset(host_part, 0, offsets.host_end);
  const HotTable table = view_split_table(device_part, host_part, sizes);
  HotTable host = view_host_part(host_part, sizes);
  const std::uint64_t stride = (std::uint64_t{shape.page_bytes} * shape.pages_per_block + 4095) / 4096 * 4096;
  const std::uint64_t frame_bytes_all = stride * sizes.blocks;
  auto* frames = static_cast<std::byte*>(mmap(nullptr, frame_bytes_all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  madvise(frames, frame_bytes_all, MADV_HUGEPAGE);
  std::mt19937_64 random(7);
  for (std::uint64_t i = 0; i < frame_bytes_all / 8; ++i) {
    reinterpret_cast<std::uint64_t*>(frames)[i] = i * 0x9E3779B97F4A7C15ull;
  }
  CHECK(cudaHostRegister(frames, frame_bytes_all, cudaHostRegisterDefault));
  std::byte* arena = nullptr;
  CHECK(cudaMalloc(&arena, std::uint64_t{slots} * shape.page_bytes));
  std::uint8_t* ready = on_device(std::vector<std::uint8_t>(1, 1));
  PageStore store;
  store.arena = arena;
  store.frames = frames;
  store.page_bytes = shape.page_bytes;
  store.frame_stride = stride;
  store.frames_per_extent = sizes.blocks;
  store.slots = slots;
  store.frame_limit = sizes.blocks;
  store.extent_ready = ready;
  std::vector<std::uint64_t> current(sizes.blocks, 0);
  FrameLogWriter writer;
  writer.current = current.data();
  for (std::uint32_t b = 0; b < sizes.blocks; ++b) {
    append_log(host, writer, b, b);
    apply_log(host);
  }

  cudaStream_t stream;
  CHECK(cudaStreamCreate(&stream));
  CHECK(gpu::format(table, stream));
  void* scratch = nullptr;
  CHECK(cudaMalloc(&scratch, gpu::resolve_scratch_bytes(lists, per_list)));
  CHECK(cudaMemset(scratch, 0, gpu::resolve_scratch_bytes(lists, per_list)));

  std::vector<std::uint32_t> order(universe);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  std::vector<std::int32_t*> items;
  std::vector<std::uint64_t*> expected, from;
  std::vector<std::int32_t*> places;
  const std::uint32_t all = lists * per_list;
  std::uint32_t moved = 0;
  for (std::uint32_t s = 0; s < steps; ++s) {
    std::vector<std::int32_t> list_items;
    std::vector<std::uint64_t> where, sources;
    std::vector<std::int32_t> to;
    for (std::uint32_t l = 0; l < lists; ++l) {
      const std::uint32_t sequence = l / shape.lists_per_sequence, part = l % shape.lists_per_sequence;
      const auto place = [&](std::uint32_t p) {
        const std::uint32_t block = sequence * list_blocks + p / in_use;
        const std::uint32_t in_block = part * in_use + p % in_use;
        return std::pair(page_number(table, block, in_block), block * stride + std::uint64_t{in_block} * shape.page_bytes);
      };
      std::vector<std::uint32_t> window;
      const std::uint32_t distinct = static_cast<std::uint32_t>(per_list * (1 - bench.duplicates));
      for (std::uint32_t i = 0; i < distinct; ++i) window.push_back(order[(s * fresh + i) % universe]);
      std::vector<std::uint32_t> added(window.end() - std::min(fresh, distinct), window.end());
      for (std::uint32_t i = distinct; i < per_list; ++i) window.push_back(window[random() % distinct]);
      std::sort(window.begin(), window.end());
      std::sort(added.begin(), added.end());
      for (const std::uint32_t p : window) {
        list_items.push_back(static_cast<std::int32_t>(place(p).first));
        where.push_back(place(p).second);
      }
      for (const std::uint32_t p : added) {
        sources.push_back(place(p).second);
        to.push_back(static_cast<std::int32_t>(random() % slots));
      }
    }
    moved = static_cast<std::uint32_t>(sources.size());
    items.push_back(on_device(list_items));
    expected.push_back(on_device(where));
    from.push_back(on_device(sources));
    places.push_back(on_device(to));
  }
  std::int32_t* results = nullptr;
  CHECK(cudaMalloc(&results, all * 4));
  std::uint32_t* none = on_device(std::vector<std::uint32_t>(1, 0));
  auto* wrong = on_device(std::vector<unsigned long long>(2, 0));

  const auto batch_of = [&](std::uint32_t s) {
    gpu::ResolveBatch batch;
    batch.items = items[s];
    batch.slots = results;
    batch.lists = lists;
    batch.item_stride = per_list;
    batch.without_slot = none;
    return batch;
  };
  const std::uint32_t vectors = shape.page_bytes / 16;
  // Right bytes first.
  CHECK(gpu::enter_step(table, 0, stream));
  for (std::uint32_t s = 0; s < 2 * steps; ++s) {
    CHECK(gpu::resolve(table, store, 0, batch_of(s % steps), {arrangements[s % arrangements.size()], true}, scratch, stream));
    verify<<<1024, 128, 0, stream>>>(frames, arena, results, expected[s % steps], all, vectors, wrong);
  }
  CHECK(cudaStreamSynchronize(stream));
  unsigned long long found[2];
  CHECK(cudaMemcpy(found, wrong, sizeof found, cudaMemcpyDeviceToHost));

  // The gather.
  double best = 1e9;
  double with8 = 0;
  std::uint32_t best_ctas = 0;
  for (const std::uint32_t ctas : {8u, 16u, 32u}) {
    if (moved == 0) break;
    const auto graph = capture(stream, [&] {
      for (std::uint32_t s = 0; s < steps; ++s) {
        gather<<<ctas, kThreads, 0, stream>>>(frames, from[s], arena, places[s], moved, vectors);
      }
    });
    const double t = time_graph(stream, graph, steps, repeats);
    if (ctas == 8) with8 = t;
    if (t < best) best = t, best_ctas = ctas;
    CHECK(cudaGraphExecDestroy(graph));
  }
  // The gather wrote over slots: a fresh table.
  CHECK(cudaStreamSynchronize(stream));
  for (const std::uint32_t ctas : arrangements) {
    CHECK(cudaMemset(static_cast<std::byte*>(device_part) + offsets.words, 0, offsets.hints - offsets.words));
    CHECK(cudaMemset(static_cast<std::byte*>(device_part) + offsets.slot_of, 0, offsets.device_end - offsets.slot_of));
    const std::uint32_t inner = steps < 16 ? 64 : steps;
    const auto graph = capture(stream, [&] {
      for (std::uint32_t s = 0; s < inner; ++s) {
        CHECK(gpu::resolve(table, store, 0, batch_of(s % steps), {ctas, true}, scratch, stream));
      }
    });
    const double warm = time_graph(stream, graph, static_cast<int>(inner), 1);
    (void)warm;
    CHECK(cudaStreamSynchronize(stream));
    const auto counters = [&] {
      ActorCounters c;
      CHECK(cudaMemcpy(&c, &actor_line(table, 0)->counters, sizeof c, cudaMemcpyDeviceToHost));
      return c;
    };
    const ActorCounters before = counters();
    const double t = time_graph(stream, graph, static_cast<int>(inner), repeats);
    const ActorCounters after = counters();
    const double launches = double(inner) * (repeats + 2);
    const double limit = best < 1e9 ? 1.05 * best : 0;
    std::printf(
        "{\"shape\": \"%s\", \"sequences\": %u, \"misses\": %.2f, \"dup\": %.2f, \"ctas\": %u, \"us\": %.2f, "
        "\"copy_only_us\": %.2f, \"copy_ctas\": %u, \"copy8_us\": %.2f, \"over\": %.2f, \"over8\": %.2f, \"filled\": %.1f, \"wanted\": %u, "
        "\"no_slot\": %.2f, \"wrong\": %llu, \"unserved\": %llu, \"visits\": %.1f, \"x\": %.1f}\n",
        shape.name.c_str(), bench.sequences, bench.misses, bench.duplicates, ctas, t, best < 1e9 ? best : 0.0, best_ctas, with8,
        t - limit, t - 1.05 * with8, double(after.fills - before.fills) / launches, moved,
        double(after.no_slot - before.no_slot) / launches, found[0], found[1], double(after.refills - before.refills) / launches, double(after.pinned - before.pinned) / launches);
    std::fflush(stdout);
    CHECK(cudaGraphExecDestroy(graph));
  }
  for (std::uint32_t s = 0; s < steps; ++s) {
    cudaFree(items[s]);
    cudaFree(expected[s]);
    cudaFree(from[s]);
    cudaFree(places[s]);
  }
  cudaFree(results);
  cudaFree(none);
  cudaFree(wrong);
  cudaFree(scratch);
  cudaFree(arena);
  cudaFree(ready);
  cudaFree(device_part);
  cudaFreeHost(host_part);
  CHECK(cudaHostUnregister(frames));
  munmap(frames, frame_bytes_all);
  CHECK(cudaStreamDestroy(stream));
}

}  // namespace

int main(int argc, char** argv) {
  std::string what = argc > 1 ? argv[1] : "rows";
  const bool quick = what.ends_with("-quick");
  if (quick) what.resize(what.size() - 6);
  std::vector<std::uint32_t> arrangements;
  for (int i = 2; i < argc; ++i) arrangements.push_back(static_cast<std::uint32_t>(std::atoi(argv[i])));
  if (arrangements.empty()) arrangements = {0, 8};
  const int repeats = 5;
  std::vector<Shape> shapes;
  if (what == "rows" || what == "all") shapes.push_back({"row656", 656, 64, 2048, 1, 2.0});
  if (what == "pages" || what == "all") {
    shapes.push_back({"page32k", 32768, 2, 96, 2, 2.0});
    shapes.push_back({"page64k", 65536, 1, 96, 1, 2.0});
  }
  {
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    const auto graph = capture(stream, [&] { for (int i = 0; i < 64; ++i) empty<<<1, 32, 0, stream>>>(); });
    std::printf("{\"empty_us\": %.2f}\n", time_graph(stream, graph, 64, 5));
  }
  for (const Shape& shape : shapes) {
    for (const std::uint32_t sequences : {1u, 8u, 32u, 64u}) {
      for (const double misses : {0.0, 0.02, 0.07, 0.13, 0.3}) {
        if (const char* only = std::getenv("SLUICE_CASE")) {
          char name[32];
          std::snprintf(name, sizeof name, "%u/%.2f", sequences, misses);
          if (std::string(only) != name) continue;
        }
        if (quick && (sequences == 32 || misses == 0.07 || misses == 0.3)) continue;
        run({shape, sequences, misses}, arrangements, repeats);
      }
    }
  }
  if (what == "rows") run({shapes[0], 8, 0.13, 0.25}, arrangements, repeats);
  return 0;
}
