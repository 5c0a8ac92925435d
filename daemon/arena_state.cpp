#include "daemon/arena_state.h"

#include <new>
#include <utility>

#include "ipc/memfd.h"

namespace sluice::daemon {

namespace {
constexpr const char* kStateName = "sluice-state";
}  // namespace

std::uint64_t ArenaState::bytes_for(std::uint32_t actors, std::uint32_t blocks) {
  const std::uint64_t bytes = kHeaderBytes + std::uint64_t{actors} * sizeof(KeptSeat) +
                              std::uint64_t{blocks} * sizeof(std::uint64_t);
  return (bytes + ipc::kMapGranularity - 1) / ipc::kMapGranularity * ipc::kMapGranularity;
}

ipc::Result<ArenaState> ArenaState::map(ipc::Fd fd, std::uint32_t actors, std::uint32_t blocks) {
  auto memory = ipc::Mapping::map(fd.get(), 0, bytes_for(actors, blocks), ipc::Access::read_write,
                                  "the state of an arena");
  if (!memory) return std::unexpected(std::move(memory.error()));
  ArenaState state;
  state.fd_ = std::move(fd);
  state.memory_ = std::move(*memory);
  std::byte* const at = state.memory_.data();
  state.header_ = std::launder(reinterpret_cast<Header*>(at));
  state.seats_ = std::launder(reinterpret_cast<KeptSeat*>(at + kHeaderBytes));
  state.frames_ = std::launder(
      reinterpret_cast<std::uint64_t*>(at + kHeaderBytes + std::size_t{actors} * sizeof(KeptSeat)));
  return state;
}

ipc::Result<ArenaState> ArenaState::create(std::uint32_t actors, std::uint32_t blocks) {
  auto fd = ipc::create_memfd(kStateName, bytes_for(actors, blocks), ipc::Populate::no);
  if (!fd) return std::unexpected(std::move(fd.error()));
  auto state = map(std::move(*fd), actors, blocks);
  if (!state) return state;
  state->header_->magic = kMagic;
  state->header_->actors = actors;
  state->header_->blocks = blocks;
  return state;
}

ipc::Result<ArenaState> ArenaState::adopt(ipc::Fd fd, std::uint32_t actors, std::uint32_t blocks) {
  if (auto ok = ipc::check_memfd(fd.get(), bytes_for(actors, blocks), kStateName); !ok) {
    return ipc::fail(ipc::Errc::invalid_argument, std::move(ok.error().text));
  }
  auto state = map(std::move(fd), actors, blocks);
  if (!state) return state;
  const Header& header = *state->header_;
  if (header.magic != kMagic || header.actors != actors || header.blocks != blocks) {
    return ipc::fail(ipc::Errc::invalid_argument, "the state of an arena is of another shape");
  }
  return state;
}

}  // namespace sluice::daemon
