// A sequence of this client: its handle, and a private copy of what its blocks are.
//
// That copy is what counts when the daemon dies and comes back: the sequence is then adopted with
// just these blocks. What a request changes it changes in the copy when it is answered, so that one
// whose answer was lost is made again, or given up, by leaving the copy as it was:
// - open, extend and fork are made again (or an extend is served from the stock); what the first
// had given is not adopted.
// - truncate and release are done: what was cut off, or let go, is not adopted.
// - seal is made again; with the same key it changes nothing where it was done. If the key was
// known
//   then, the block is not ours any more, and the resume puts the known one in its place.
//
// Thread-safety: one thread at a time, and beside it the one that resumes. That one finds ids_,
// blocks_ and seals_ at rest: they change inside the gate only, or under mutex_. It writes handle_,
// frames of sealed blocks, and what it leaves to the sequence's own thread; see told_.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "client/cache.h"
#include "client/enqueued.h"
#include "client/put_off_seals.h"
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

  // Refuses everything but release() when an earlier request got no answer in time, so that the
  // daemon may have more or fewer blocks than we know, and when a daemon came back without these.
  ipc::Status check() {
    const bool plain = !unanswered_ && told_.load(std::memory_order_acquire) == 0;
    return plain ? ipc::Status() : check_what_was_told();
  }

  // Seals that were put off while the daemon was away, as far as they can be done now: on a GPU, in
  // a step of `actor`, and otherwise those of pinned blocks. Errors: what the daemon answered,
  // once; the block is private then.
  ipc::Status settle(Actor* actor) {
    return seals_.empty() ? ipc::Status() : settle_seals(actor, false);
  }

  // The frame of a private block.
  ipc::Result<std::span<std::byte>> map(std::uint32_t index);
  // Pinned slots of a private block; takes what its frame holds along, if something was written
  // there.
  ipc::Status pin(std::uint32_t index, Actor& actor, std::int32_t* slots);
  // Begins to copy what is in the pinned slots of a private block to its frame; a seal then waits
  // for no more than that.
  ipc::Status store(std::uint32_t index, Actor* actor);
  // Whether the bytes of a block are in its frame.
  ipc::Result<bool> stored(std::uint32_t index);
  // Whether the key was known.
  ipc::Result<bool> seal(std::uint32_t index, std::span<const std::byte> key,
                         std::uint64_t valid_bytes, Actor* actor);

  // ---- of a resume

  // Adopts its blocks. Errors: the link broke. Anything else loses the sequence.
  ipc::Status resume(Link& link);
  void lose(ipc::Error why);

  Cache& cache() const { return cache_; }
  std::uint64_t handle() const { return handle_; }  // inside the gate
  std::uint32_t blocks() const { return static_cast<std::uint32_t>(blocks_.size()); }
  std::uint32_t sealed() const { return sealed_; }
  // Blocks whose seals were put off; they are not counted as sealed.
  std::uint32_t to_be_sealed() const { return seals_.promised(); }

  // The number of the sequence's row in device memory, made by the first call and kept up to date
  // from then on. Errors: not_supported (host backend), limit_reached, no_memory, io_error.
  ipc::Result<std::uint32_t> row();

  std::uint32_t frame(std::uint32_t block) const { return blocks_[block].frame; }
  // For resolve: the attached id of a block, and its pinned slots (nullptr: it has none).
  std::uint32_t id(std::uint32_t block) const { return ids_[block]; }
  const std::vector<std::int32_t>* pinned(std::uint32_t block) const;
  bool has_pins() const { return !pins_.empty(); }

 private:
  struct Block {
    std::uint32_t frame = 0;
    bool sealed = false;
    bool in_frame = false;  // private: the engine has had its frame, so that bytes may be there
    bool exposed = false;   // private: resolves find it, so its bytes are what they are
    bool uncopied = false;  // pinned: its slots do not have what its frame has yet
  };

  // Slots that are pinned for the pages of a private block.
  struct Pins {
    std::vector<std::int32_t> slots;
    bool stored = false;  // what is in them is in the frame when `store` has passed
    Pending store;        // the last one
  };

  // A block that the resume put in the place of one.
  struct Replaced {
    std::uint32_t index = 0;
    std::uint32_t id = 0;
    std::uint32_t frame = 0;
  };

  friend class Stock;
  struct Hidden {};  // nobody's user of the cache

  explicit Sequence(Cache& cache) : cache_(cache) { ++cache.users(); }
  Sequence(Cache& cache, Hidden /*hidden*/) : cache_(cache), hidden_(true) {}
  // Where requests begin. Errors: those of Gate::enter() and check().
  ipc::Result<Gate::Stay> enter(ipc::Deadline deadline, Gate::Needs needs);
  // One request; notes if it is not answered in time.
  ipc::Result<Channel::Answer> call(Link& link, const Channel::Request& request,
                                    ipc::RequestPiece memory);
  ipc::Status match_all(Link& link, const Keys& keys, std::uint32_t& matched);
  ipc::Result<std::uint32_t> match(Link& link, const Keys& keys, std::size_t first,
                                   std::uint32_t count);
  ipc::Status extend_on(Link& link, std::uint32_t count, ipc::Deadline deadline);
  ipc::Status extend_with_stock(Link& link, std::uint32_t count, ipc::Deadline deadline);
  // The row is told of the blocks from `first` on.
  ipc::Result<std::uint32_t> updated(std::uint32_t first);
  ipc::Status truncate_on(Link& link, std::uint32_t count);
  ipc::Status release_on(Link& link);
  ipc::Result<Channel::Answer> request_fork(Link& link, ipc::Deadline deadline);
  ipc::Result<std::unique_ptr<Sequence>> fork_on(Link& link, ipc::Deadline deadline,
                                                 std::vector<std::uint32_t>& copies);
  ipc::Result<Pending> copy_to_child(Sequence& child, std::uint32_t block, Actor* actor);
  ipc::Status copy_all_to_child(Sequence& child, std::span<const std::uint32_t> blocks,
                                Actor* actor);
  ipc::Result<bool> seal_on(Link& link, const Seal& seal, Actor* actor);
  ipc::Result<bool> try_seal(const Seal& wanted, Actor* actor);
  // `last`: nobody names the sequence to a device any more.
  ipc::Status settle_seals(Actor* actor, bool last);
  // Has resolves, and plans, find a block whose seal is put off. Errors: io_error.
  ipc::Status expose(const Seal& seal, Actor* actor);
  ipc::Status expose_promised();
  void append(std::uint32_t id, const Block& block);
  void cut(std::uint32_t count);
  void be_registered();
  void be_forgotten();
  ipc::Result<Block*> private_block(std::uint32_t block);
  // See Actor; `actor` is needed on a GPU only.
  ipc::Result<Pending> copy_to_frame(std::uint32_t block, const Sequence& to, Actor* actor) const;
  ipc::Status copy_to_slots(std::uint32_t block, Actor& actor) const;
  ipc::Status check_actor(std::uint32_t block, const Actor* actor, const char* what) const;
  ipc::Status store_pins(std::uint32_t index, Pins& pins, Actor* actor);
  // The pages of these pins are ordinary ones from now on.
  ipc::Status unpin(std::uint32_t index, Actor* actor);
  // To enqueue what uses the block's frame, on a GPU, and note it: whoever loses the sequence waits
  // for that, or comes first.
  ipc::Result<std::unique_lock<std::mutex>> lock_to_enqueue(std::uint32_t block);
  void note_in_stream(const Pending& pending);  // under mutex_
  // Waits until no stream uses ids and frames of the sequence, before somebody else may get them:
  // by stores, and by what turns pins into pages.
  void wait_for_streams();
  // Writes the ids from block `first` on to the row, if there is one.
  ipc::Status update_row(std::uint32_t first);

  ipc::Status check_what_was_told();
  void take_replaced();  // under mutex_

  // ---- of a resume; see sequence_resume.cpp

  struct Adoption;
  ipc::Status adopt(Link& link, Adoption& adoption);
  ipc::Status adopt_part(Link& link, Adoption& adoption, std::size_t first, std::size_t count);
  ipc::Result<bool> replace_known(Link& link, Adoption& adoption, std::size_t first,
                                  std::size_t count);
  ipc::Status take_adopted(const Adoption& adoption);

  Cache& cache_;
  const bool hidden_ = false;
  std::uint64_t handle_ = 0;
  std::vector<std::uint32_t>
      ids_;                    // attached ids, alone and dense: every page of a resolve reads one
  std::vector<Block> blocks_;  // of the same length
  std::unordered_map<std::uint32_t, Pins> pins_;  // by block index
  std::uint32_t sealed_ = 0;
  std::optional<std::uint32_t> row_;
  PutOffSeals seals_;
  bool unanswered_ = false;  // see check()
  bool registered_ = false;  // with the cache, so that a resume adopts it

  // What a resume leaves for the sequence's thread, which looks here before it uses a block: it is
  // there before the daemon gives up what the blocks were, so that no later step misses it.
  static constexpr std::uint8_t kToldReplaced = 1;
  static constexpr std::uint8_t kToldLost = 2;
  std::atomic<std::uint8_t> told_{0};
  std::mutex mutex_;  // of the following, of row_, and see above
  std::vector<Replaced> replaced_;
  std::vector<Pending> in_streams_;  // that may be under way
  ipc::Error lost_why_{ipc::Errc::ok, {}};
};

}  // namespace sluice::client::internal
