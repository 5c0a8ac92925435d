// Moves between DRAM and the block store: what the manager orders, and what comes of it.
//
// The store answers on threads of its own, which only put the answer on a list. The mover, a thread
// of the coordinator's, takes the list, and the marks of blocks that resolvers want, to the
// manager.
#include <algorithm>
#include <utility>

#include "daemon/coordinator.h"
#include "daemon/logging.h"
#include "ipc/kill_point.h"

namespace sluice::daemon {

using ipc::Errc;
using residency::Urgency;

namespace {

// How long the mover sleeps when nobody calls it: marks of resolvers in other processes call
// nobody. The shorter one while there was something to do within the last kBusyFor.
constexpr std::chrono::microseconds kLookBusy{50};
constexpr std::chrono::microseconds kLookIdle{1000};
constexpr std::chrono::milliseconds kBusyFor{20};
// Marks that one look takes of a cache; the rest waits for the next one.
constexpr std::size_t kMarksPerLook = 1024;

bool is_refusal(Errc code) {
  return code == Errc::limit_reached || code == Errc::quota_exceeded || code == Errc::no_memory ||
         code == Errc::busy || code == Errc::shutting_down;
}

constexpr storage::Hold hold_of(bool hold) { return hold ? storage::Hold::yes : storage::Hold::no; }

// Of a cache that the store has no name for: it knows storage::kMaxNamespaces others.
ipc::Status no_scope() {
  return ipc::fail(Errc::limit_reached, "the block store knows as many namespaces as it can");
}

residency::WriteOutcome outcome_of(const ipc::Status& status) {
  if (status) return residency::WriteOutcome::stored;
  return status.error().code == Errc::busy ? residency::WriteOutcome::unwanted
                                           : residency::WriteOutcome::refused;
}

}  // namespace

std::span<std::byte> Coordinator::frame_bytes(const FrameMemory& frames, ipc::FrameId frame,
                                              const residency::CacheShape& shape) {
  const std::uint64_t stride = shape.geometry.frame_stride;
  const std::uint64_t at = frame.value / shape.frames_per_extent * shape.frame_extent_bytes +
                           frame.value % shape.frames_per_extent * stride;
  return {frames.data() + at, stride};
}

void Coordinator::execute(const residency::Withdraw& action) {
  PendingRetire pending{action.cache, action.batch, true, {}};
  for_each_arena(caches_[action.cache.value], [&](ipc::DeviceId device, CacheMemory& memory) {
    pending.waits.emplace(device, memory.withdraw(action.ids));
  });
  SLUICE_KILL_POINT("store.withdraw.ordered");
  retiring_.push_back(std::move(pending));
  call_mover();
}

void Coordinator::execute(const residency::WriteBlock& action) {
  const Cache& cache = caches_[action.cache.value];
  const auto frame = frame_bytes(*cache.frames.memory, action.frame, cache.shape);
  const auto reuse =
      action.reuse == residency::Reuse::likely ? storage::Reuse::likely : storage::Reuse::unlikely;
  MoveAnswer answer{action.cache, cache.frames.memory, action.id, true, {}, std::nullopt};
  if (!cache.scope) {
    answer.status = no_scope();
    return answer_move(std::move(answer));
  }
  if (action.hold) answer.held = MoveAnswer::Held{*cache.scope, action.key};
  nvme_->write(*cache.scope, action.key, frame, action.valid_bytes, reuse, hold_of(action.hold),
               [this, answer = std::move(answer)](ipc::Status status) mutable {
                 answer.status = std::move(status);
                 answer_move(std::move(answer));
               });
}

void Coordinator::execute(const residency::ReadBlock& action) {
  const Cache& cache = caches_[action.cache.value];
  if (!cache.scope) {
    return answer_move(
        {action.cache, cache.frames.memory, action.id, false, no_scope(), std::nullopt});
  }
  const auto frame = frame_bytes(*cache.frames.memory, action.frame, cache.shape);
  const auto io_class =
      action.urgency == Urgency::now ? storage::IoClass::must_have : storage::IoClass::forecast;
  nvme_->read(*cache.scope, action.key, frame, io_class,
              [this, id = action.cache, block = action.id,
               frames = cache.frames.memory](ipc::Status status) {
                answer_move({id, frames, block, false, std::move(status), std::nullopt});
              });
}

void Coordinator::execute(const residency::HurryRead& action) {
  const auto& scope = caches_[action.cache.value].scope;
  if (scope) nvme_->hurry(*scope, action.key);
}

void Coordinator::execute(const residency::HoldStored& action) {
  const auto& scope = caches_[action.cache.value].scope;
  if (!scope) return;
  if (!action.hold) return nvme_->let_go(*scope, action.key);
  if (const ipc::Status held = nvme_->hold(*scope, action.key); !held) {
    warn_of_store("the block store has a block no more that a sequence refers to", action.cache,
                  held.error());
  }
}

// The store counts them; one line a second says that there are some.
void Coordinator::warn_of_store(const char* what, ipc::CacheId cache, const ipc::Error& why) {
  const auto now = std::chrono::steady_clock::now();
  if (now < quiet_until_) return;
  quiet_until_ = now + std::chrono::seconds(1);
  log_warn(what, {{"cache", cache.value}, {"reason", why.text}});
}

void Coordinator::answer_move(MoveAnswer answer) {
  const std::lock_guard lock(mover_mutex_);
  answers_.push_back(std::move(answer));
  mover_called_ = true;
  mover_call_.notify_one();
}

void Coordinator::call_mover() {
  if (nvme_ == nullptr) return;
  const std::lock_guard lock(mover_mutex_);
  mover_called_ = true;
  mover_call_.notify_one();
}

void Coordinator::run_mover(const std::stop_token& stop) {
  auto busy_until = std::chrono::steady_clock::now();
  while (!stop.stop_requested()) {
    std::vector<MoveAnswer> answers;
    {
      std::unique_lock lock(mover_mutex_);
      const bool busy = std::chrono::steady_clock::now() < busy_until;
      mover_call_.wait_for(lock, busy ? kLookBusy : kLookIdle,
                           [&] { return mover_called_ || stop.stop_requested(); });
      mover_called_ = false;
      answers = std::exchange(answers_, {});
    }
    bool some = !answers.empty();
    {
      const std::lock_guard lock(mutex_);
      residency::Actions actions;
      for (const MoveAnswer& answer : answers) tell(answer, actions);
      some = collect_wanted(actions) || some;
      execute(actions);
      some = settle() || some;
      if (manager_.pending_work()) {
        manager_.turn(actions);
        execute(actions);
      }
    }
    // Frames of a cache that is gone are let go of here, without the lock.
    answers.clear();
    if (some) busy_until = std::chrono::steady_clock::now() + kBusyFor;
  }
}

void Coordinator::tell(const MoveAnswer& answer, residency::Actions& actions) {
  // Of a cache that goes, the answer is void; the number may be another's by now.
  if (caches_[answer.cache.value].frames.memory != answer.frames) {
    if (answer.held && answer.status) {
      const std::span<const std::byte> key[] = {answer.held->key};
      let_go_of_unused(answer.held->scope, key, actions);
    }
    return;
  }
  const ipc::Status told =
      answer.write
          ? manager_.written(answer.cache, answer.block, outcome_of(answer.status), actions)
          : manager_.loaded(answer.cache, answer.block, answer.status.has_value(), actions);
  SLUICE_ASSERT(told.has_value());
  execute(actions);
  if (answer.status || (answer.write && is_refusal(answer.status.error().code))) return;
  warn_of_store(answer.write ? "a block was not written to the block store"
                             : "a block was not read from the block store, and is lost",
                answer.cache, answer.status.error());
}

void Coordinator::let_go_of_unused(storage::NamespaceId scope,
                                   std::span<const std::span<const std::byte>> keys,
                                   residency::Actions& actions) {
  if (keys.empty()) return;
  // The one that asked may be gone, and another one may have been made under its name since.
  for (std::uint32_t i = 0; i < caches_.size(); ++i) {
    if (caches_[i].scope != scope) continue;
    if (manager_.let_go_of_unused(ipc::CacheId{i}, keys, actions)) return execute(actions);
  }
  for (const auto key : keys) nvme_->let_go(scope, key);
}

void Coordinator::tell_wanted(ipc::CacheId cache, std::span<const ipc::BlockId> blocks,
                              residency::Urgency urgency, residency::Actions& actions) {
  if (blocks.empty()) return;
  const auto told = manager_.wanted(cache, blocks, actions, urgency);
  SLUICE_ASSERT(told.has_value());
}

bool Coordinator::collect_wanted(residency::Actions& actions) {
  bool some = false;
  for (std::uint32_t i = 0; i < caches_.size(); ++i) {
    for_each_arena(caches_[i], [&](ipc::DeviceId, CacheMemory& memory) {
      marks_.now.clear();
      marks_.soon.clear();
      memory.take_wanted(marks_, kMarksPerLook);
      tell_wanted(ipc::CacheId{i}, marks_.now, Urgency::now, actions);
      tell_wanted(ipc::CacheId{i}, marks_.soon, Urgency::soon, actions);
      some = some || !marks_.now.empty() || !marks_.soon.empty();
    });
    execute(actions);
  }
  return some;
}

ipc::Status Coordinator::append_stored(ipc::SessionId session, ipc::CacheId cache,
                                       ipc::Handle sequence, const residency::KeyView& keys,
                                       std::vector<residency::BlockRef>& blocks) {
  if (nvme_ == nullptr || keys.count == 0) return {};
  const auto scope = [&] {
    const std::lock_guard lock(mutex_);
    return caches_[cache.value].scope;
  }();
  if (!scope) return {};
  // Held before anybody knows of them, or they could be gone when they are appended.
  const auto held = nvme_->hold_prefix(*scope, keys);
  if (held.empty()) return {};
  std::vector<residency::StoredKey> found;
  std::vector<std::span<const std::byte>> newly;
  found.reserve(held.size());
  newly.reserve(held.size());
  for (std::uint32_t i = 0; i < held.size(); ++i) {
    found.push_back({keys[i], held[i].block.valid_bytes});
    if (held[i].newly) newly.push_back(keys[i]);
  }
  const std::lock_guard lock(mutex_);
  residency::Actions actions;
  auto opened = manager_.append_stored(session, sequence, found, actions);
  if (opened) blocks.insert(blocks.end(), opened->matched.begin(), opened->matched.end());
  execute(actions);
  let_go_of_unused(*scope, newly, actions);
  return opened ? ipc::Status{} : std::unexpected(std::move(opened.error()));
}

}  // namespace sluice::daemon
