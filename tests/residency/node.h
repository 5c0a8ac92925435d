// A small node for tests of behaviour: a manager, and a daemon that does at once what is ordered.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "daemon/residency/manager.h"

namespace sluice::residency::test {

inline constexpr std::uint64_t kBlock = 4096;  // bytes of a block, of its frame and of its one page
inline constexpr std::uint64_t kExtent = 4 * kBlock;

inline ManagerConfig small_node() {
  ManagerConfig config;
  config.hbm = {16 * kExtent, kExtent};
  config.dram = {16 * kExtent, kExtent};
  config.tenants = {{"red", {0, 16 * kExtent, 1.0}, {0, 16 * kExtent, 1.0}},
                    {"blue", {0, 16 * kExtent, 1.0}, {0, 16 * kExtent, 1.0}}};
  config.hash_seed = {3, 4};
  return config;
}

inline CacheSpec small_cache(std::string model = "model") {
  CacheSpec spec;
  spec.model = std::move(model);
  spec.layout = {1, 1, 64, 16, 2, 2, ipc::PageKind::block};
  spec.hbm_bytes = kExtent;
  return spec;
}

// "prefix0", "prefix1", ...: keys of one length as a view.
class Keys {
 public:
  Keys(const std::string& prefix, std::uint32_t count) : count_(count) {
    for (std::uint32_t i = 0; i < count; ++i) {
      std::string key = prefix + std::to_string(i);
      key.resize(size_, '.');
      text_ += key;
    }
  }
  KeyView view() const { return {data(), size_, size_, count_}; }
  std::span<const std::byte> operator[](std::uint32_t i) const { return view()[i]; }

 private:
  const std::byte* data() const { return reinterpret_cast<const std::byte*>(text_.data()); }
  std::uint32_t count_;
  std::uint32_t size_ = 24;
  std::string text_;
};

struct Node {
  explicit Node(const ManagerConfig& config = small_node())
      : manager(std::move(*Manager::create(config))) {}

  // Answers everything that was ordered, as often as answers order more; keeps a copy in `done`.
  void settle() {
    while (!actions.empty() || manager.pending_work()) {
      const Actions ordered = std::exchange(actions, {});
      for (const Action& action : ordered) {
        done.push_back(action);
        answer(action);
      }
      if (manager.pending_work()) manager.turn(actions);
    }
    manager.check();
  }

  void answer(const Action& action) {
    if (const auto* create = std::get_if<CreateArena>(&action)) {
      EXPECT_TRUE(manager.arena_ready(create->cache, create->device));
    } else if (const auto* grant = std::get_if<GrantDram>(&action)) {
      EXPECT_TRUE(manager.extent_granted(grant->cache, grant->extent));
    } else if (const auto* release = std::get_if<ReleaseExtent>(&action)) {
      EXPECT_TRUE(manager.extent_released(release->cache, release->extent, actions));
    } else if (const auto* retire = std::get_if<Retire>(&action)) {
      // A batch of a cache that was destroyed meanwhile is void.
      static_cast<void>(manager.retired(retire->cache, retire->batch, actions));
    } else if (const auto* arena = std::get_if<DestroyArena>(&action)) {
      EXPECT_TRUE(manager.arena_destroyed(arena->cache, arena->device, actions));
    } else if (const auto* destroy = std::get_if<DestroyCache>(&action)) {
      EXPECT_TRUE(manager.cache_destroyed(destroy->cache, actions));
    }
  }

  SessionId session(std::uint32_t tenant = 0) { return *manager.open_session(TenantId{tenant}); }

  CacheId cache(SessionId session, const CacheSpec& spec = small_cache()) {
    const auto opened = manager.open_cache(session, spec, actions);
    EXPECT_TRUE(opened) << opened.error().text;
    settle();
    return opened->cache;
  }

  // The lists of replies, copied: their spans last until the next call only.
  struct Opened {
    Handle sequence;
    std::vector<BlockRef> matched;
  };
  Opened open(SessionId session, CacheId cache, const KeyView& keys = {}, DeviceId device = {}) {
    const auto opened = manager.open_sequence(session, cache, keys, device);
    EXPECT_TRUE(opened) << opened.error().text;
    return {opened->sequence, {opened->matched.begin(), opened->matched.end()}};
  }

  // Retries while the manager asks for extents or for patience.
  Result<std::vector<BlockRef>> try_extend(SessionId session, Handle sequence,
                                           std::uint32_t count) {
    for (int attempt = 0; attempt < 10; ++attempt) {
      const auto extended = manager.extend(session, sequence, count, Growth::allowed, actions);
      if (extended && !extended->needs_extents) {
        return std::vector<BlockRef>(extended->blocks.begin(), extended->blocks.end());
      }
      if (!extended && extended.error().code != Errc::busy)
        return std::unexpected(extended.error());
      settle();
    }
    return ipc::fail(Errc::internal, "ten attempts did not end");
  }
  std::vector<BlockRef> extend(SessionId session, Handle sequence, std::uint32_t count) {
    auto blocks = try_extend(session, sequence, count);
    EXPECT_TRUE(blocks) << blocks.error().text;
    return blocks ? *blocks : std::vector<BlockRef>{};
  }

  Result<Sealed> seal(SessionId session, Handle sequence, std::uint32_t index,
                      std::span<const std::byte> key, std::uint64_t bytes = 0) {
    return manager.seal(session, sequence, index, key, bytes, actions);
  }

  // A sequence of `keys`, all sealed.
  Handle sealed_sequence(SessionId session, CacheId cache, const Keys& keys) {
    const std::uint32_t count = keys.view().count;
    const Handle sequence = open(session, cache).sequence;
    extend(session, sequence, count);
    for (std::uint32_t i = 0; i < count; ++i) {
      EXPECT_TRUE(seal(session, sequence, i, keys[i]));
    }
    return sequence;
  }

  void release(SessionId session, Handle sequence) {
    EXPECT_TRUE(manager.release(session, sequence, actions));
  }

  CacheStatus status(CacheId cache) const {
    for (const CacheStatus& row : manager.caches()) {
      if (row.cache == cache) return row;
    }
    ADD_FAILURE() << "no such cache";
    return {};
  }

  template <class A>
  static std::vector<A> all(const Actions& actions) {
    std::vector<A> found;
    for (const Action& action : actions) {
      if (const A* one = std::get_if<A>(&action)) found.push_back(*one);
    }
    return found;
  }

  Manager manager;
  Actions actions;
  Actions done;
};

}  // namespace sluice::residency::test
