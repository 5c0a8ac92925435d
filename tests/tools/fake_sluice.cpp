#include "tests/tools/fake_sluice.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "client/sluice.h"

namespace sluice::tools::fake {
namespace {

struct Block {
  std::vector<std::byte> frame;
  std::vector<std::int32_t> slot_of;
  bool sealed = false;
  bool pinned = false;
  std::string key;
};

struct Slot {
  std::weak_ptr<Block> block;
  std::uint32_t page = 0;
  std::uint64_t step = 0;
  bool pinned = false;
  bool used = false;
};

struct Counted {
  std::uint64_t fills = 0;
  std::uint64_t answers = 0;
  std::uint64_t resolves = 0;
  std::uint64_t seals = 0;
};

Settings the_settings;
Counted counted;

}  // namespace

Settings& settings() { return the_settings; }
void reset() {
  the_settings = {};
  counted = {};
}

}  // namespace sluice::tools::fake

using namespace sluice::tools::fake;

struct sluice_client {
  std::string name;
};

struct sluice_cache {
  std::uint64_t page_bytes = 0;
  std::uint32_t pages_per_block = 0;
  std::vector<std::byte> arena;
  std::vector<Slot> slots;
  std::list<std::uint32_t> lru;  // least recently used first
  std::vector<std::list<std::uint32_t>::iterator> place;
  std::map<std::string, std::shared_ptr<Block>> known;
  std::uint64_t frames = 0;
  std::uint64_t clock = 0;
  sluice_cache_stats stats{};

  std::byte* slot(std::int32_t index) {
    return arena.data() + static_cast<std::uint64_t>(index) * page_bytes;
  }
  void touch(std::uint32_t slot_index) {
    lru.splice(lru.end(), lru, place[slot_index]);
    slots[slot_index].step = clock;
  }
  // The least recently used slot that nobody uses in this step; -1: none.
  std::int32_t claim(const std::shared_ptr<Block>& block, std::uint32_t page) {
    for (const std::uint32_t index : lru) {
      Slot& candidate = slots[index];
      if (candidate.pinned) continue;
      if (candidate.used && candidate.step == clock) return -1;
      if (auto old = candidate.block.lock(); old && candidate.used)
        old->slot_of[candidate.page] = -1;
      candidate = {block, page, clock, false, true};
      block->slot_of[page] = static_cast<std::int32_t>(index);
      touch(index);
      return static_cast<std::int32_t>(index);
    }
    return -1;
  }
  void unpin(Block& block) {
    for (const std::int32_t index : block.slot_of) {
      if (index >= 0) slots[static_cast<std::size_t>(index)].pinned = false;
    }
    block.pinned = false;
  }
  bool make_frame_room() {
    while (frames >= settings().max_frames) {
      const auto unused = std::find_if(known.begin(), known.end(), [](const auto& entry) {
        return entry.second.use_count() == 1;
      });
      if (unused == known.end()) return false;
      for (const std::int32_t index : unused->second->slot_of) {
        if (index >= 0) slots[static_cast<std::size_t>(index)].used = false;
      }
      known.erase(unused);
      --frames;
    }
    return true;
  }
};

struct sluice_sequence {
  sluice_cache* cache = nullptr;
  std::vector<std::shared_ptr<Block>> blocks;
};

struct sluice_actor {
  sluice_cache* cache = nullptr;
  bool in_step = false;
};

namespace {

sluice_status fail_with(sluice_error* error, sluice_status status, const char* text) {
  if (error != nullptr) {
    error->code = status;
    std::snprintf(error->text, sizeof error->text, "%s", text);
  }
  return status;
}

// What a private block gives back when its sequence lets go of it.
void drop(sluice_cache& cache, std::shared_ptr<Block>& block) {
  if (block->sealed || block.use_count() > 1) return;
  cache.unpin(*block);
  for (const std::int32_t index : block->slot_of) {
    if (index >= 0) cache.slots[static_cast<std::size_t>(index)].used = false;
  }
  --cache.frames;
}

}  // namespace

extern "C" {

const char* sluice_status_name(int32_t status) {
  return status == SLUICE_QUOTA_EXCEEDED ? "quota_exceeded"
         : status == SLUICE_NO_SLOT      ? "no_slot"
                                         : "other";
}

sluice_status sluice_connect(const sluice_connect_desc* desc, sluice_client** out, sluice_error*) {
  *out = new sluice_client{desc->client_name};
  return SLUICE_OK;
}
void sluice_disconnect(sluice_client* client) { delete client; }

sluice_status sluice_client_get_info(sluice_client*, sluice_client_info* out, sluice_error*) {
  out->session = 1;
  out->connected = 1;
  std::snprintf(out->tenant, sizeof out->tenant, "t0");
  return SLUICE_OK;
}

sluice_status sluice_cache_open(sluice_client*, const sluice_cache_desc* desc, sluice_cache** out,
                                sluice_error*) {
  auto* const cache = new sluice_cache;
  const std::uint64_t block_bytes = std::uint64_t{desc->layers} * desc->kv_heads * desc->planes *
                                    desc->block_tokens * desc->head_dim * desc->dtype_bytes;
  cache->pages_per_block = desc->page_kind == SLUICE_PAGE_LAYER  ? desc->layers
                           : desc->page_kind == SLUICE_PAGE_HEAD ? desc->layers * desc->kv_heads
                                                                 : 1;
  cache->page_bytes = block_bytes / cache->pages_per_block;
  cache->slots.resize(desc->hbm_bytes / cache->page_bytes);
  cache->arena.resize(cache->slots.size() * cache->page_bytes);
  for (std::uint32_t i = 0; i < cache->slots.size(); ++i) {
    cache->place.push_back(cache->lru.insert(cache->lru.end(), i));
  }
  *out = cache;
  return SLUICE_OK;
}
sluice_status sluice_cache_close(sluice_cache* cache, sluice_error*) {
  delete cache;
  return SLUICE_OK;
}
sluice_status sluice_cache_get_info(sluice_cache* cache, sluice_cache_info* out, sluice_error*) {
  out->slots = static_cast<std::uint32_t>(cache->slots.size());
  out->page_bytes = cache->page_bytes;
  out->pages_per_block = cache->pages_per_block;
  out->block_bytes = cache->page_bytes * cache->pages_per_block;
  return SLUICE_OK;
}
sluice_status sluice_cache_arena(sluice_cache* cache, sluice_arena_view* out, sluice_error*) {
  out->base = cache->arena.data();
  out->page_bytes = cache->page_bytes;
  out->slots = static_cast<std::uint32_t>(cache->slots.size());
  out->device_type = 1;
  return SLUICE_OK;
}
sluice_status sluice_cache_wait_pinned(sluice_cache*, uint64_t, sluice_error*) { return SLUICE_OK; }
sluice_status sluice_cache_get_stats(sluice_cache* cache, sluice_cache_stats* out, sluice_error*) {
  *out = cache->stats;
  return SLUICE_OK;
}

sluice_status sluice_sequence_open(sluice_cache* cache, const sluice_keys* keys,
                                   sluice_sequence** out, uint32_t* matched, sluice_error*) {
  auto* const sequence = new sluice_sequence{cache, {}};
  for (std::size_t i = 0; i < keys->count; ++i) {
    const std::string key(static_cast<const char*>(keys->data) + i * keys->key_bytes,
                          keys->key_bytes);
    const auto found = cache->known.find(key);
    if (found == cache->known.end()) break;
    sequence->blocks.push_back(found->second);
  }
  *matched = static_cast<std::uint32_t>(sequence->blocks.size());
  *out = sequence;
  return SLUICE_OK;
}
sluice_status sluice_sequence_extend(sluice_sequence* sequence, uint32_t count, uint32_t* first,
                                     sluice_error* error) {
  sluice_cache& cache = *sequence->cache;
  *first = static_cast<std::uint32_t>(sequence->blocks.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!cache.make_frame_room()) {
      while (sequence->blocks.size() > *first) {
        drop(cache, sequence->blocks.back());
        sequence->blocks.pop_back();
      }
      return fail_with(error, SLUICE_QUOTA_EXCEEDED, "no frame can be evicted");
    }
    auto block = std::make_shared<Block>();
    block->frame.resize(cache.page_bytes * cache.pages_per_block);
    block->slot_of.assign(cache.pages_per_block, -1);
    sequence->blocks.push_back(std::move(block));
    ++cache.frames;
  }
  return SLUICE_OK;
}
sluice_status sluice_sequence_release(sluice_sequence* sequence, sluice_error*) {
  if (sequence == nullptr) return SLUICE_OK;
  for (auto& block : sequence->blocks) drop(*sequence->cache, block);
  delete sequence;
  return SLUICE_OK;
}

sluice_status sluice_sequence_row(sluice_sequence*, uint32_t*, sluice_error* error) {
  return fail_with(error, SLUICE_NOT_SUPPORTED, "there is no GPU");
}

sluice_status sluice_block_map(sluice_sequence* sequence, uint32_t block, void** data,
                               uint64_t* bytes, sluice_error*) {
  *data = sequence->blocks[block]->frame.data();
  *bytes = sequence->blocks[block]->frame.size();
  return SLUICE_OK;
}

sluice_status sluice_block_pin(sluice_sequence* sequence, uint32_t block, sluice_actor* actor,
                               int32_t* slots, sluice_error* error) {
  if (!actor->in_step) return fail_with(error, SLUICE_WRONG_STATE, "not in a step");
  const auto& target = sequence->blocks[block];
  sluice_cache& cache = *sequence->cache;
  for (std::uint32_t page = 0; page < cache.pages_per_block; ++page) {
    if (target->slot_of[page] < 0) {
      const std::int32_t slot = cache.claim(target, page);
      if (slot < 0) return fail_with(error, SLUICE_NO_SLOT, "no slot");
      cache.slots[static_cast<std::size_t>(slot)].pinned = true;
    }
    slots[page] = target->slot_of[page];
  }
  target->pinned = true;
  return SLUICE_OK;
}

sluice_status sluice_block_store(sluice_sequence* sequence, uint32_t block, sluice_actor* actor,
                                 sluice_error* error) {
  if (!actor->in_step) return fail_with(error, SLUICE_WRONG_STATE, "not in a step");
  if (sequence->blocks[block]->sealed) return fail_with(error, SLUICE_WRONG_STATE, "sealed");
  return SLUICE_OK;
}

sluice_status sluice_block_stored(sluice_sequence*, uint32_t, uint32_t* stored, sluice_error*) {
  *stored = 1;
  return SLUICE_OK;
}

sluice_status sluice_seal(sluice_sequence* sequence, uint32_t block, const void* key,
                          uint32_t key_bytes, uint64_t, sluice_actor* actor,
                          sluice_seal_result* result, sluice_error* error) {
  sluice_cache& cache = *sequence->cache;
  auto& target = sequence->blocks[block];
  if (target->sealed) return fail_with(error, SLUICE_WRONG_STATE, "sealed");
  if (target->pinned) {
    if (actor == nullptr || !actor->in_step)
      return fail_with(error, SLUICE_WRONG_STATE, "not in a step");
    for (std::uint32_t page = 0; page < cache.pages_per_block; ++page) {
      std::memcpy(target->frame.data() + page * cache.page_bytes, cache.slot(target->slot_of[page]),
                  cache.page_bytes);
    }
    cache.unpin(*target);
  }
  if (++counted.seals == settings().faults.corrupt_seal) target->frame[17] ^= std::byte{1};
  const std::string name(static_cast<const char*>(key), key_bytes);
  const auto [entry, is_new] = cache.known.emplace(name, target);
  result->deduplicated = is_new ? 0 : 1;
  if (is_new) {
    target->sealed = true;
    target->key = name;
  } else {
    drop(cache, target);
    target = entry->second;
  }
  return SLUICE_OK;
}

sluice_status sluice_actor_open(sluice_cache* cache, sluice_actor** out, sluice_error*) {
  *out = new sluice_actor{cache, false};
  return SLUICE_OK;
}
sluice_status sluice_actor_close(sluice_actor* actor, sluice_error*) {
  delete actor;
  return SLUICE_OK;
}
sluice_status sluice_step_begin(sluice_actor* actor, sluice_error* error) {
  if (actor->in_step) return fail_with(error, SLUICE_WRONG_STATE, "in a step");
  actor->in_step = true;
  ++actor->cache->clock;
  return SLUICE_OK;
}
sluice_status sluice_step_end(sluice_actor* actor, sluice_error* error) {
  if (!actor->in_step) return fail_with(error, SLUICE_WRONG_STATE, "not in a step");
  actor->in_step = false;
  return SLUICE_OK;
}

sluice_status sluice_resolve(sluice_actor* actor, const sluice_page_list* lists, size_t list_count,
                             sluice_resolve_counts* counts, sluice_error* error) {
  sluice_cache& cache = *actor->cache;
  const Faults& faults = settings().faults;
  *counts = {};
  ++counted.resolves;
  if (!actor->in_step) return fail_with(error, SLUICE_WRONG_STATE, "not in a step");
  if (counted.resolves == faults.fail_resolve)
    return fail_with(error, SLUICE_INTERNAL, "asked to fail");
  if (counted.resolves == faults.lie_in_counts) ++counts->hits;
  for (std::size_t l = 0; l < list_count; ++l) {
    const sluice_page_list& list = lists[l];
    for (std::uint32_t i = 0; i < list.count; ++i) {
      const auto& block = list.sequence->blocks.at(list.blocks[i]);
      std::int32_t slot = block->slot_of[list.page];
      std::uint8_t outcome = SLUICE_HIT;
      if (slot >= 0) {
        cache.touch(static_cast<std::uint32_t>(slot));
      } else if (!block->sealed) {
        outcome = SLUICE_ABSENT;
      } else if (slot = cache.claim(block, list.page); slot < 0) {
        outcome = SLUICE_NO_ROOM;
      } else {
        outcome = SLUICE_MISS;
        if (++counted.fills != faults.stale_fill) {
          std::memcpy(cache.slot(slot), block->frame.data() + list.page * cache.page_bytes,
                      cache.page_bytes);
        }
        if (counted.fills == faults.corrupt_fill)
          cache.slot(slot)[cache.page_bytes - 1] ^= std::byte{128};
        counts->bytes_filled += cache.page_bytes;
      }
      counts->hits += outcome == SLUICE_HIT ? 1 : 0;
      counts->misses += outcome == SLUICE_MISS ? 1 : 0;
      counts->no_slot += outcome == SLUICE_NO_ROOM ? 1 : 0;
      counts->absent += outcome == SLUICE_ABSENT ? 1 : 0;
      if (++counted.answers == faults.wrong_slot && slot >= 0) {
        slot = slot == 0 ? 1 : slot - 1;
      }
      list.slots[i] = slot;
      list.outcomes[i] = outcome;
    }
  }
  return SLUICE_OK;
}

sluice_status sluice_resolve_wait(sluice_actor* actor, const sluice_page_list* lists,
                                  size_t list_count, uint64_t, sluice_resolve_counts* counts,
                                  sluice_error* error) {
  return sluice_resolve(actor, lists, list_count, counts, error);
}

sluice_status sluice_forecast(sluice_actor* actor, const sluice_page_list* lists, size_t list_count,
                              uint64_t, uint32_t, sluice_error*) {
  for (std::size_t i = 0; i < list_count; ++i)
    actor->cache->stats.forecast_issued += lists[i].count;
  return SLUICE_OK;
}

sluice_status sluice_actor_set_stream(sluice_actor*, const sluice_stream*, sluice_error* error) {
  return fail_with(error, SLUICE_NOT_SUPPORTED, "there is no GPU");
}
sluice_status sluice_plan_create(sluice_actor*, const sluice_plan_desc*, sluice_plan**,
                                 sluice_error* error) {
  return fail_with(error, SLUICE_NOT_SUPPORTED, "there is no GPU");
}
sluice_status sluice_plan_launch_wait(sluice_plan*, const sluice_stream*, uint64_t, uint64_t*,
                                      sluice_error* error) {
  return fail_with(error, SLUICE_NOT_SUPPORTED, "there is no GPU");
}
sluice_status sluice_plan_launch(sluice_plan*, const sluice_stream*, sluice_error* error) {
  return fail_with(error, SLUICE_NOT_SUPPORTED, "there is no GPU");
}
void sluice_plan_destroy(sluice_plan*) {}

sluice_status sluice_admin(const sluice_connect_desc*, const char*, const char*, char**,
                           sluice_error* error) {
  return fail_with(error, SLUICE_DAEMON_AWAY, "there is no daemon");
}
void sluice_admin_free(char*) {}

}  // extern "C"
