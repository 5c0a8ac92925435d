// Kernels about single blocks: the lists that they read, and the place in the stream behind them.
//
// The device reads the lists where they are, in the host's memory and in its own time, so that
// nothing that is enqueued here has to be waited for.
//
// Thread-safety: BlockWorks: any thread. BlockWork: one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "client/cuda/driver.h"
#include "client/cuda/memory.h"
#include "client/enqueued.h"

namespace sluice::client::internal {
class Client;
}

namespace sluice::client::internal::cuda {

class BlockWork final : public Enqueued {
 public:
  BlockWork(const Context& context, std::uint32_t* memory, OwnEvent event)
      : context_(context), memory_(memory), event_(std::move(event)) {}

  std::uint32_t* id() const { return memory_; }
  std::uint32_t* frame() const { return memory_ + 1; }
  std::int32_t* slots() const { return reinterpret_cast<std::int32_t*>(memory_ + 2); }
  static std::size_t bytes(std::size_t pages) { return (2 + pages) * sizeof(std::uint32_t); }

  // It is what was enqueued in the stream until now.
  ipc::Status ends_here(cudaStream_t stream) { return event_.record(stream); }

  ipc::Result<bool> passed() const override;
  ipc::Status wait() const override;

 private:
  const Context& context_;
  std::uint32_t* memory_;
  OwnEvent event_;
};

// Those of a cache, which are used again: there are as many as blocks were in work at once.
class BlockWorks {
 public:
  // Both outlive what is taken. Errors: no_memory, io_error.
  static ipc::Result<std::unique_ptr<BlockWorks>> make(const Client& client, const Context& context,
                                                       std::uint32_t pages_per_block);

  // One whose lists nobody reads. It comes back by itself. Errors: no_memory, io_error.
  ipc::Result<std::shared_ptr<BlockWork>> take();

 private:
  BlockWorks(const Client& client, const Context& context, std::uint32_t pages_per_block)
      : client_(client), context_(context), bytes_(BlockWork::bytes(pages_per_block)) {}
  ipc::Status make_some();
  ipc::Result<BlockWork*> free_one();
  void give_back(BlockWork& work);

  const Client& client_;
  const Context& context_;
  const std::size_t bytes_;
  std::mutex mutex_;  // of the following
  std::vector<StagingBuffer> slabs_;
  std::deque<BlockWork> all_;
  std::deque<BlockWork*> free_;  // whose launches may be under way still
};

}  // namespace sluice::client::internal::cuda
