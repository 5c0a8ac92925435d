#include "tests/gpu/stress/documents.h"

#include <chrono>
#include <cstdio>
#include <span>
#include <thread>
#include <vector>

#include "tools/replay/payload.h"

namespace sluice::test::stress {

using client::Result;
using client::Sequence;
using client::Status;
using engines::CacheShape;

namespace {

// Of a step, while others wait for the memory that it may still read.
constexpr std::chrono::milliseconds kLongestHold{10};

// All of one length.
std::string key_of(std::uint32_t document, std::uint64_t generation, std::uint32_t block) {
  const std::uint64_t content =
      block < kPrefixBlocks ? generation / kGenerationsOfPrefix : generation;
  char text[64];
  std::snprintf(text, sizeof text, "document-%02u-%012llu-%02u", document,
                static_cast<unsigned long long>(content), block);
  return text;
}

}  // namespace

std::uint32_t Documents::below(std::uint32_t end) {
  return std::uniform_int_distribution<std::uint32_t>(0, end - 1)(random_);
}

Status Documents::release(std::uint32_t place) {
  if (!held_[place]) return {};
  Status released = held_[place]->sequence.release();
  held_[place].reset();
  return released;
}

// How much the others have sealed by now.
std::uint64_t Documents::sealed_by_all() const {
  std::uint64_t sealed = 0;
  for (const auto& process : board_.rows) {
    for (const StreamRow& row : process) sealed += row.sealed;
  }
  return sealed;
}

Status Documents::release_in_step(std::uint32_t place) {
  if (auto ok = release(place); !ok) return ok;
  ++row_.released_in_step;
  const std::uint64_t end = sealed_by_all() + kDramBlocks / 2;
  const auto deadline = std::chrono::steady_clock::now() + kLongestHold;
  while (sealed_by_all() < end && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  return {};
}

Status Documents::replace(std::uint32_t place) {
  if (auto ok = release(place); !ok) return ok;
  const std::uint32_t document = below(kDocuments);
  std::uint64_t generation = board_.generation[document];
  if (below(3) == 0) generation = ++board_.generation[document];
  std::string keys;
  for (std::uint32_t block = 0; block < kDocumentBlocks; ++block) {
    keys += key_of(document, generation, block);
  }
  const std::size_t key_bytes = keys.size() / kDocumentBlocks;
  auto opened = cache_.open_sequence(
      {keys.data(), static_cast<std::uint32_t>(key_bytes), 0, kDocumentBlocks});
  if (!opened) return std::unexpected(opened.error());
  Document next{std::move(opened->sequence), {}};
  const std::uint32_t known = opened->matched_blocks;
  if (known < kDocumentBlocks) {
    if (auto added = next.sequence.extend(kDocumentBlocks - known); !added) {
      return std::unexpected(added.error());
    }
  }
  // So that no page is absent for lack of it.
  if (auto ok = cache_.wait_pinned(engines::kTimeoutUs); !ok) return ok;
  for (std::uint32_t block = 0; block < kDocumentBlocks; ++block) {
    const std::string key = keys.substr(block * key_bytes, key_bytes);
    next.seeds[block] = tools::payload_seed(job_.tenant, key);
    if (block < known) continue;
    if (auto ok = write(next.sequence, block, key, next.seeds[block]); !ok) return ok;
  }
  held_[place].emplace(std::move(next));
  return {};
}

void Documents::count_seal(bool deduplicated) {
  ++(deduplicated ? row_.deduplicated : row_.sealed);
}

Status Documents::write(Sequence& sequence, std::uint32_t block, const std::string& key,
                        std::uint64_t seed) {
  if (actor_ != nullptr && below(4) == 0) {
    const auto done = write_pinned(sequence, block, key, seed);
    if (!done) return std::unexpected(done.error());
    if (*done) return {};
  }
  auto frame = sequence.map(block);
  if (!frame) return std::unexpected(frame.error());
  for (std::uint32_t page = 0; page < CacheShape::kPages; ++page) {
    tools::write_page(job_.shape.payload(), seed, page, 0, CacheShape::kBlockTokens,
                      frame->data() + page * job_.shape.page_bytes());
  }
  const auto sealed = sequence.seal(block, std::as_bytes(std::span(key)));
  if (!sealed) return std::unexpected(sealed.error());
  count_seal(*sealed);
  return {};
}

Result<bool> Documents::write_pinned(Sequence& sequence, std::uint32_t block,
                                     const std::string& key, std::uint64_t seed) {
  if (auto ok = actor_->begin_step(); !ok) return std::unexpected(ok.error());
  std::int32_t pins[CacheShape::kPages];
  const Status pinned = sequence.pin(block, *actor_, pins);
  if (!pinned && pinned.error().code != SLUICE_NO_SLOT) return std::unexpected(pinned.error());
  if (pinned) {
    std::vector<tools::SlotPage> pages;
    for (std::uint32_t page = 0; page < CacheShape::kPages; ++page) {
      pages.push_back({seed, pins[page], page, 0, CacheShape::kBlockTokens});
    }
    if (auto ok = slots_->write(pages); !ok) return std::unexpected(ok.error());
    if (below(2) == 0) {
      if (auto ok = sequence.store(block, *actor_); !ok) return std::unexpected(ok.error());
    }
    const auto sealed = sequence.seal(block, std::as_bytes(std::span(key)), actor_);
    if (!sealed) return std::unexpected(sealed.error());
    count_seal(*sealed);
    ++row_.sealed_pins;
  }
  if (auto ok = actor_->end_step(); !ok) return std::unexpected(ok.error());
  return pinned.has_value();
}

}  // namespace sluice::test::stress
