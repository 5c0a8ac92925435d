// The lists of one resolve call, with room for its answers. Reused from call to call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "client/sluice.h"

namespace sluice::tools {

class PageBatch {
 public:
  void clear() {
    lists_.clear();
    pages_ = 0;
  }

  // `blocks` must outlive the call. Empty lists are left out; returns whether the list was added.
  bool add(sluice_sequence* sequence, std::uint32_t page, std::span<const std::uint32_t> blocks) {
    if (blocks.empty()) return false;
    sluice_page_list list{};
    list.sequence = sequence;
    list.page = page;
    list.count = static_cast<std::uint32_t>(blocks.size());
    list.blocks = blocks.data();
    lists_.push_back(list);
    pages_ += blocks.size();
    return true;
  }

  // Gives the lists their answers' places. After the last add().
  void place_answers() {
    constexpr std::int32_t kUntouched = -2;  // no call may leave this
    slots_.assign(pages_, kUntouched);
    outcomes_.assign(pages_, 0xFF);
    std::size_t at = 0;
    for (sluice_page_list& list : lists_) {
      list.slots = slots_.data() + at;
      list.outcomes = outcomes_.data() + at;
      at += list.count;
    }
  }

  std::span<const sluice_page_list> lists() const { return lists_; }
  std::uint64_t pages() const { return pages_; }

 private:
  std::vector<sluice_page_list> lists_;
  std::vector<std::int32_t> slots_;
  std::vector<std::uint8_t> outcomes_;
  std::uint64_t pages_ = 0;
};

}  // namespace sluice::tools
