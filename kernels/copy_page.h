// The one function through which page bytes move.
//
// Two actors may fill a slot with the same bytes at the same time, by design (rule 2), and nobody
// uses the bytes before the word says that they are complete. To a race detector that is a race, so
// under tsan this function, and nothing else, is not instrumented.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace sluice::kernels {

#if defined(__SANITIZE_THREAD__)
#define SLUICE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLUICE_TSAN 1
#endif
#endif

#ifdef SLUICE_TSAN
// volatile: so that the compiler does not make it a call of memcpy, which tsan would see.
__attribute__((no_sanitize("thread"), noinline)) inline void copy_page(std::byte* to,
                                                                       const std::byte* from,
                                                                       std::uint64_t bytes) {
  using Chunk [[gnu::may_alias, gnu::aligned(1)]] = std::uint64_t;
  std::uint64_t at = 0;
  for (; at + sizeof(Chunk) <= bytes; at += sizeof(Chunk)) {
    *reinterpret_cast<volatile Chunk*>(to + at) =
        *reinterpret_cast<const volatile Chunk*>(from + at);
  }
  for (; at < bytes; ++at) {
    *static_cast<volatile std::byte*>(to + at) = *static_cast<const volatile std::byte*>(from + at);
  }
}
#else
SLUICE_HD inline void copy_page(std::byte* to, const std::byte* from, std::uint64_t bytes) {
  std::memcpy(to, from, bytes);
}
#endif

}  // namespace sluice::kernels
