#include "ipc/session_memory.h"

#include <atomic>
#include <bit>
#include <string>
#include <utility>

#include "ipc/memfd.h"

namespace sluice::ipc {
namespace {

// The header page: what the client says of itself, and the shared words of the rings.
constexpr std::uint64_t kHeaderBytes = kMapGranularity;
constexpr std::uint64_t kToldPinned = 0;
constexpr std::uint64_t kSubmissionControl = kCacheLineBytes;
constexpr std::uint64_t kCompletionControl = kSubmissionControl + sizeof(RingControl);
static_assert(kCompletionControl + sizeof(RingControl) <= kHeaderBytes);

constexpr std::uint64_t whole_pages(std::uint64_t bytes) {
  return (bytes + kMapGranularity - 1) / kMapGranularity * kMapGranularity;
}

RingView ring_at(std::byte* base, std::uint64_t control, std::uint64_t slots,
                 std::uint32_t capacity) {
  return {reinterpret_cast<RingControl*>(base + control), base + slots, capacity};
}

}  // namespace

Result<SessionLayout> session_layout(std::uint32_t ring_capacity, std::uint64_t request_bytes) {
  if (!std::has_single_bit(ring_capacity) || ring_capacity < kMinRingCapacity ||
      ring_capacity > kMaxRingCapacity) {
    return fail(Errc::invalid_argument, "a ring of " + std::to_string(ring_capacity) +
                                            " slots; expected a power of two from " +
                                            std::to_string(kMinRingCapacity) + " to " +
                                            std::to_string(kMaxRingCapacity));
  }
  if (request_bytes < kMinRequestBytes || request_bytes > kMaxRequestBytes ||
      request_bytes % kMapGranularity != 0) {
    return fail(Errc::invalid_argument,
                "request memory of " + std::to_string(request_bytes) +
                    " bytes; expected a multiple of " + std::to_string(kMapGranularity) + " from " +
                    std::to_string(kMinRequestBytes) + " to " + std::to_string(kMaxRequestBytes));
  }
  SessionLayout layout;
  layout.ring_capacity = ring_capacity;
  layout.request_bytes = request_bytes;
  layout.submissions_offset = kHeaderBytes;
  layout.completions_offset =
      layout.submissions_offset + whole_pages(ring_capacity * kSlotBytes<wire::Submission>);
  layout.request_offset =
      layout.completions_offset + whole_pages(ring_capacity * kSlotBytes<wire::Completion>);
  layout.memory_bytes = layout.request_offset + request_bytes;
  return layout;
}

Result<SessionMemory> SessionMemory::map(Fd fd, const SessionLayout& layout) {
  auto mapping =
      Mapping::map(fd.get(), 0, layout.memory_bytes, Access::read_write, "session memory");
  if (!mapping) return std::unexpected(std::move(mapping.error()));
  SessionMemory memory;
  memory.layout_ = layout;
  memory.fd_ = std::move(fd);
  memory.mapping_ = std::move(*mapping);
  return memory;
}

Result<SessionMemory> SessionMemory::create(std::uint32_t ring_capacity,
                                            std::uint64_t request_bytes) {
  auto layout = session_layout(ring_capacity, request_bytes);
  if (!layout) return std::unexpected(std::move(layout.error()));
  auto fd = create_memfd("sluice-session", layout->memory_bytes, Populate::yes);
  if (!fd) return std::unexpected(std::move(fd.error()));
  return map(std::move(*fd), *layout);
}

Result<SessionMemory> SessionMemory::attach(Fd fd, std::uint32_t ring_capacity,
                                            std::uint64_t request_bytes) {
  auto layout = session_layout(ring_capacity, request_bytes);
  if (!layout) return std::unexpected(std::move(layout.error()));
  if (auto ok = check_memfd(fd.get(), layout->memory_bytes, "session memory"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return map(std::move(fd), *layout);
}

RingView SessionMemory::submission_ring() const {
  return ring_at(mapping_.data(), kSubmissionControl, layout_.submissions_offset,
                 layout_.ring_capacity);
}

RingView SessionMemory::completion_ring() const {
  return ring_at(mapping_.data(), kCompletionControl, layout_.completions_offset,
                 layout_.ring_capacity);
}

void SessionMemory::tell_pinned(std::uint64_t bytes) const {
  auto* const at = reinterpret_cast<std::uint64_t*>(mapping_.data() + kToldPinned);
  std::atomic_ref(*at).store(bytes, std::memory_order_relaxed);
}

std::uint64_t SessionMemory::told_pinned() const {
  auto* const at = reinterpret_cast<std::uint64_t*>(mapping_.data() + kToldPinned);
  return std::atomic_ref(*at).load(std::memory_order_relaxed);
}

std::span<std::byte> SessionMemory::request_memory() const {
  return mapping_.bytes().subspan(layout_.request_offset, layout_.request_bytes);
}

}  // namespace sluice::ipc
