#include "tools/bench/cuda/resident_home.h"

#include <utility>

namespace sluice::tools::cuda {

std::uint64_t ResidentHome::bytes(const DecodeAccess& access, std::uint32_t sequences,
                                  bool folded) {
  const std::uint64_t of_layer = folded ? access.longest_list() : access.shape().blocks;
  return of_layer * sequences * access.shape().layers * kDecodePageBytes;
}

ipc::Result<ResidentHome> ResidentHome::make(const DecodeAccess& access, std::uint32_t sequences,
                                             std::uint32_t steps, bool folded) {
  ResidentHome home(access);
  home.folded_ = folded;
  const std::uint64_t bytes = ResidentHome::bytes(access, sequences, folded);
  home.slots_ = static_cast<std::uint32_t>(bytes / kDecodePageBytes);
  auto pages = DeviceArray<std::byte>::make(bytes, "all KV in HBM");
  if (!pages) return std::unexpected(std::move(pages.error()));
  home.pages_ = std::move(*pages);
  for (const int status :
       {fill_pages(home.pages_.data(), home.slots_, 0, nullptr), int{cudaDeviceSynchronize()}}) {
    if (auto ok = check(status, "filling KV in HBM"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  auto lists =
      DecodeLists::make({access.shape().layers, sequences, access.longest_list(), false}, steps);
  if (!lists) return std::unexpected(std::move(lists.error()));
  home.lists_ = std::move(*lists);
  return home;
}

void ResidentHome::fill_lists(std::uint32_t first_step) {
  const std::uint32_t layers = access_.shape().layers;
  const std::uint32_t of_sequence = folded_ ? access_.longest_list() : access_.shape().blocks;
  lists_.fill(access_, first_step,
              [=, this](std::uint32_t layer, std::uint32_t sequence, std::uint32_t block,
                        std::uint32_t place) {
                const std::uint32_t at = sequence * of_sequence + (folded_ ? place : block);
                return static_cast<std::int32_t>(at * layers + layer);
              });
}

}  // namespace sluice::tools::cuda
