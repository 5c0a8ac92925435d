#include "tools/bench/words.h"

#include <atomic>

#include "ipc/memfd.h"

namespace sluice::tools {

ipc::Result<Words> Words::make(std::uint32_t count, Memory kind) {
  const std::uint64_t bytes = std::uint64_t{count} * sizeof(std::uint64_t);
  auto fd =
      ipc::create_memfd("sluice-bench", bytes, ipc::Populate::yes,
                        kind == Memory::plain ? ipc::HugePages::never : ipc::HugePages::attempt);
  if (!fd) return std::unexpected(std::move(fd.error()));
  auto memory =
      ipc::Mapping::map(fd->get(), 0, bytes, ipc::Access::read_write, "an array of words");
  if (!memory) return std::unexpected(std::move(memory.error()));
  Words words;
  words.memory_ = std::move(*memory);
  words.words_ = reinterpret_cast<std::uint64_t*>(words.memory_.data());
  for (std::uint32_t i = 0; i < count; ++i) words.words_[i] = i;  // every page is mapped
  return words;
}

void Words::stamp(std::span<const std::uint32_t> indices, std::uint64_t stamp) {
  for (const std::uint32_t index : indices) {
    const std::atomic_ref<std::uint64_t> word(words_[index]);
    std::uint64_t seen = word.load(std::memory_order_acquire);
    word.compare_exchange_strong(seen, (seen << 32) | stamp, std::memory_order_acq_rel);
  }
}

std::uint64_t Words::sum(std::span<const std::uint32_t> indices) const {
  std::uint64_t sum = 0;
  for (const std::uint32_t index : indices) sum += words_[index];
  return sum;
}

}  // namespace sluice::tools
