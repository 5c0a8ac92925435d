// The example of the README: a small engine that prefills a prompt, decodes a token, and finds its
// prompt again. Run it with the path of a daemon's socket.
#include <array>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "client/sluice.hpp"

using namespace sluice::client;

// Stops the program with the library's own words.
template <class T>
T need(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "%s: %s\n", sluice_status_name(result.error().code),
                 result.error().text.c_str());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

std::string key_of(int block) { return "prompt-block-" + std::to_string(1000 + block); }

int main(int argc, char** argv) {
  sluice_connect_desc where = SLUICE_CONNECT_DESC_INIT;
  if (argc > 1) where.socket_path = argv[1];
  const bool direct = argc > 2 && std::strcmp(argv[2], "direct") == 0;
  Client client = need(Client::connect(where));

  sluice_cache_desc model = SLUICE_CACHE_DESC_INIT;
  model.model = "example-1b";
  model.layers = 4;
  model.kv_heads = 2;
  model.head_dim = 64;
  model.block_tokens = 16;
  model.dtype_bytes = 2;
  model.page_kind = SLUICE_PAGE_LAYER;
  model.executor = direct ? SLUICE_EXECUTOR_DIRECT : SLUICE_EXECUTOR_DAEMON;
  model.hbm_bytes = 16 << 20;
  Cache cache = need(client.open_cache(model));
  const sluice_cache_info info = need(cache.info());
  const sluice_arena_view arena = need(cache.arena());

  // A prompt of three blocks: nothing of it is known yet, or all of it.
  const std::vector<std::string> names = {key_of(0), key_of(1), key_of(2)};
  std::string keys;
  for (const std::string& name : names) keys += name;
  const auto key_bytes = static_cast<std::uint32_t>(names[0].size());
  auto [sequence, matched] = need(cache.open_sequence({keys.data(), key_bytes, 0, names.size()}));

  // Prefill what is missing: write a block's frame, then seal it under its key.
  if (matched < names.size()) {
    const std::uint32_t first =
        need(sequence.extend(static_cast<std::uint32_t>(names.size()) - matched));
    for (std::uint32_t i = first; i < names.size(); ++i) {
      const std::span<std::byte> frame = need(sequence.map(i));
      std::memset(frame.data(), static_cast<int>('a' + i), frame.size());
      need(sequence.seal(i, std::as_bytes(std::span(names[i]))));
    }
  }

  // Decode: the new token's block lives in pinned slots; its pages can be read and written at once.
  Actor actor = need(cache.open_actor());
  need(actor.begin_step());
  const std::uint32_t tail = need(sequence.extend(1));
  std::vector<std::int32_t> tail_slots(info.pages_per_block);
  need(sequence.pin(tail, actor, tail_slots));

  // The selector wants blocks 0 and 2 and the tail, in layer 3.
  const std::array<std::uint32_t, 3> wanted = {0, 2, tail};
  std::array<std::int32_t, 3> slots{};
  const PageList list{sequence.get(), 3, wanted.size(), wanted.data(), slots.data(), nullptr};
  const ResolveCounts counts = need(actor.resolve({&list, 1}));
  const auto* page =
      static_cast<const char*>(arena.base) + static_cast<std::size_t>(slots[1]) * arena.page_bytes;
  std::printf("matched %u of %zu blocks; %llu hits, %llu misses; block 2 begins with '%c'\n",
              matched, names.size(), static_cast<unsigned long long>(counts.hits),
              static_cast<unsigned long long>(counts.misses), page[0]);
  need(actor.end_step());
  return page[0] == 'c' && slots[2] == tail_slots[3] ? 0 : 1;
}
