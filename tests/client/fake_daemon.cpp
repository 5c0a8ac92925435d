#include "tests/client/fake_daemon.h"

#include <poll.h>
#include <sys/socket.h>

#include <cstring>

#include "ipc/frame.h"
#include "ipc/layout.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "ipc/protocol.h"
#include "kernels/table.h"

namespace sluice::client::internal {

namespace wire = ipc::wire;
using ipc::soon;

namespace {

constexpr std::uint32_t kRing = 8;
constexpr std::uint64_t kRequestBytes = 64 << 10;
constexpr std::uint64_t kSequence = (std::uint64_t{1} << 32) | 1;
constexpr std::uint64_t kCache = std::uint64_t{1} << 32;
constexpr std::uint64_t kDeviceExtentBytes = std::uint64_t{2} << 20;

ipc::Geometry geometry() { return ipc::geometry_of(FakeDaemon::cache().layout).value(); }
std::uint64_t arena_bytes() { return FakeDaemon::kSlots * geometry().page_bytes; }
std::uint64_t frames_bytes() { return FakeDaemon::kFrames * geometry().frame_stride; }

template <class T>
void put(std::span<std::byte> to, std::size_t index, const T& value) {
  const auto place = to.subspan(index * sizeof(T), sizeof(T));
  std::memcpy(place.data(), &value, sizeof(T));
}

ipc::Fd make_host_table() {
  const std::uint64_t bytes = kernels::table_bytes(FakeDaemon::table());
  ipc::Fd fd = std::move(*ipc::create_memfd("table", bytes, ipc::Populate::no));
  auto memory = ipc::Mapping::map(fd.get(), 0, bytes, ipc::Access::read_write, "table");
  kernels::format_table(memory.value().data(), FakeDaemon::table());
  return fd;
}

}  // namespace

// Two pages of 2 KiB make a block.
CacheOptions FakeDaemon::cache() {
  CacheOptions options;
  options.model = "model";
  options.layout = {2, 1, 32, 16, 2, 2, ipc::PageKind::layer};
  return options;
}

sluice_cache_desc FakeDaemon::cache_desc(sluice_executor executor) {
  const ipc::Layout layout = cache().layout;
  sluice_cache_desc desc = SLUICE_CACHE_DESC_INIT;
  desc.model = "model";
  desc.executor = executor;
  desc.layers = layout.layers;
  desc.kv_heads = layout.kv_heads;
  desc.head_dim = layout.head_dim;
  desc.block_tokens = layout.block_tokens;
  desc.dtype_bytes = layout.dtype_bytes;
  desc.planes = layout.planes;
  return desc;
}

FakeDaemon::FakeDaemon()
    : listener_(std::move(*ipc::UnixListener::bind({.path = socket_, .mode = 0600}))),
      memory_(std::move(*ipc::SessionMemory::create(kRing, kRequestBytes))),
      bells_(std::move(*ipc::make_doorbell())),
      requests_(memory_.submission_ring()),
      completions_(memory_.completion_ring()),
      arena_(std::move(*ipc::create_memfd("arena", arena_bytes(), ipc::Populate::no))),
      frames_(std::move(*ipc::create_memfd("frames", frames_bytes(), ipc::Populate::no))),
      host_table_(make_host_table()),
      node_table_(std::move(*ipc::create_memfd("table", kernels::split_offsets_of(table()).host_end,
                                               ipc::Populate::no))),
      device_table_(std::move(*ipc::create_memfd("device", kDeviceExtentBytes, ipc::Populate::no))),
      thread_([this] { run(); }) {}

FakeDaemon::~FakeDaemon() {
  if (thread_.joinable()) thread_.join();
}

void FakeDaemon::go_away(const std::optional<ipc::Error>& why) {
  ASSERT_TRUE(connected_);
  if (why) {
    const auto closing = ipc::make_message(0, [&](auto& builder) {
      return wire::CreateClosingDirect(builder, static_cast<std::uint16_t>(why->code),
                                       why->text.c_str());
    });
    ASSERT_TRUE(ipc::send_frame(connection_.get(), closing, {}, soon()).has_value());
  }
  ASSERT_EQ(shutdown(connection_.get(), SHUT_RDWR), 0);
  thread_.join();
  connection_ = {};
  bells_.daemon_end = {};
}

void FakeDaemon::run() {
  pollfd incoming{listener_.fd(), POLLIN, 0};
  ASSERT_EQ(ipc::poll_until(&incoming, 1, soon()).value(), 1);
  connection_ = std::move(*listener_.accept().value());
  connected_ = true;
  while (true) {
    serve_rings();
    if (!requests_.prepare_to_sleep().value()) continue;
    pollfd wait[] = {{connection_.get(), POLLIN, 0}, {bells_.daemon_end.fd(), POLLIN, 0}};
    ASSERT_GE(ipc::poll_until(wait, 2, soon()).value(), 1);
    bells_.daemon_end.drain();
    requests_.awake();
    if (wait[0].revents != 0 && !serve_control()) return;
  }
}

bool FakeDaemon::serve_control() {
  const auto message = ipc::receive_frame(reader_, connection_.get(), soon());
  if (!message) return false;
  const auto envelope = ipc::verify_envelope(message->bytes);
  if (!envelope) return false;
  std::vector<int> fds;
  const auto reply = reply_to(**envelope, fds);
  return ipc::send_frame(connection_.get(), reply, fds, soon()).has_value();
}

kernels::TableSizes FakeDaemon::table() {
  return {.slots = kSlots,
          .blocks = kFrames,
          .pages_per_block = geometry().pages_per_block,
          .actors = 1,
          .log_capacity = 16,
          .hint_capacity = 64};
}

std::vector<std::byte> FakeDaemon::open_cache(const wire::Envelope& envelope,
                                              std::vector<int>& fds) {
  opened_on_device = envelope.body_as_OpenCache()->device_type() != 0;
  const bool direct =
      envelope.body_as_OpenCache()->executor() == wire::Executor::direct && !opens_for_itself;
  if (!opened_on_device && direct) {
    const kernels::TableSizes sizes = table();
    fds = {host_table_.get()};
    return ipc::make_message(envelope.request(), [&](auto& builder) {
      return wire::CreateCacheOpened(builder, kCache, true, kSlots, arena_bytes(), 1, kFrames,
                                     frames_bytes(), kFrames, 1, 1, kernels::table_bytes(sizes),
                                     sizes.actors, sizes.log_capacity, sizes.hint_capacity,
                                     wire::Executor::direct);
    });
  }
  if (!direct) {
    return ipc::make_message(envelope.request(), [&](auto& builder) {
      return wire::CreateCacheOpened(builder, kCache, true, kSlots, arena_bytes(), 1, kFrames,
                                     frames_bytes(), kFrames, 1, 1, 0, 1);
    });
  }
  fds = {node_table_.get(), device_table_.get()};
  const kernels::TableSizes sizes = table();
  const kernels::SplitOffsets offsets = kernels::split_offsets_of(sizes);
  return ipc::make_message(envelope.request(), [&](auto& builder) {
    return wire::CreateCacheOpened(builder, kCache, true, kSlots, arena_bytes(), 1, kFrames,
                                   frames_bytes(), kFrames, 1, 1, offsets.host_end, sizes.actors,
                                   sizes.log_capacity, sizes.hint_capacity, wire::Executor::direct,
                                   offsets.device_end - table_bytes_missing, kDeviceExtentBytes);
  });
}

std::vector<std::byte> FakeDaemon::reply_to(const wire::Envelope& envelope, std::vector<int>& fds) {
  const std::uint64_t request = envelope.request();
  switch (envelope.body_type()) {
    case wire::Body::Hello:
      fds = {memory_.fd().get(), bells_.client_end.fd()};
      return ipc::make_message(request, [&](auto& builder) {
        return wire::CreateWelcomeDirect(builder, ipc::kProtocolMinor, ipc::kProtocolFeatures, 1,
                                         "tenant", kRing, kRequestBytes,
                                         memory_.layout().memory_bytes, "fake", 1);
      });
    case wire::Body::OpenCache:
      return open_cache(envelope, fds);
    case wire::Body::FetchExtents: {
      const auto tier = envelope.body_as_FetchExtents()->tier();
      fds = {tier == static_cast<std::uint8_t>(ipc::Tier::hbm) ? arena_.get() : frames_.get()};
      return ipc::make_message(
          request, [&](auto& builder) { return wire::CreateExtentFds(builder, tier, 0, 1, 1); });
    }
    case wire::Body::OpenActor:
      return ipc::make_message(request,
                               [&](auto& builder) { return wire::CreateActorOpened(builder, 0); });
    default:
      return ipc::make_done(request);
  }
}

void FakeDaemon::serve_rings() {
  while (const auto request = requests_.next().value()) {
    ASSERT_TRUE(completions_.push(answer(*request)).value());
    if (completions_.publish()) bells_.daemon_end.ring();
  }
}

wire::Completion FakeDaemon::answer(const wire::Submission& request) {
  const auto reply =
      memory_.request_memory().subspan(request.reply_offset(), request.reply_length());
  std::uint64_t value = 0;
  switch (static_cast<wire::Op>(request.op())) {
    case wire::Op::sequence_open:
      value = kSequence;
      break;
    case wire::Op::sequence_extend:
      value = blocks_;
      for (std::uint32_t i = 0; i < request.count(); ++i) {
        put(reply, i, wire::BlockRef(blocks_++, frame));
      }
      break;
    case wire::Op::sequence_truncate:
      blocks_ = request.count();
      break;
    case wire::Op::seal:
      if (sealed_as != kNoOtherBlock) {
        value = 1;
        put(reply, 0, wire::BlockRef(sealed_as, frame));
      } else {
        put(reply, 0, wire::BlockRef(request.count(), frame));
      }
      break;
    case wire::Op::tail_slots:
      for (std::uint32_t i = 0; i < geometry().pages_per_block; ++i) put(reply, i, i);
      break;
    case wire::Op::resolve:  // of one page
      put(reply, 0, wire::ResolveCounts(1, 0, 0, 0, 0, 0, 0, 0, 0));
      put(reply.subspan(sizeof(wire::ResolveCounts)), 0, slot.load());
      break;
    default:
      break;
  }
  return {request.user_data(), value, 0, 0, 0, 1};
}

}  // namespace sluice::client::internal
