#include "client/cuda/block_work.h"

#include "client/client.h"

namespace sluice::client::internal::cuda {

namespace {

// That are made at a time, since memory is pinned by whole pages.
constexpr std::size_t kWorksPerSlab = 16;
constexpr std::size_t kCacheLine = 64;

constexpr std::size_t round_up(std::size_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

}  // namespace

// ---- BlockWork

ipc::Result<bool> BlockWork::passed() const {
  const CurrentBesideCaptures current(context_);
  return event_.passed();
}

ipc::Status BlockWork::wait() const {
  const CurrentBesideCaptures current(context_);
  return event_.wait();
}

// ---- BlockWorks

ipc::Result<std::unique_ptr<BlockWorks>> BlockWorks::make(const Client& client,
                                                          const Context& context,
                                                          std::uint32_t pages_per_block) {
  std::unique_ptr<BlockWorks> works(new BlockWorks(client, context, pages_per_block));
  if (auto ok = works->make_some(); !ok) return std::unexpected(ok.error());
  return works;
}

ipc::Status BlockWorks::make_some() {
  const CurrentBesideCaptures current(context_);
  const std::size_t stride = round_up(bytes_);
  auto slab = StagingBuffer::make(kWorksPerSlab * stride);
  if (!slab) return std::unexpected(slab.error());
  slabs_.push_back(std::move(*slab));
  for (std::size_t i = 0; i < kWorksPerSlab; ++i) {
    auto event = OwnEvent::make();
    if (!event) return std::unexpected(event.error());
    auto& work =
        all_.emplace_back(context_, slabs_.back().at<std::uint32_t>(i * stride), std::move(*event));
    free_.push_back(&work);
  }
  return {};
}

// Those that came back first are the likeliest to have passed.
ipc::Result<BlockWork*> BlockWorks::free_one() {
  for (auto at = free_.begin(); at != free_.end(); ++at) {
    const auto passed = (*at)->passed();
    if (!passed) return std::unexpected(passed.error());
    if (!*passed) continue;
    BlockWork* const work = *at;
    free_.erase(at);
    return work;
  }
  return nullptr;
}

ipc::Result<std::shared_ptr<BlockWork>> BlockWorks::take() {
  BlockWork* taken = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto work = free_one();
    if (work && *work == nullptr) {
      if (auto ok = make_some(); !ok) return std::unexpected(ok.error());
      work = free_one();
    }
    if (!work) return std::unexpected(work.error());
    taken = *work;
  }
  return std::shared_ptr<BlockWork>(taken, [this](BlockWork* work) { give_back(*work); });
}

void BlockWorks::give_back(BlockWork& work) {
  if (!client_.in_owner()) return;  // a forked child's copy: the lock may be anybody's
  const std::lock_guard lock(mutex_);
  free_.push_back(&work);
}

}  // namespace sluice::client::internal::cuda
