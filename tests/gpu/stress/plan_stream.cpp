#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "tests/gpu/engines/cuda_memory.h"
#include "tests/gpu/stress/check.h"
#include "tests/gpu/stress/documents.h"
#include "tests/gpu/stress/stream.h"
#include "tools/replay/cuda/slot_kernels.h"

namespace sluice::test::stress {

namespace {

using client::Actor;
using client::Plan;
using client::Status;
using engines::CacheShape;
using engines::check_cuda;
using engines::DeviceArray;
using engines::MappedArray;
using tools::SlotPage;
using tools::cuda::Compared;

constexpr std::uint32_t kRounds = 2;              // launches of a step
constexpr std::uint32_t kLaunches = 2 * kRounds;  // under way at most

struct DestroyStream {
  void operator()(cudaStream_t stream) const { (void)cudaStreamDestroy(stream); }
};
struct DestroyEvent {
  void operator()(cudaEvent_t event) const { (void)cudaEventDestroy(event); }
};
using OwnStream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using OwnEvent = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, DestroyEvent>;

// What a launch reads and writes; it has other memory than the launches before.
struct Launch {
  MappedArray<std::int32_t> items;
  MappedArray<std::uint32_t> counts;
  MappedArray<std::uint32_t> rows;
  MappedArray<std::uint64_t> seeds;
  DeviceArray<std::int32_t> slots;
  DeviceArray<std::uint8_t> outcomes;
  DeviceArray<SlotPage> pages;
  OwnEvent passed;  // its last use
  std::optional<Plan> plan;
};

// On the device, from the beginning until now.
struct Seen {
  Tally tally;
  Compared bytes;
};

class PlanStream final : public Stream {
 public:
  PlanStream(const StreamJob& job, bool advance)
      : job_(job),
        advance_(advance),
        random_(job.seed),
        documents_(job.process, job.board, job.row, job.cache, random_) {}

  Status open() override {
    auto arena = job_.cache.arena();
    if (!arena) return std::unexpected(arena.error());
    arena_ = *arena;
    capacity_ = list_capacity(arena_.slots);
    cudaStream_t stream = nullptr;
    if (auto ok = check_cuda(cudaSetDevice(arena_.device_id), "choosing the device"); !ok) {
      return ok;
    }
    if (auto ok = check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
        !ok) {
      return ok;
    }
    stream_.reset(stream);
    auto actor = job_.cache.open_actor();
    if (!actor) return std::unexpected(actor.error());
    actor_.emplace(std::move(*actor));
    const sluice_stream its{SLUICE_STREAM_CUDA, 0, stream};
    if (auto ok = actor_->set_stream(&its); !ok) return ok;
    if (auto ok = seen_.make(1); !ok) return ok;
    if (auto ok = seen_here_.make(1); !ok) return ok;
    for (Launch& launch : launches_) {
      if (auto ok = make(launch); !ok) return ok;
    }
    return {};
  }

  Status turn() override {
    for (std::uint32_t place = 0; place < kHeld; ++place) {
      if (documents_.at(place) && below(8) != 0) continue;
      if (auto ok = finish(); !ok) return ok;
      if (auto ok = documents_.replace(place); !ok) return ok;
    }
    return step();
  }

  Status finish() override {
    for (const cudaError_t status : {cudaMemcpyAsync(seen_here_.data(), seen_.data(), sizeof(Seen),
                                                     cudaMemcpyDeviceToHost, stream_.get()),
                                     cudaStreamSynchronize(stream_.get())}) {
      if (auto ok = check_cuda(status, "waiting for the steps of a stream"); !ok) return ok;
    }
    const Seen& seen = *seen_here_.data();
    job_.row.compared = seen.tally.compared;
    job_.row.misses = seen.tally.misses;
    job_.row.no_slot = seen.tally.no_slot;
    job_.row.absent = seen.tally.absent;
    job_.row.absurd = seen.tally.absurd;
    job_.row.wrong = seen.bytes.different;
    return {};
  }

 private:
  std::uint32_t below(std::uint32_t end) {
    return std::uniform_int_distribution<std::uint32_t>(0, end - 1)(random_);
  }

  Status make(Launch& launch) {
    const std::size_t entries = std::size_t{kListsOfLaunch} * capacity_;
    for (const Status& ok :
         {launch.items.make(entries), launch.counts.make(kListsOfLaunch), launch.rows.make(kHeld),
          launch.seeds.make(std::size_t{kHeld} * kDocumentBlocks), launch.slots.make(entries),
          launch.outcomes.make(entries), launch.pages.make(entries)}) {
      if (!ok) return ok;
    }
    cudaEvent_t passed = nullptr;
    if (auto ok = check_cuda(cudaEventCreateWithFlags(&passed, cudaEventDisableTiming), "an event");
        !ok) {
      return ok;
    }
    launch.passed.reset(passed);
    sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
    desc.kind = SLUICE_ITEM_BLOCK;
    desc.flags = advance_ ? SLUICE_PLAN_ADVANCE : 0;
    desc.max_lists = kListsOfLaunch;
    desc.lists_per_sequence = CacheShape::kPages;
    desc.list_capacity = capacity_;
    desc.items = launch.items.data();
    desc.counts = launch.counts.data();
    desc.sequences = launch.rows.data();
    desc.slots = launch.slots.data();
    desc.outcomes = launch.outcomes.data();
    auto plan = Plan::create(*actor_, desc);
    if (!plan) return std::unexpected(plan.error());
    launch.plan.emplace(std::move(*plan));
    return {};
  }

  Answers answers_of(const Launch& launch) const {
    return {
        kListsOfLaunch,           capacity_,           CacheShape::kPages,    kDocumentBlocks,
        CacheShape::kBlockTokens, arena_.slots,        launch.items.data(),   launch.counts.data(),
        launch.seeds.data(),      launch.slots.data(), launch.outcomes.data()};
  }

  Status choose_lists(const Launch& launch) {
    for (std::uint32_t place = 0; place < kHeld; ++place) {
      const Document& document = *documents_.at(place);
      const auto row = document.sequence.row();
      if (!row) return std::unexpected(row.error());
      launch.rows.data()[place] = *row;
      std::copy_n(document.seeds, kDocumentBlocks,
                  launch.seeds.data() + std::size_t{place} * kDocumentBlocks);
    }
    for (std::uint32_t l = 0; l < kListsOfLaunch; ++l) {
      const std::uint32_t count = below(capacity_ + 1);
      launch.counts.data()[l] = count;
      for (std::uint32_t i = 0; i < count; ++i) {
        launch.items.data()[std::size_t{l} * capacity_ + i] =
            static_cast<std::int32_t>(below(kDocumentBlocks));
      }
    }
    return {};
  }

  // The answers of the launch are the pages of the comparison.
  Status compare(const Launch& launch) {
    Seen* const seen = seen_.data();
    if (auto ok = check_cuda(
            gather_answers(answers_of(launch), launch.pages.data(), &seen->tally, stream_.get()),
            "gathering answers");
        !ok) {
      return ok;
    }
    return check_cuda(
        tools::cuda::compare_slots(job_.process.shape.payload(),
                                   static_cast<const std::byte*>(arena_.base), launch.pages.data(),
                                   kListsOfLaunch * capacity_, &seen->bytes, stream_.get()),
        "comparing slots");
  }

  Status resolve(Launch& launch) {
    if (auto ok = check_cuda(cudaEventSynchronize(launch.passed.get()), "an earlier launch"); !ok) {
      return ok;
    }
    if (auto ok = choose_lists(launch); !ok) return ok;
    if (auto ok = check_cuda(clear_answers(answers_of(launch), stream_.get()), "clearing answers");
        !ok) {
      return ok;
    }
    if (auto ok = launch.plan->launch(); !ok) return ok;
    return compare(launch);
  }

  // What a launch before resolved is no longer held when the next one has left its step.
  Status compare_again(std::uint32_t first) {
    for (std::uint32_t i = advance_ ? kRounds - 1 : 0; i < kRounds; ++i) {
      if (auto ok = compare(launches_[first + i]); !ok) return ok;
    }
    return {};
  }

  Status step() {
    const std::uint32_t first = next_;
    next_ = (next_ + kRounds) % kLaunches;
    if (auto ok = actor_->begin_step(); !ok) return ok;
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      if (auto ok = resolve(launches_[first + i]); !ok) return ok;
    }
    // A reference may go in the step: what was resolved stays until the step is left.
    if (below(kStepsPerRelease) == 0) {
      if (auto ok = finish(); !ok) return ok;
      if (auto ok = documents_.release_in_step(below(kHeld)); !ok) return ok;
    }
    if (auto ok = compare_again(first); !ok) return ok;
    if (auto ok = actor_->end_step(); !ok) return ok;
    for (std::uint32_t i = 0; i < kRounds; ++i) {
      if (auto ok = check_cuda(cudaEventRecord(launches_[first + i].passed.get(), stream_.get()),
                               "recording an event");
          !ok) {
        return ok;
      }
    }
    ++job_.row.steps;
    return {};
  }

  const StreamJob job_;
  const bool advance_;
  std::mt19937_64 random_;
  sluice_arena_view arena_{};
  std::uint32_t capacity_ = 0;
  std::uint32_t next_ = 0;  // launch of the next step
  // In the order in which they are made; they go the other way round.
  OwnStream stream_;
  DeviceArray<Seen> seen_;
  MappedArray<Seen> seen_here_;
  Documents documents_;
  std::optional<Actor> actor_;
  std::array<Launch, kLaunches> launches_;
};

}  // namespace

std::unique_ptr<Stream> make_plan_stream(const StreamJob& job, bool advance) {
  return std::make_unique<PlanStream>(job, advance);
}

}  // namespace sluice::test::stress
