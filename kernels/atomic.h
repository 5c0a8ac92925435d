// Atomic operations on plain integers in shared memory, by the ordering that a use needs.
//
// The only place that knows which library provides atomics: a CUDA build puts cuda::atomic_ref
// here. Every integer must be naturally aligned and is accessed by these functions only, from any
// thread of any process that maps it. All are lock-free; none waits.
#pragma once

#include <atomic>
#include <cstdint>

#include "kernels/host_device.h"

namespace sluice::kernels {

namespace detail {
template <class T>
SLUICE_HD inline std::atomic_ref<T> ref(const T* at) {
  static_assert(std::atomic_ref<T>::is_always_lock_free);
  return std::atomic_ref<T>(*const_cast<T*>(at));  // C++20 has no atomic_ref<const T>
}
}  // namespace detail

template <class T>
SLUICE_HD inline T load_relaxed(const T* at) {
  return detail::ref(at).load(std::memory_order_relaxed);
}

template <class T>
SLUICE_HD inline T load_acquire(const T* at) {
  return detail::ref(at).load(std::memory_order_acquire);
}

template <class T>
SLUICE_HD inline void store_relaxed(T* at, T value) {
  detail::ref(at).store(value, std::memory_order_relaxed);
}

template <class T>
SLUICE_HD inline void store_release(T* at, T value) {
  detail::ref(at).store(value, std::memory_order_release);
}

// Replaces `expected` by `desired`; on failure `expected` becomes what is there. Both ways acquire;
// a success also releases.
template <class T>
SLUICE_HD inline bool cas(T* at, T& expected, T desired) {
  return detail::ref(at).compare_exchange_strong(expected, desired, std::memory_order_acq_rel,
                                                 std::memory_order_acquire);
}

template <class T>
SLUICE_HD inline T exchange(T* at, T value) {
  return detail::ref(at).exchange(value, std::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_add(T* at, T value) {
  return detail::ref(at).fetch_add(value, std::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_sub(T* at, T value) {
  return detail::ref(at).fetch_sub(value, std::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_or(T* at, T value) {
  return detail::ref(at).fetch_or(value, std::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_and(T* at, T value) {
  return detail::ref(at).fetch_and(value, std::memory_order_acq_rel);
}

// Orders everything before it against everything after it, in one order with all other such fences.
// For pairs in which each side writes one thing and then reads what the other writes.
SLUICE_HD inline void fence_seq_cst() { std::atomic_thread_fence(std::memory_order_seq_cst); }

SLUICE_HD inline void prefetch(const void* at) { __builtin_prefetch(at); }

// For a line that is about to be changed.
SLUICE_HD inline void prefetch_for_write(const void* at) { __builtin_prefetch(at, 1); }

}  // namespace sluice::kernels
