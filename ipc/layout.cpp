#include "ipc/layout.h"

#include <numeric>
#include <string>

namespace sluice::ipc {
namespace {

Status check_range(const char* name, std::uint64_t value, std::uint64_t most) {
  if (value >= 1 && value <= most) return {};
  return fail(Errc::invalid_layout, std::string("layout.") + name + " is " + std::to_string(value) +
                                        "; expected 1 to " + std::to_string(most));
}

}  // namespace

Result<Geometry> geometry_of(const Layout& layout) {
  const struct {
    const char* name;
    std::uint64_t value, most;
  } ranges[] = {
      {"layers", layout.layers, kMaxLayers},
      {"kv_heads", layout.kv_heads, kMaxKvHeads},
      {"head_dim", layout.head_dim, kMaxHeadDim},
      {"block_tokens", layout.block_tokens, kMaxBlockTokens},
      {"dtype_bytes", layout.dtype_bytes, kMaxDtypeBytes},
      {"planes", layout.planes, 2},
  };
  for (const auto& range : ranges) {
    if (auto ok = check_range(range.name, range.value, range.most); !ok) {
      return std::unexpected(ok.error());
    }
  }
  // The bounds above keep each product below 2^64: 2^12 * 2^12 * 2^16 * 2^16 * 2^4 * 2 < 2^62.
  const std::uint64_t token_plane = std::uint64_t{layout.head_dim} * layout.dtype_bytes;
  const std::uint64_t head = token_plane * layout.block_tokens * layout.planes;
  const std::uint64_t layer = head * layout.kv_heads;
  const std::uint64_t block = layer * layout.layers;
  Geometry geometry;
  geometry.token_plane_bytes = token_plane;
  geometry.block_bytes = block;
  std::uint64_t pages = 0;
  switch (layout.page_kind) {
    case PageKind::layer:
      geometry.page_bytes = layer;
      pages = layout.layers;
      break;
    case PageKind::head:
      geometry.page_bytes = head;
      pages = std::uint64_t{layout.layers} * layout.kv_heads;
      break;
    case PageKind::row:
      if (layout.kv_heads != 1 || layout.planes != 1) {
        return fail(Errc::invalid_layout,
                    "a page of one row needs kv_heads = 1 and planes = 1 (latent rows); with " +
                        std::to_string(layout.kv_heads) + " heads and " +
                        std::to_string(layout.planes) +
                        " planes a row is not contiguous: use page kind layer or head");
      }
      geometry.page_bytes = token_plane;
      pages = std::uint64_t{layout.layers} * layout.block_tokens;
      break;
    case PageKind::block:
      geometry.page_bytes = block;
      pages = 1;
      break;
    default:
      return fail(Errc::invalid_layout, "layout.page_kind is " +
                                            std::to_string(static_cast<int>(layout.page_kind)) +
                                            "; expected layer, head, row or block");
  }
  if (block > kMaxBlockBytes) {
    return fail(Errc::invalid_layout, "a block of " + std::to_string(block) + " bytes; at most " +
                                          std::to_string(kMaxBlockBytes) +
                                          ": use fewer tokens per block");
  }
  if (geometry.page_bytes < kMinPageBytes || geometry.page_bytes > kMaxPageBytes) {
    return fail(Errc::invalid_layout, "a page of " + std::to_string(geometry.page_bytes) +
                                          " bytes; expected " + std::to_string(kMinPageBytes) +
                                          " to " + std::to_string(kMaxPageBytes));
  }
  geometry.pages_per_block = static_cast<std::uint32_t>(pages);
  geometry.frame_stride = (block + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
  return geometry;
}

std::uint64_t extent_bytes_for(std::uint64_t item_bytes, std::uint64_t alignment,
                               std::uint64_t wanted_bytes) {
  const std::uint64_t unit = std::lcm(item_bytes, alignment);
  return wanted_bytes <= unit ? unit : wanted_bytes / unit * unit;
}

}  // namespace sluice::ipc
