#include "tests/crash/session.h"

#include <utility>

namespace sluice::crash {

void raise(const client::Error& error, const char* call) {
  const std::string text =
      std::string(call) + ": " + sluice_status_name(error.code) + ": " + error.text;
  switch (error.code) {
    case SLUICE_DAEMON_AWAY:
    case SLUICE_SHUTTING_DOWN:
    case SLUICE_TIMED_OUT:
    case SLUICE_STALE_HANDLE:  // of a session that is over, as is the next
    case SLUICE_WRONG_STATE:
      throw Over{text};
    case SLUICE_NO_MEMORY:
    case SLUICE_NO_SLOT:
    case SLUICE_BUSY:
    case SLUICE_LIMIT_REACHED:
    case SLUICE_QUOTA_EXCEEDED:
      throw Refused{text};
    default:
      throw Broken{text};
  }
}

namespace {

std::string name_of(std::uint32_t model) {
  return (model < kModels ? "m" : "s") + std::to_string(model);
}

client::Cache open_cache(client::Client& client, const Engine& engine, const std::string& name) {
  return get(client.open_cache(layout_of(name.c_str(), engine.executor)), "cache_open");
}

}  // namespace

OpenCache::OpenCache(client::Client& client, const Engine& engine, std::uint32_t model)
    : model_(model),
      name_(name_of(model)),
      cache_(open_cache(client, engine, name_)),
      actor_(get(cache_.open_actor(), "actor_open")),
      info_(get(cache_.info(), "cache_get_info")),
      arena_(get(cache_.arena(), "cache_arena")) {}

std::span<std::byte> OpenCache::slot(std::int32_t number) const {
  return {
      static_cast<std::byte*>(arena_.base) + static_cast<std::size_t>(number) * info_.page_bytes,
      info_.page_bytes};
}

OpenCache::Opened OpenCache::open_chain(BlockName chain, std::uint32_t blocks) {
  std::string keys;
  for (chain.block = 0; chain.block < blocks; ++chain.block) {
    const KeyBytes key = key_of(chain);
    keys.append(key.data(), key.size());
  }
  sluice_keys wanted{};
  wanted.data = keys.data();
  wanted.key_bytes = kKeyBytes;
  wanted.count = blocks;
  auto opened = get(cache_.open_sequence(wanted), "sequence_open");
  return {std::move(opened.sequence), opened.matched_blocks};
}

client::Sequence OpenCache::open_empty() {
  return std::move(get(cache_.open_sequence({}), "sequence_open").sequence);
}

Looked look_at(OpenCache& cache, const client::Sequence& sequence, BlockName chain,
               std::uint32_t blocks, std::uint64_t wait_us, const std::function<bool()>& hold) {
  const std::uint32_t pages = cache.info().pages_per_block;
  const std::size_t page_bytes = cache.info().page_bytes;
  std::vector<std::uint32_t> indices(blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) indices[i] = i;
  std::vector<std::int32_t> slots(std::size_t{blocks} * pages, -1);
  std::vector<std::uint8_t> outcomes(slots.size(), 0);
  std::vector<sluice_page_list> lists;
  lists.reserve(pages);
  for (std::uint32_t page = 0; page < pages; ++page) {
    lists.push_back({sequence.get(), page, blocks, indices.data(), slots.data() + page * blocks,
                     outcomes.data() + page * blocks});
  }
  get(cache.actor().begin_step(), "step_begin");
  if (wait_us == 0) {
    get(cache.actor().resolve(lists), "resolve");
  } else {
    get(cache.actor().resolve_wait(lists, wait_us), "resolve_wait");
  }
  Looked looked;
  bool first = true;
  do {
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (first && outcomes[i] == SLUICE_LOST) ++looked.lost;
      if (slots[i] < 0) continue;
      chain.block = static_cast<std::uint32_t>(i % blocks);
      const std::size_t page = i / blocks;
      if (first) ++looked.pages;
      if (wrong_words(cache.slot(slots[i]), seed_of(chain), page * page_bytes) == 0) continue;
      throw Broken{"wrong bytes in page " + std::to_string(page) + " of key " +
                       key_of(chain).data() + (first ? ", as resolved" : ", later in the step"),
                   true};
    }
    first = false;
  } while (hold && hold());
  get(cache.actor().end_step(), "step_end");
  return looked;
}

}  // namespace sluice::crash
