#include <algorithm>

#include "daemon/cache_table.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "kernels/drop.h"
#include "kernels/pins.h"
#include "kernels/steps.h"

namespace sluice::daemon {

namespace {

constexpr CacheTable::Ticket kDone = 0;

class WholeTable final : public CacheTable {
 public:
  WholeTable(const kernels::TableSizes& sizes, ipc::Fd fd)
      : sizes_(sizes),
        bytes_(kernels::table_bytes(sizes)),
        fd_(std::move(fd)),
        marks_((sizes.blocks + 63) / 64, 0) {}

  TableBytes bytes() const override { return {bytes_, 0, 0}; }
  std::vector<int> fds() const override { return {fd_.get()}; }

  ipc::Status make_piece() override {
    const std::uint64_t piece = std::min(kTablePiece, bytes_ - taken_);
    if (auto ok =
            ipc::populate_memfd(fd_.get(), kTableName, taken_, piece, ipc::HugePages::attempt);
        !ok) {
      return ok;
    }
    taken_ += piece;
    if (taken_ < bytes_) return {};
    auto mapping = ipc::Mapping::map(fd_.get(), 0, bytes_, ipc::Access::read_write, "a hot table");
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    memory_ = std::move(*mapping);
    table_ = kernels::format_table(memory_.data(), sizes_);
    return {};
  }

  ipc::Status adopt() {
    auto mapping = ipc::Mapping::map(fd_.get(), 0, bytes_, ipc::Access::read_write, "a hot table");
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    memory_ = std::move(*mapping);
    table_ = kernels::view_table(memory_.data(), sizes_);
    taken_ = bytes_;
    return {};
  }

  bool whole() const override { return static_cast<bool>(memory_); }

  bool free_piece() override {
    if (taken_ == 0) return false;
    memory_ = ipc::Mapping();
    const std::uint64_t piece = std::min(kTablePiece, taken_);
    taken_ -= piece;
    (void)ipc::vacate_memfd(fd_.get(), kTableName, taken_, piece);
    return true;
  }

  kernels::HotTable view() const override { return table_; }
  bool grace_by_log() const override { return false; }

  Ticket reset_actors(const std::vector<std::uint32_t>& actors) override {
    for (const std::uint32_t actor : actors) kernels::reset_actor(table_, actor);
    return kDone;
  }

  Ticket drop_pages(const std::vector<ipc::BlockId>& ids) override {
    kernels::drop_blocks(table_, mark(ids));
    unmark(ids);
    return kDone;
  }

  Ticket drop_pins(const std::vector<ipc::BlockId>& ids, bool sealed) override {
    const kernels::BlockSet blocks = mark(ids);
    if (sealed) {
      seal_pins(blocks);
    } else {
      kernels::drop_pins(table_, blocks);
    }
    unmark(ids);
    return kDone;
  }

  bool done(Ticket /*ticket*/) const override { return true; }

  ipc::Result<HbmResidency> scan() override {
    HbmResidency found = empty_residency(table_);
    for (std::uint32_t slot = 0; slot < sizes_.slots; ++slot) {
      count_word(found, table_, kernels::load_relaxed(&table_.words[slot]));
    }
    return found;
  }

 private:
  void seal_pins(const kernels::BlockSet& blocks) {
    const kernels::Step step = kernels::clock_of(table_);
    for (std::uint32_t i = 0; i < sizes_.slots; ++i) {
      const kernels::Word word = kernels::load_acquire(&table_.words[i]);
      const kernels::Page page = kernels::page_of(word);
      if (kernels::is_pinned(word) && page < table_.pages &&
          blocks.contains(kernels::block_of(table_, page))) {
        kernels::seal_pin(table_, static_cast<kernels::Slot>(i), page, step);
      }
    }
  }

  kernels::BlockSet mark(const std::vector<ipc::BlockId>& ids) {
    for (const ipc::BlockId id : ids) {
      marks_[id.value / 64] |= std::uint64_t{1} << (id.value % 64);
    }
    return {marks_.data(), sizes_.blocks};
  }

  void unmark(const std::vector<ipc::BlockId>& ids) {
    for (const ipc::BlockId id : ids) marks_[id.value / 64] = 0;
  }

  kernels::TableSizes sizes_;
  std::uint64_t bytes_;
  ipc::Fd fd_;
  std::uint64_t taken_ = 0;  // bytes of it that have memory
  ipc::Mapping memory_;      // once all have
  kernels::HotTable table_{};
  std::vector<std::uint64_t> marks_;  // bitmap over ids, clear between calls
};

}  // namespace

HbmResidency empty_residency(const kernels::HotTable& table) {
  HbmResidency found;
  found.pages_of_block.assign(table.sizes.blocks, 0);
  found.pinned_of_block.assign(table.sizes.blocks, 0);
  return found;
}

void count_word(HbmResidency& found, const kernels::HotTable& table, kernels::Word word) {
  const kernels::Page page = kernels::page_of(word);
  if (page >= table.pages) {
    ++found.free_slots;
    return;
  }
  const kernels::Block block = kernels::block_of(table, page);
  ++found.pages_of_block[block];
  if (kernels::is_pinned(word)) {
    ++found.pinned_of_block[block];
    ++found.pinned_pages;
  } else {
    ++found.cached_pages;
  }
}

ipc::Result<std::shared_ptr<CacheTable>> make_whole_table(const kernels::TableSizes& sizes) {
  auto fd = ipc::create_memfd(kTableName, kernels::table_bytes(sizes), ipc::Populate::no);
  if (!fd) return std::unexpected(std::move(fd.error()));
  return std::make_shared<WholeTable>(sizes, std::move(*fd));
}

ipc::Result<std::shared_ptr<CacheTable>> adopt_whole_table(const kernels::TableSizes& sizes,
                                                           ipc::Fd fd) {
  if (auto ok = ipc::check_memfd(fd.get(), kernels::table_bytes(sizes), kTableName); !ok) {
    return ipc::fail(ipc::Errc::invalid_argument, std::move(ok.error().text));
  }
  auto table = std::make_shared<WholeTable>(sizes, std::move(fd));
  if (auto ok = table->adopt(); !ok) return std::unexpected(std::move(ok.error()));
  return table;
}

}  // namespace sluice::daemon
