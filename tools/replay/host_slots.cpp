#include "tools/replay/payload.h"
#include "tools/replay/slot_memory.h"

namespace sluice::tools {
namespace {

class HostSlots final : public SlotMemory {
 public:
  HostSlots(const PayloadShape& shape, const sluice_arena_view& arena)
      : shape_(shape), arena_(arena) {}

  client::Status write(std::span<const SlotPage> pages) override {
    for (const SlotPage& p : pages) {
      write_page(shape_, p.seed, p.page, p.first_token, p.end_token, at(p.slot));
    }
    return {};
  }

  client::Status compare(std::span<const SlotPage> pages, Comparison& out) override {
    out.different = 0;
    out.places.clear();
    for (std::size_t i = 0; i < pages.size(); ++i) {
      const SlotPage& p = pages[i];
      const auto offset = find_difference(shape_, p.seed, p.page, p.end_token, at(p.slot));
      if (!offset) continue;
      ++out.different;
      out.places.push_back({i, *offset});
    }
    return {};
  }

 private:
  std::byte* at(std::int32_t slot) const {
    return static_cast<std::byte*>(arena_.base) +
           static_cast<std::uint64_t>(slot) * arena_.page_bytes;
  }

  const PayloadShape shape_;
  const sluice_arena_view arena_;
};

}  // namespace

std::unique_ptr<SlotMemory> make_host_slots(const PayloadShape& shape,
                                            const sluice_arena_view& arena) {
  return std::make_unique<HostSlots>(shape, arena);
}

}  // namespace sluice::tools
