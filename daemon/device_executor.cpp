#include "daemon/device_executor.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <utility>

#include "daemon/cache_memory.h"
#include "ipc/memfd.h"

namespace sluice::daemon {

namespace worker_wire = device_worker::wire;
using device_worker::kMaxListItems;
using device_worker::ListMemory;
using flatbuffers::FlatBufferBuilder;
using ipc::Errc;
using ipc::fail;

namespace {

// What one request for a forecast may bring in: a bound on how long others wait behind it.
constexpr std::uint64_t kForecastBudgetBytes = std::uint64_t{16} << 20;

constexpr const char* kListsName = "sluice-lists";

// Of arenas in workers of executors; they are not asked for other tables.
std::uint64_t next_number() {
  static std::atomic<std::uint64_t> numbers{0};
  return ++numbers;
}

}  // namespace

DeviceExecutor::DeviceExecutor(DeviceClient::Options options) : worker_(std::move(options)) {
  thread_ = std::thread([this] { run(); });
}

DeviceExecutor::~DeviceExecutor() { stop(); }

void DeviceExecutor::post(Job job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    jobs_.push_back(std::move(job));
  }
  work_.notify_one();
}

void DeviceExecutor::stop() {
  std::deque<Job> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(jobs_);
  }
  work_.notify_one();
  worker_.quit();
  if (thread_.joinable()) thread_.join();
}

void DeviceExecutor::run() {
  while (true) {
    Job job;
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [&] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job(worker_);
  }
}

ipc::Result<std::shared_ptr<ExecutorArena>> ExecutorArena::make(
    std::shared_ptr<DeviceExecutor> executor, std::shared_ptr<CacheMemory> memory) {
  const CacheShape& shape = memory->shape();
  if (shape.table.pages_per_block > kMaxListItems) {
    return fail(Errc::invalid_layout, "blocks of " + std::to_string(shape.table.pages_per_block) +
                                          " pages; executor daemon on a GPU takes at most " +
                                          std::to_string(kMaxListItems) +
                                          ": open the cache with executor direct");
  }
  auto lists = ipc::create_memfd(kListsName, ListMemory::kBytes, ipc::Populate::yes);
  if (!lists) return std::unexpected(std::move(lists.error()));
  auto mapping =
      ipc::Mapping::map(lists->get(), 0, ListMemory::kBytes, ipc::Access::read_write, kListsName);
  if (!mapping) return std::unexpected(std::move(mapping.error()));
  std::shared_ptr<ExecutorArena> arena(new ExecutorArena(std::move(executor), std::move(memory)));
  arena->lists_memory_ = std::move(*mapping);
  arena->lists_.data = arena->lists_memory_.data();
  ArenaParts& parts = arena->parts_;
  parts.lists = std::move(*lists);
  parts.table.number = next_number();
  parts.table.sizes = shape.table;
  const std::vector<int> table = arena->memory_->table_fds();
  SLUICE_ASSERT(table.size() == 2);
  for (const auto& [fd, part] :
       {std::pair{table[0], &parts.table.node}, std::pair{table[1], &parts.table.device}}) {
    auto own = ipc::duplicate(fd);
    if (!own) return std::unexpected(std::move(own.error()));
    *part = std::move(*own);
  }
  parts.shape.page_bytes = shape.sizes.geometry.page_bytes;
  parts.shape.frame_stride = shape.sizes.geometry.frame_stride;
  parts.shape.slot_extent_bytes = shape.sizes.slot_extent_bytes;
  parts.shape.slot_extents = shape.sizes.slot_extents;
  parts.shape.frame_extent_bytes = shape.sizes.frame_extent_bytes;
  parts.shape.frames_per_extent = shape.sizes.frames_per_extent;
  parts.shape.frame_extents = shape.sizes.max_frame_extents;
  parts.extents = [memory = arena->memory_.get()](ipc::Tier tier, std::uint32_t first,
                                                  std::size_t most) {
    std::uint32_t total = 0;
    return memory->extent_fds(tier, first, most, total);
  };
  return arena;
}

// The memory may go once the worker has let go of it.
ExecutorArena::~ExecutorArena() {
  executor_->post([number = parts_.table.number, memory = std::move(memory_)](
                      DeviceClient& worker) { worker.forget_table(number); });
}

template <class Make>
ipc::Status ExecutorArena::ask(DeviceClient& worker, Make&& make) {
  return worker.in_arena(
      parts_, [&](std::uint64_t request) { return device_worker::make_message(request, make); });
}

ipc::Status ExecutorArena::check_idle(std::uint32_t actor) const {
  if (!memory_->is_becoming_idle(actor)) return {};
  return fail(Errc::io_error,
              "a step of before, over which the daemon's executor failed, is not "
              "ended yet; try again");
}

void ExecutorArena::leave_surely(DeviceClient& worker, std::uint32_t actor) {
  if (!leave_step(worker, actor)) memory_->make_idle(actor);
}

// If it cannot be said whether the actor has entered, it leaves.
ipc::Status ExecutorArena::enter_step(DeviceClient& worker, std::uint32_t actor) {
  if (auto ok = check_idle(actor); !ok) return ok;
  auto entered = ask(worker, [&](FlatBufferBuilder& b) {
    return worker_wire::CreateEnterStep(b, parts_.table.number, actor);
  });
  if (!entered) leave_surely(worker, actor);
  return entered;
}

ipc::Status ExecutorArena::leave_step(DeviceClient& worker, std::uint32_t actor) {
  return ask(worker, [&](FlatBufferBuilder& b) {
    return worker_wire::CreateLeaveStep(b, parts_.table.number, actor);
  });
}

// Asks about pages, as many at a time as the lists' memory takes, by what `make(builder, count)`
// returns. `slots` may be empty.
template <class Make>
ipc::Status ExecutorArena::ask_about(DeviceClient& worker, std::span<const kernels::Page> pages,
                                     std::span<kernels::Slot> slots,
                                     std::span<kernels::Outcome> outcomes, Make&& make) {
  for (std::size_t done = 0; done < pages.size();) {
    const auto some =
        static_cast<std::uint32_t>(std::min<std::size_t>(kMaxListItems, pages.size() - done));
    std::memcpy(lists_.items(), pages.data() + done, some * sizeof(kernels::Page));
    if (auto asked = ask(worker, [&](FlatBufferBuilder& b) { return make(b, some); }); !asked) {
      return asked;
    }
    if (!slots.empty()) {
      std::memcpy(slots.data() + done, lists_.slots(), some * sizeof(kernels::Slot));
    }
    std::memcpy(outcomes.data() + done, lists_.outcomes(), some);
    done += some;
  }
  return {};
}

ipc::Status ExecutorArena::resolve(DeviceClient& worker, std::uint32_t actor,
                                   std::span<const kernels::Page> pages,
                                   std::span<kernels::Slot> slots,
                                   std::span<kernels::Outcome> outcomes) {
  return ask_about(worker, pages, slots, outcomes, [&](FlatBufferBuilder& b, std::uint32_t count) {
    return worker_wire::CreateResolve(b, parts_.table.number, actor, count);
  });
}

ipc::Status ExecutorArena::forecast(DeviceClient& worker, std::uint32_t actor,
                                    std::span<const kernels::Page> pages, kernels::Step min_age,
                                    std::span<kernels::Outcome> outcomes) {
  if (auto ok = check_idle(actor); !ok) return ok;
  auto forecast =
      ask_about(worker, pages, {}, outcomes, [&](FlatBufferBuilder& b, std::uint32_t count) {
        return worker_wire::CreateForecast(b, parts_.table.number, actor, count, min_age,
                                           kForecastBudgetBytes);
      });
  if (!forecast) leave_surely(worker, actor);
  return forecast;
}

// What a worker that died over it had claimed is given up before another one claims.
ipc::Status ExecutorArena::claim_pins(DeviceClient& worker, std::uint32_t actor,
                                      kernels::Block block, std::span<kernels::Slot> slots,
                                      bool maybe_claimed) {
  if (maybe_claimed) {
    if (auto dropped = drop_pins(worker, block); !dropped) return dropped;
  }
  const auto claim = [&] {
    return worker.in_arena(
        parts_,
        [&](std::uint64_t request) {
          return device_worker::make_message(request, [&](FlatBufferBuilder& b) {
            return worker_wire::CreateClaimPins(b, parts_.table.number, actor, block);
          });
        },
        DeviceClient::Retry::no);
  };
  auto claimed = claim();
  if (!claimed) {
    if (auto dropped = drop_pins(worker, block); !dropped) return dropped;
    claimed = claim();
  }
  if (claimed) std::memcpy(slots.data(), lists_.slots(), slots.size_bytes());
  return claimed;
}

ipc::Status ExecutorArena::drop_pins(DeviceClient& worker, kernels::Block block) {
  device_worker::TableWork drop;
  drop.drop_pins = {block};
  return worker.work(parts_.table, drop);
}

ipc::Status ExecutorArena::find_pins(DeviceClient& worker, kernels::Block block,
                                     std::span<kernels::Slot> slots) {
  auto asked = ask(worker, [&](FlatBufferBuilder& b) {
    return worker_wire::CreateFindPins(b, parts_.table.number, block);
  });
  if (asked) std::memcpy(slots.data(), lists_.slots(), slots.size_bytes());
  return asked;
}

ipc::Status ExecutorArena::seal_pins(DeviceClient& worker, std::uint32_t actor,
                                     kernels::Block block, std::span<const kernels::Slot> slots) {
  std::memcpy(lists_.slots(), slots.data(), slots.size_bytes());
  return ask(worker, [&](FlatBufferBuilder& b) {
    return worker_wire::CreateSealPins(b, parts_.table.number, actor, block);
  });
}

ipc::Status ExecutorArena::copy_block(DeviceClient& worker, std::span<const kernels::Slot> slots,
                                      kernels::Frame frame, bool to_frame) {
  std::memcpy(lists_.slots(), slots.data(), slots.size_bytes());
  return ask(worker, [&](FlatBufferBuilder& b) {
    return worker_wire::CreateCopyBlock(b, parts_.table.number, frame, to_frame);
  });
}

}  // namespace sluice::daemon
