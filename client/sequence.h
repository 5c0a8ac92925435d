// A sequence of this client: its handle, and a private copy of what its blocks are.
//
// Thread-safety: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "client/cache.h"
#include "ipc/error.h"
#include "ipc/ids.h"

namespace sluice::client::internal {

class Actor;

struct Keys {
  const std::byte* data = nullptr;
  std::uint32_t key_bytes = 0;
  std::size_t stride = 0;
  std::size_t count = 0;
};

// Blocks that one request handles; longer calls are cut into several (residency kMaxBlocksPerTurn).
inline constexpr std::uint32_t kMaxBlocksPerRequest = 1024;

class Sequence {
 public:
  static ipc::Result<std::unique_ptr<Sequence>> open(Cache& cache, const Keys& keys,
                                                     std::uint32_t& matched);
  ~Sequence();

  ipc::Result<std::uint32_t> extend(std::uint32_t count);
  // On a GPU, `actor` is in a step if there are pinned blocks.
  ipc::Result<std::unique_ptr<Sequence>> fork(Actor* actor);
  ipc::Status truncate(std::uint32_t count);
  ipc::Status release();

  // An earlier request got no answer in time, so the daemon may have more or fewer blocks than we
  // know: everything but release() is refused.
  ipc::Status check() const;

  // The frame of a private block.
  ipc::Result<std::span<std::byte>> map(std::uint32_t index);
  // Pinned slots of a private block; takes what its frame holds along, if something was written
  // there.
  ipc::Status pin(std::uint32_t index, Actor& actor, std::int32_t* slots);
  // Whether the key was known.
  ipc::Result<bool> seal(std::uint32_t index, std::span<const std::byte> key,
                         std::uint64_t valid_bytes, Actor* actor);

  Cache& cache() const { return cache_; }
  std::uint64_t handle() const { return handle_; }
  std::uint32_t blocks() const { return static_cast<std::uint32_t>(blocks_.size()); }
  std::uint32_t sealed() const { return sealed_; }

  // The number of the sequence's row in device memory, made by the first call and kept up to date
  // from then on. Errors: not_supported (host backend), limit_reached, no_memory, io_error.
  ipc::Result<std::uint32_t> row();

  // For resolve: the attached id of a block, and its pinned slots (nullptr: it has none).
  std::uint32_t id(std::uint32_t block) const { return ids_[block]; }
  const std::vector<std::int32_t>* pinned(std::uint32_t block) const;
  bool has_pins() const { return !pins_.empty(); }

 private:
  struct Block {
    std::uint32_t frame = 0;
    bool sealed = false;
    bool in_frame = false;  // private: the engine has had its frame, so that bytes may be there
  };

  explicit Sequence(Cache& cache) : cache_(cache) { ++cache.users(); }
  ipc::Result<std::uint32_t> match(const Keys& keys, std::size_t first, std::uint32_t count);
  ipc::Result<Channel::Answer> request(Channel::Request request, ipc::RequestPiece memory);
  ipc::Result<Channel::Answer> request_fork();
  void append(std::uint32_t id, const Block& block);
  ipc::Result<Block*> private_block(std::uint32_t block);
  // Copies a block's bytes between its pinned slots and its frame. `actor`: on a GPU only.
  ipc::Status copy_to_frame(const std::vector<std::int32_t>& slots, std::uint32_t frame,
                            Actor* actor) const;
  ipc::Status copy_to_slots(const std::vector<std::int32_t>& slots, std::uint32_t frame,
                            Actor& actor) const;
  ipc::Status check_actor(std::uint32_t block, const Actor* actor, const char* what) const;
  // Writes the ids from block `first` on to the row, if there is one.
  ipc::Status update_row(std::uint32_t first);

  Cache& cache_;
  std::uint64_t handle_ = 0;
  std::vector<std::uint32_t>
      ids_;                    // attached ids, alone and dense: every page of a resolve reads one
  std::vector<Block> blocks_;  // of the same length
  std::unordered_map<std::uint32_t, std::vector<std::int32_t>> pins_;  // by block index
  std::uint32_t sealed_ = 0;
  std::optional<std::uint32_t> row_;
  bool unanswered_ = false;  // see check()
};

}  // namespace sluice::client::internal
