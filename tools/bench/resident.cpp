#include "tools/bench/resident.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace sluice::tools {
namespace {

using ipc::Errc;
using ipc::fail;

ipc::Status checked(sluice_status status, const sluice_error& error) {
  if (status == SLUICE_OK) return {};
  return std::unexpected(to_ipc(status, error));
}

}  // namespace

void RandomLists::draw(Random& random, std::uint32_t lists, std::uint32_t pages_per_block,
                       std::uint32_t block_count) {
  pages.resize(lists);
  blocks.resize(std::size_t{lists} * kListPages);
  for (std::uint32_t& page : pages) page = below(random, pages_per_block);
  for (std::uint32_t& block : blocks) block = below(random, block_count);
}

ipc::Result<std::unique_ptr<Resident>> Resident::make(const Setting& setting, const char* name,
                                                      std::uint32_t pages,
                                                      std::uint32_t pages_per_block,
                                                      sluice_executor executor) {
  const auto wanted = static_cast<std::uint32_t>(pages * setting.scale) / pages_per_block;
  CacheSpec spec{.name = name, .layers = pages_per_block, .head_dim = 1, .block_tokens = 16};
  spec.blocks = std::max(wanted, RandomLists::kListPages / pages_per_block + 1);
  spec.slots = spec.blocks * pages_per_block;
  spec.slots += spec.slots / 16;  // to have free ones to the last
  auto node = Node::open(setting, spec);
  if (!node) return std::unexpected(std::move(node.error()));
  std::unique_ptr<Resident> made(new Resident(std::move(*node)));
  made->blocks_ = spec.blocks;
  made->pages_per_block_ = pages_per_block;
  made->slots_.resize(RandomLists::kListPages);
  auto cache = made->node_.open_cache(spec, executor);
  if (!cache) return std::unexpected(std::move(cache.error()));
  made->cache_.emplace(std::move(*cache));
  auto opened = to_ipc(made->cache_->open_sequence({nullptr, sizeof(Key), 0, 0}));
  if (!opened) return std::unexpected(std::move(opened.error()));
  made->sequence_.emplace(std::move(opened->sequence));
  if (auto ok = append_sealed(*made->sequence_, 0, spec.blocks); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  auto actor = to_ipc(made->cache_->open_actor());
  if (!actor) return std::unexpected(std::move(actor.error()));
  made->actor_.emplace(std::move(*actor));
  if (auto ok = made->bring_in(); !ok) return std::unexpected(std::move(ok.error()));
  return made;
}

ipc::Status Resident::bring_in() {
  std::vector<std::uint32_t> order(pages());
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::shuffle(order, random_);
  std::vector<std::uint32_t> blocks(RandomLists::kListPages);
  std::vector<client::PageList> lists;
  for (std::size_t at = 0; at < order.size();) {
    const std::size_t some = std::min<std::size_t>(order.size() - at, RandomLists::kListPages);
    lists.clear();
    for (std::size_t i = 0; i < some; ++i) {
      blocks[i] = order[at + i] / pages_per_block_;
      lists.push_back(
          {sequence_->get(), order[at + i] % pages_per_block_, 1, &blocks[i], &slots_[i], nullptr});
    }
    if (auto ok = begin_step(); !ok) return ok;
    auto counts = to_ipc(actor_->resolve(lists));
    if (!counts) return std::unexpected(std::move(counts.error()));
    if (counts->misses != some) {
      return fail(Errc::no_slot, "only " + std::to_string(counts->misses) + " of " +
                                     std::to_string(some) +
                                     " pages were brought in: the arena is too small");
    }
    if (auto ok = end_step(); !ok) return ok;
    at += some;
  }
  return {};
}

ipc::Status Resident::begin_step() {
  sluice_error error;
  return checked(sluice_step_begin(actor_->get(), &error), error);
}

ipc::Status Resident::end_step() {
  sluice_error error;
  return checked(sluice_step_end(actor_->get(), &error), error);
}

ipc::Status Resident::resolve_one(const RandomLists& lists, std::uint32_t i) {
  const client::PageList list{
      sequence_->get(),        lists.pages[i],
      RandomLists::kListPages, &lists.blocks[std::size_t{i} * RandomLists::kListPages],
      slots_.data(),           nullptr};
  sluice_error error;
  sluice_resolve_counts counts;
  if (auto ok = checked(sluice_resolve(actor_->get(), &list, 1, &counts, &error), error); !ok) {
    return ok;
  }
  if (counts.hits == RandomLists::kListPages) return {};
  return fail(Errc::wrong_state, std::to_string(RandomLists::kListPages - counts.hits) +
                                     " pages of a list were not resident: somebody else uses the "
                                     "cache, or its arena was called back");
}

ipc::Status Resident::resolve(const RandomLists& lists, std::uint32_t first, std::uint32_t end) {
  for (std::uint32_t i = first; i < end; ++i) {
    if (auto ok = resolve_one(lists, i); !ok) return ok;
  }
  return {};
}

ipc::Status Resident::resolve_in_steps(const RandomLists& lists, std::uint32_t first,
                                       std::uint32_t end) {
  for (std::uint32_t i = first; i < end; ++i) {
    if (auto ok = begin_step(); !ok) return ok;
    if (auto ok = resolve_one(lists, i); !ok) return ok;
    if (auto ok = end_step(); !ok) return ok;
  }
  return {};
}

}  // namespace sluice::tools
