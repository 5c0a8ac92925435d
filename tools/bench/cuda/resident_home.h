// All KV in HBM: blocks in order of sequences, a block's pages in order of layers, and lists that
// name slots.
//
// Thread-safety: as kv_home.h.
#pragma once

#include <cstdint>

#include "tools/bench/cuda/kv_home.h"

namespace sluice::tools::cuda {

class ResidentHome final : public KvHome {
 public:
  // `sequences`: the first ones of the access. `folded`: where not all blocks fit, a page lies
  // where its place in its list says, so that a step reads as many distinct bytes as it would.
  static ipc::Result<ResidentHome> make(const DecodeAccess& access, std::uint32_t sequences,
                                        std::uint32_t steps, bool folded);
  // Of HBM.
  static std::uint64_t bytes(const DecodeAccess& access, std::uint32_t sequences, bool folded);

  DecodeLists& lists() override { return lists_; }
  const std::byte* pages() const override { return pages_.data(); }
  std::uint32_t slot_limit() const override { return slots_; }
  const std::int32_t* slots(std::uint32_t layer) const override { return lists_.items(layer); }
  // Page n of all lies in slot n.
  KnownPages known(std::uint32_t layer) const override { return {lists_.items(layer), 0, 0, 1}; }
  void fill_lists(std::uint32_t first_step) override;
  ipc::Status enqueue_resolve(std::uint32_t) override { return {}; }
  ipc::Status enqueue_forecast(std::uint32_t) override { return {}; }
  ipc::Status enqueue_join() override { return {}; }
  ipc::Status enqueue_tally() override { return {}; }

 private:
  explicit ResidentHome(const DecodeAccess& access) : access_(access) {}

  const DecodeAccess& access_;
  bool folded_ = false;
  std::uint32_t slots_ = 0;
  DecodeLists lists_;
  DeviceArray<std::byte> pages_;
};

}  // namespace sluice::tools::cuda
