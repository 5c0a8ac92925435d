// Atomic operations on plain integers in shared memory, by the ordering that a use needs.
//
// The only place that knows which library provides atomics: std::atomic_ref on the CPU, and
// ::cuda::atomic_ref in device code, at system scope, since a table is shared between processes.
// Every integer must be naturally aligned and is accessed by these functions only, from any thread
// of any process that maps it. All are lock-free; none waits.
#pragma once

#include <atomic>
#include <cstdint>
#ifdef __CUDACC__
#include <cuda/atomic>
#endif

#include "kernels/host_device.h"

namespace sluice::kernels {

namespace detail {
#ifdef __CUDA_ARCH__
namespace mo = ::cuda::std;
template <class T>
__device__ inline ::cuda::atomic_ref<T, ::cuda::thread_scope_system> ref(const T* at) {
  return ::cuda::atomic_ref<T, ::cuda::thread_scope_system>(*const_cast<T*>(at));
}
#else
namespace mo = std;
template <class T>
SLUICE_HD inline std::atomic_ref<T> ref(const T* at) {
  static_assert(std::atomic_ref<T>::is_always_lock_free);
  return std::atomic_ref<T>(*const_cast<T*>(at));  // C++20 has no atomic_ref<const T>
}
#endif
}  // namespace detail

template <class T>
SLUICE_HD inline T load_relaxed(const T* at) {
  return detail::ref(at).load(detail::mo::memory_order_relaxed);
}

template <class T>
SLUICE_HD inline T load_acquire(const T* at) {
  return detail::ref(at).load(detail::mo::memory_order_acquire);
}

template <class T>
SLUICE_HD inline void store_relaxed(T* at, T value) {
  detail::ref(at).store(value, detail::mo::memory_order_relaxed);
}

template <class T>
SLUICE_HD inline void store_release(T* at, T value) {
  detail::ref(at).store(value, detail::mo::memory_order_release);
}

// Replaces `expected` by `desired`; on failure `expected` becomes what is there. Both ways acquire;
// a success also releases.
template <class T>
SLUICE_HD inline bool cas(T* at, T& expected, T desired) {
  return detail::ref(at).compare_exchange_strong(
      expected, desired, detail::mo::memory_order_acq_rel, detail::mo::memory_order_acquire);
}

template <class T>
SLUICE_HD inline T exchange(T* at, T value) {
  return detail::ref(at).exchange(value, detail::mo::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_add(T* at, T value) {
  return detail::ref(at).fetch_add(value, detail::mo::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_sub(T* at, T value) {
  return detail::ref(at).fetch_sub(value, detail::mo::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_or(T* at, T value) {
  return detail::ref(at).fetch_or(value, detail::mo::memory_order_acq_rel);
}

template <class T>
SLUICE_HD inline T fetch_and(T* at, T value) {
  return detail::ref(at).fetch_and(value, detail::mo::memory_order_acq_rel);
}

// Orders everything before it against everything after it, in one order with all other such fences.
// For pairs in which each side writes one thing and then reads what the other writes.
SLUICE_HD inline void fence_seq_cst() {
#ifdef __CUDA_ARCH__
  ::cuda::atomic_thread_fence(::cuda::std::memory_order_seq_cst, ::cuda::thread_scope_system);
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

#ifdef __CUDA_ARCH__
__device__ inline void prefetch(const void*) {}
__device__ inline void prefetch_for_write(const void*) {}
#else
SLUICE_HD inline void prefetch(const void* at) { __builtin_prefetch(at); }

// For a line that is about to be changed.
SLUICE_HD inline void prefetch_for_write(const void* at) { __builtin_prefetch(at, 1); }
#endif

}  // namespace sluice::kernels
