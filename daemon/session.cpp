#include "daemon/session.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;
using ipc::Handle;

namespace {

std::unexpected<ipc::Error> stale() {
  return fail(Errc::stale_handle,
              "no cache of this session has that handle; it was closed, or "
              "belongs to another session");
}

}  // namespace

ipc::Result<std::uint32_t> Session::free_slot() const {
  std::uint32_t index = 0;
  while (index < slots_.size() && slots_[index].used) ++index;
  if (index < kMaxCachesPerSession) return index;
  return fail(Errc::limit_reached, "a session has at most " + std::to_string(kMaxCachesPerSession) +
                                       " caches open; close one");
}

ipc::Status Session::check_room() const {
  const std::lock_guard lock(mutex_);
  if (auto slot = free_slot(); !slot) return std::unexpected(std::move(slot.error()));
  return {};
}

ipc::Result<Handle> Session::add_cache(SessionCache cache) {
  const std::lock_guard lock(mutex_);
  const auto slot = free_slot();
  if (!slot) return std::unexpected(slot.error());
  const std::uint32_t index = *slot;
  if (index == slots_.size()) slots_.emplace_back();
  slots_[index].used = true;
  slots_[index].cache = std::move(cache);
  return Handle{index, slots_[index].generation};
}

const Session::Slot* Session::find(Handle handle) const {
  if (handle.index >= slots_.size()) return nullptr;
  const Slot& slot = slots_[handle.index];
  return slot.used && slot.generation == handle.generation ? &slot : nullptr;
}

ipc::Result<SessionCache> Session::cache(Handle handle) const {
  const std::lock_guard lock(mutex_);
  const Slot* slot = find(handle);
  if (slot == nullptr) return stale();
  return slot->cache;
}

ipc::Result<SessionCache> Session::remove_cache(Handle handle) {
  const std::lock_guard lock(mutex_);
  if (find(handle) == nullptr) return stale();
  Slot& slot = slots_[handle.index];
  slot.used = false;
  ++slot.generation;
  return std::move(slot.cache);
}

void Session::drop_caches() {
  const std::lock_guard lock(mutex_);
  slots_.clear();
}

std::vector<SessionCache> Session::caches() const {
  const std::lock_guard lock(mutex_);
  std::vector<SessionCache> all;
  for (const Slot& slot : slots_) {
    if (slot.used) all.push_back(slot.cache);
  }
  return all;
}

}  // namespace sluice::daemon
