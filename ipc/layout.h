// Layouts: the shape of one kind of layer's KV, and the sizes that follow from it.
//
// A block is `block_tokens` tokens of all layers. Bytes of a block, in a frame, are ordered
// [layer][head][plane][token][dim]; a page is a contiguous piece of that. Two sessions that open
// the same namespace must bring the same layout.
#pragma once

#include <cstdint>

#include "ipc/error.h"

namespace sluice::ipc {

enum class PageKind : std::uint8_t {
  layer = 0,  // one layer of a block, all KV heads
  head = 1,   // one (layer, KV head)
  row = 2,    // one (layer, token); needs kv_heads = planes = 1 (latent rows, as in MLA)
  block = 3,  // the whole block: engines that only reuse prefixes
};
inline constexpr int kPageKinds = 4;

struct Layout {
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;      // elements; for latent rows, bytes of a row over dtype_bytes
  std::uint32_t block_tokens = 0;  // tokens in a full block
  std::uint32_t dtype_bytes = 0;
  std::uint32_t planes = 2;  // 2: K and V; 1: one latent
  PageKind page_kind = PageKind::layer;

  friend bool operator==(const Layout&, const Layout&) = default;
};

// Bounds of a layout. A layout outside of them is refused as Errc::invalid_layout.
inline constexpr std::uint32_t kMaxLayers = 4096;
inline constexpr std::uint32_t kMaxKvHeads = 4096;
inline constexpr std::uint32_t kMaxHeadDim = 65536;
inline constexpr std::uint32_t kMaxBlockTokens = 65536;
inline constexpr std::uint32_t kMaxDtypeBytes = 16;
inline constexpr std::uint64_t kMinPageBytes = 64;
inline constexpr std::uint64_t kMaxPageBytes = std::uint64_t{1} << 30;
inline constexpr std::uint64_t kMaxBlockBytes = std::uint64_t{1} << 32;
inline constexpr std::uint64_t kFrameAlignment = 4096;
// Bytes of pinned memory that the driver maps into a GPU by a byte of its memory, in every process:
// 2 MiB per GiB, as measured.
inline constexpr std::uint64_t kPinnedPerHbmByte = 512;

// What follows from a layout. All sizes in bytes.
struct Geometry {
  std::uint64_t page_bytes = 0;
  std::uint32_t pages_per_block = 0;
  std::uint64_t block_bytes = 0;
  std::uint64_t frame_stride = 0;  // block_bytes rounded up to kFrameAlignment
  std::uint64_t token_plane_bytes =
      0;  // one token of one plane of one head: head_dim * dtype_bytes

  friend bool operator==(const Geometry&, const Geometry&) = default;
};

Result<Geometry> geometry_of(const Layout& layout);

// Bytes of an extent that holds whole items of `item_bytes`, is a multiple of `alignment` (a power
// of two), and is as large as fits into `wanted_bytes`; at least the least such multiple.
std::uint64_t extent_bytes_for(std::uint64_t item_bytes, std::uint64_t alignment,
                               std::uint64_t wanted_bytes);

}  // namespace sluice::ipc
