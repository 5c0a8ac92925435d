#include "tests/crash/board.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace sluice::crash {

Board* Board::make() {
  void* const memory =
      mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return new (memory) Board;
}

std::uint32_t Board::acknowledged(BlockName name) const {
  const std::uint32_t now = epoch();
  for (name.block = 0; name.block < kBlocksPerChain; ++name.block) {
    if (keys_[name.number()].load(std::memory_order_acquire) != now) break;
  }
  return name.block;
}

void Board::fail(const std::string& what) {
  std::uint32_t none = 0;
  if (!failed_.compare_exchange_strong(none, kWriting)) return;
  const std::size_t bytes = std::min(what.size(), text_.size() - 1);
  std::copy_n(what.begin(), bytes, text_.begin());
  failed_.store(kWritten, std::memory_order_release);
}

}  // namespace sluice::crash
