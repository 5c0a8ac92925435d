// Opening a cache, which waits for its memory.
#include "daemon/connection.h"

#include <poll.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "daemon/session.h"

namespace sluice::daemon {

namespace asio = boost::asio;
namespace wire = ipc::wire;
using ipc::Errc;
using ipc::fail;

namespace {

// Whether the peer closed its end, and every copy of it.
bool hung_up(int socket) {
  pollfd look{socket, 0, 0};
  return poll(&look, 1, 0) > 0 && (look.revents & (POLLHUP | POLLERR)) != 0;
}

ipc::Layout layout_from(const wire::LayoutSpec& spec) {
  ipc::Layout layout;
  layout.layers = spec.layers();
  layout.kv_heads = spec.kv_heads();
  layout.head_dim = spec.head_dim();
  layout.block_tokens = spec.block_tokens();
  layout.dtype_bytes = spec.dtype_bytes();
  layout.planes = spec.planes();
  layout.page_kind = static_cast<ipc::PageKind>(spec.page_kind());
  return layout;
}

ipc::Result<OpenCacheRequest> request_from(const wire::OpenCache& body) {
  if (body.layout() == nullptr) {
    return fail(Errc::invalid_argument, "OpenCache without a layout");
  }
  if (body.role_metadata()) {
    return fail(Errc::not_supported, "metadata caches are not built yet");
  }
  OpenCacheRequest wanted;
  wanted.model = ipc::text_of(body.model());
  wanted.salt = ipc::text_of(body.salt());
  wanted.shard_index = body.shard_index();
  wanted.shard_count = body.shard_count();
  wanted.kind = static_cast<std::uint8_t>(body.kind());
  wanted.layout = layout_from(*body.layout());
  wanted.executor = body.executor();
  wanted.hbm_bytes = body.hbm_bytes();
  wanted.device_type = body.device_type();
  const auto uuid = ipc::bytes_of(body.device_uuid());
  wanted.device_uuid.assign(reinterpret_cast<const char*>(uuid.data()), uuid.size());
  wanted.device_index = body.device_index();
  return wanted;
}

std::vector<std::byte> opened_message(std::uint64_t request, const OpenedCache& opened,
                                      wire::Executor executor) {
  const CacheShape& shape = opened.memory->shape();
  return ipc::make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    wire::CacheOpenedBuilder reply(builder);
    reply.add_cache(opened.handle.bits());
    reply.add_created(opened.created);
    reply.add_slots(shape.table.slots);
    reply.add_slot_extent_bytes(shape.sizes.slot_extent_bytes);
    reply.add_slot_extents(shape.sizes.slot_extents);
    reply.add_max_blocks(shape.table.blocks);
    reply.add_frame_extent_bytes(shape.sizes.frame_extent_bytes);
    reply.add_frames_per_extent(shape.sizes.frames_per_extent);
    reply.add_max_frame_extents(shape.sizes.max_frame_extents);
    reply.add_frame_extents(opened.memory->frame_extents());
    reply.add_table_bytes(shape.table_bytes);
    reply.add_table_actors(shape.table.actors);
    reply.add_table_log_capacity(shape.table.log_capacity);
    reply.add_table_hint_capacity(shape.table.hint_capacity);
    reply.add_executor(executor);
    reply.add_device_table_bytes(shape.device_table_bytes);
    reply.add_device_table_extent_bytes(shape.device_table_extent_bytes);
    reply.add_incarnation(opened.memory->incarnation());
    return reply.Finish();
  });
}

}  // namespace

asio::awaitable<ipc::Status> Connection::open_cache(std::uint64_t request,
                                                    const wire::OpenCache& body) {
  auto wanted = request_from(body);
  if (!wanted) co_return co_await send(ipc::make_failed(request, wanted.error()));
  const wire::Executor executor = wanted->executor;
  const auto waiting = std::make_shared<CacheOpening>();
  waiting->request = std::move(*wanted);
  opening = true;
  auto opened = co_await wait_for_cache(waiting);
  opening = false;
  if (!opened) {
    auto sent = co_await send(ipc::make_failed(request, opened.error()));
    if (leaves()) co_return ipc::Status();  // who has gone misses the answer, but a Bye is heard
    co_return sent;
  }
  std::vector<int> fds;
  if (executor == wire::Executor::direct) fds = opened->memory->table_fds();
  auto bytes = opened_message(request, *opened, executor);
  co_return co_await send(std::move(bytes), std::move(fds));
}

asio::awaitable<ipc::Result<OpenedCache>> Connection::wait_for_cache(
    const std::shared_ptr<CacheOpening>& waiting) {
  const std::chrono::milliseconds most = server->config.limits.open_deadline;
  const auto until = std::chrono::steady_clock::now() + most;
  while (true) {
    auto opened = server->coordinator.open_cache(*session, waiting);
    if (!opened) co_return std::unexpected(std::move(opened.error()));
    if (*opened) co_return std::move(**opened);
    if (leaves() || std::chrono::steady_clock::now() >= until) break;
    watch_peer();
    opening_wake.expires_at(until);
    boost::system::error_code ignored;
    co_await opening_wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  server->coordinator.abandon_open(*session, *waiting);
  co_return fail(Errc::busy, "the cache was not ready within limits.open_deadline (" +
                                 std::to_string(most.count()) + " ms): " + waiting->waits_for);
}

// Whether the session ends, so that a cache for it is in vain. Reads one frame ahead to know: what
// follows a request waits for its answer, except for a Bye and the end of the connection, also
// behind that frame.
bool Connection::leaves() {
  if (ended || process_gone || server->stopping) return true;
  if (!ahead) ahead = look();
  if (!ahead) return false;
  if (!*ahead) return true;
  const auto next = ipc::verify_envelope((*ahead)->bytes);
  return !next || (*next)->body_type() == wire::Body::Bye || hung_up(socket.native_handle());
}

// A hang-up ends both waits; what lies behind the frame that was read ahead ends only the first.
void Connection::watch_peer() {
  using Wait = asio::posix::stream_descriptor;
  bool Connection::* const watched = ahead ? &Connection::awaits_end : &Connection::awaits_frame;
  if (std::exchange(this->*watched, true)) return;
  socket.async_wait(ahead ? Wait::wait_error : Wait::wait_read,
                    [self = shared_from_this(), watched](boost::system::error_code) {
                      (*self).*watched = false;
                      self->opening_wake.cancel();
                    });
}

}  // namespace sluice::daemon
