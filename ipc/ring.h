// A bounded single-producer single-consumer ring over shared memory.
//
// The two ends live in processes that do not trust each other. Capacity and addresses come from
// private memory (RingView); each end keeps its own cursor in private memory, publishes it, and
// checks the other's before use. A peer that publishes an impossible cursor makes the call return
// Errc::peer_violation, now and ever after; it can never make us read or write out of bounds.
// Descriptors are copied by value, each word exactly once, so that the peer cannot change one after
// it was validated.
//
// Cursors are u32 and run freely; the slot of a cursor is its value modulo the capacity, a power of
// two.
//
// Sleeping. No lock lives in shared memory. A consumer that wants to sleep calls
// prepare_to_sleep(), which stores need_wakeup = 1 and then reads the producer's cursor; a
// producer's publish() stores its cursor and then reads need_wakeup. All four are sequentially
// consistent, so they have one order: either the consumer's read comes after the producer's store
// and sees the descriptors (and it does not sleep), or it comes before, and then the producer's
// read comes after the consumer's store and sees 1 (and it rings the bell). The producer takes the
// 1 back as it reads it, so a sleep costs one ring of the bell. A bell that rings late or twice
// only makes the consumer look again. tests/ipc/models/wakeups.pml checks all of this.
//
// The client keeps at most `capacity` requests between push() into the submission ring and next()
// from the completion ring. So an honest client's completion ring is never full when the daemon
// pushes.
//
// Thread-safety: one thread at a time per end.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>

#include "ipc/error.h"

namespace sluice::ipc {

inline constexpr std::uint32_t kMinRingCapacity = 2;
inline constexpr std::uint32_t kMaxRingCapacity = 4096;
inline constexpr std::size_t kCacheLineBytes = 64;

// The shared words of a ring, each on a cache line of its own.
struct RingControl {
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> tail;  // descriptors ever produced
  alignas(kCacheLineBytes) std::atomic<std::uint32_t> head;  // descriptors ever consumed
  alignas(kCacheLineBytes)
      std::atomic<std::uint32_t> need_wakeup;  // 1: the consumer sleeps, or is about to
};
static_assert(sizeof(RingControl) == 3 * kCacheLineBytes);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

template <class Descriptor>
concept RingDescriptor = std::is_trivially_copyable_v<Descriptor> && sizeof(Descriptor) % 8 == 0;

// Bytes of a slot: a power of two, so that no descriptor lies across two cache lines.
template <RingDescriptor Descriptor>
inline constexpr std::size_t kSlotBytes = std::bit_ceil(sizeof(Descriptor));

// Where a ring lies, in private memory. The slots are aligned to a cache line.
struct RingView {
  RingControl* control = nullptr;
  std::byte* slots = nullptr;
  std::uint32_t capacity = 0;  // a power of two from kMinRingCapacity to kMaxRingCapacity
};

// The end that places descriptors.
template <RingDescriptor Descriptor>
class RingProducer {
 public:
  RingProducer() = default;
  // `start`: where both ends begin; 0 for new memory.
  explicit RingProducer(RingView ring, std::uint32_t start = 0);

  // Copies a descriptor into the next free slot; the consumer sees it after publish(). false: the
  // ring is full. Errors: peer_violation.
  Result<bool> push(const Descriptor& descriptor);

  // Shows all pushed descriptors to the consumer. true: the consumer sleeps, so ring its doorbell.
  [[nodiscard]] bool publish();

  // Slots that are free now. Errors: peer_violation.
  Result<std::uint32_t> free_slots();

 private:
  Status refresh_head();

  RingView ring_;
  std::uint32_t tail_ = 0;       // next to fill
  std::uint32_t published_ = 0;  // what the consumer may see
  std::uint32_t head_ = 0;       // the consumer's cursor when it was last read, validated
  bool broken_ = false;
};

// The end that takes descriptors.
template <RingDescriptor Descriptor>
class RingConsumer {
 public:
  RingConsumer() = default;
  explicit RingConsumer(RingView ring, std::uint32_t start = 0);

  // Takes the next descriptor by value and frees its slot. nullopt: the ring is empty.
  // Errors: peer_violation.
  Result<std::optional<Descriptor>> next();

  // Whether next() would give a descriptor. Errors: peer_violation.
  Result<bool> ready();

  // Asks the producer to ring the bell. true: nothing is there, sleep now. false: something is
  // there, and the request is withdrawn. After a sleep call awake(), drain the bell, and only then
  // look at the ring. Errors: peer_violation.
  Result<bool> prepare_to_sleep();
  void awake();

 private:
  Status refresh_tail(std::memory_order order);

  RingView ring_;
  std::uint32_t head_ = 0;  // next to take
  std::uint32_t tail_ = 0;  // the producer's cursor when it was last read, validated
  bool broken_ = false;
};

// ---- implementation

namespace detail {

// A cursor that no honest peer could publish. Cold, so that it stays out of the callers.
std::unexpected<Error> impossible_cursor(const char* whose, std::uint32_t cursor,
                                         std::uint32_t ours, std::uint32_t capacity);
void check_ring_view(const RingView& ring);

// Word by word with atomic accesses: the compiler may neither repeat a read nor read the slot again
// later. A descriptor that is being rewritten by a hostile peer comes out mixed, and is validated
// like any other.
template <std::size_t kBytes>
inline void copy_words_from_shared(void* to, const std::byte* from) {
  const auto* source = reinterpret_cast<const std::uint64_t*>(from);
  for (std::size_t i = 0; i < kBytes / 8; ++i) {
    const std::uint64_t word = __atomic_load_n(source + i, __ATOMIC_RELAXED);
    std::memcpy(static_cast<std::byte*>(to) + i * 8, &word, 8);
  }
}

template <std::size_t kBytes>
inline void copy_words_to_shared(std::byte* to, const void* from) {
  auto* target = reinterpret_cast<std::uint64_t*>(to);
  for (std::size_t i = 0; i < kBytes / 8; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, static_cast<const std::byte*>(from) + i * 8, 8);
    __atomic_store_n(target + i, word, __ATOMIC_RELAXED);
  }
}

}  // namespace detail

template <RingDescriptor Descriptor>
RingProducer<Descriptor>::RingProducer(RingView ring, std::uint32_t start)
    : ring_(ring), tail_(start), published_(start), head_(start) {
  detail::check_ring_view(ring);
}

template <RingDescriptor Descriptor>
Status RingProducer<Descriptor>::refresh_head() {
  const std::uint32_t head = ring_.control->head.load(std::memory_order_acquire);
  // Between what it was and what we have published; so it neither overtakes us nor goes back.
  broken_ = broken_ || head - head_ > published_ - head_;
  if (broken_) return detail::impossible_cursor("consumer", head, published_, ring_.capacity);
  head_ = head;
  return {};
}

template <RingDescriptor Descriptor>
Result<bool> RingProducer<Descriptor>::push(const Descriptor& descriptor) {
  if (broken_ || tail_ - head_ == ring_.capacity) {
    if (auto ok = refresh_head(); !ok) return std::unexpected(std::move(ok.error()));
    if (tail_ - head_ == ring_.capacity) return false;
  }
  const std::size_t slot = tail_ & (ring_.capacity - 1);
  detail::copy_words_to_shared<sizeof(Descriptor)>(ring_.slots + slot * kSlotBytes<Descriptor>,
                                                   &descriptor);
  ++tail_;
  return true;
}

template <RingDescriptor Descriptor>
bool RingProducer<Descriptor>::publish() {
  if (published_ == tail_) return false;
  published_ = tail_;
  ring_.control->tail.store(tail_, std::memory_order_seq_cst);
  if (ring_.control->need_wakeup.load(std::memory_order_seq_cst) == 0) return false;
  return ring_.control->need_wakeup.exchange(0, std::memory_order_seq_cst) != 0;
}

template <RingDescriptor Descriptor>
Result<std::uint32_t> RingProducer<Descriptor>::free_slots() {
  if (auto ok = refresh_head(); !ok) return std::unexpected(std::move(ok.error()));
  return ring_.capacity - (tail_ - head_);
}

template <RingDescriptor Descriptor>
RingConsumer<Descriptor>::RingConsumer(RingView ring, std::uint32_t start)
    : ring_(ring), head_(start), tail_(start) {
  detail::check_ring_view(ring);
}

template <RingDescriptor Descriptor>
Status RingConsumer<Descriptor>::refresh_tail(std::memory_order order) {
  const std::uint32_t tail = ring_.control->tail.load(order);
  // Between what it was and a full ring.
  broken_ = broken_ || tail - head_ > ring_.capacity || tail - head_ < tail_ - head_;
  if (broken_) return detail::impossible_cursor("producer", tail, head_, ring_.capacity);
  tail_ = tail;
  return {};
}

template <RingDescriptor Descriptor>
Result<std::optional<Descriptor>> RingConsumer<Descriptor>::next() {
  if (auto some = ready(); !some)
    return std::unexpected(std::move(some.error()));
  else if (!*some)
    return std::nullopt;
  Descriptor descriptor;
  const std::size_t slot = head_ & (ring_.capacity - 1);
  detail::copy_words_from_shared<sizeof(Descriptor)>(&descriptor,
                                                     ring_.slots + slot * kSlotBytes<Descriptor>);
  ++head_;
  ring_.control->head.store(head_, std::memory_order_release);
  return descriptor;
}

template <RingDescriptor Descriptor>
Result<bool> RingConsumer<Descriptor>::ready() {
  if (head_ == tail_ || broken_) {
    if (auto ok = refresh_tail(std::memory_order_acquire); !ok)
      return std::unexpected(std::move(ok.error()));
  }
  return head_ != tail_;
}

template <RingDescriptor Descriptor>
Result<bool> RingConsumer<Descriptor>::prepare_to_sleep() {
  ring_.control->need_wakeup.store(1, std::memory_order_seq_cst);
  if (auto ok = refresh_tail(std::memory_order_seq_cst); !ok)
    return std::unexpected(std::move(ok.error()));
  if (head_ == tail_) return true;
  awake();
  return false;
}

template <RingDescriptor Descriptor>
void RingConsumer<Descriptor>::awake() {
  ring_.control->need_wakeup.store(0, std::memory_order_relaxed);
}

}  // namespace sluice::ipc
