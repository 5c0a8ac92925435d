#include "tests/client/mortal_daemon.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>

#include "ipc/frame.h"
#include "ipc/layout.h"
#include "ipc/memfd.h"
#include "ipc/protocol.h"
#include "kernels/table.h"
#include "tests/client/fake_daemon.h"
#include "tests/eventually.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
using ipc::soon;
namespace wire = ipc::wire;

namespace {

constexpr std::uint32_t kMortalRing = 16;
constexpr std::uint64_t kMortalRequestBytes = 64 << 10;
constexpr std::uint64_t kMortalCache = std::uint64_t{1} << 32;
constexpr std::uint64_t kMortalSession = 42;
constexpr std::uint64_t kMortalDeviceExtentBytes = std::uint64_t{2} << 20;

ipc::Geometry mortal_geometry() {
  return ipc::geometry_of(MortalDaemon::cache(wire::Executor::direct).layout).value();
}

kernels::TableSizes mortal_sizes() {
  return {.slots = MortalDaemon::kSlots,
          .blocks = MortalDaemon::kFrames,
          .pages_per_block = mortal_geometry().pages_per_block,
          .actors = MortalDaemon::kActors,
          .log_capacity = 16,
          .hint_capacity = 64};
}

std::uint64_t mortal_arena_bytes() { return MortalDaemon::kSlots * mortal_geometry().page_bytes; }
std::uint64_t mortal_frames_bytes() {
  return MortalDaemon::kFrames * mortal_geometry().frame_stride;
}

ipc::Fd mortal_memory(std::uint64_t bytes) {
  return std::move(*ipc::create_memfd("mortal", bytes, ipc::Populate::no));
}

}  // namespace

// One connection of the client: what dies with it.
struct MortalDaemon::Connection {
  ipc::Fd socket;
  ipc::FrameReader reader{ipc::FdPolicy::refuse};
  ipc::SessionMemory memory =
      std::move(*ipc::SessionMemory::create(kMortalRing, kMortalRequestBytes));
  ipc::DoorbellPair bells = std::move(*ipc::make_doorbell());
  ipc::SubmissionConsumer requests{memory.submission_ring()};
  ipc::CompletionProducer completions{memory.completion_ring()};

  std::span<std::byte> area(std::uint32_t offset, std::uint32_t length) const {
    return memory.request_memory().subspan(offset, length);
  }
  template <class T>
  void put(const wire::Submission& request, std::size_t index, const T& value) const {
    const auto reply = area(request.reply_offset(), request.reply_length());
    std::memcpy(reply.subspan(index * sizeof(T), sizeof(T)).data(), &value, sizeof(T));
  }
  template <class T>
  T get(const wire::Submission& request, std::size_t offset) const {
    T value;
    const auto bytes = area(request.offset(), request.length()).subspan(offset, sizeof(T));
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string text(const wire::Submission& request, std::size_t offset, std::size_t size) const {
    const auto bytes = area(request.offset(), request.length()).subspan(offset, size);
    return {reinterpret_cast<const char*>(bytes.data()), size};
  }
};

CacheOptions MortalDaemon::cache(wire::Executor executor) {
  CacheOptions options = FakeDaemon::cache();
  options.executor = executor;
  return options;
}

MortalDaemon::MortalDaemon()
    : arena_(mortal_memory(mortal_arena_bytes())),
      frames_(mortal_memory(mortal_frames_bytes())),
      table_(mortal_memory(kernels::table_bytes(mortal_sizes()))),
      node_table_(mortal_memory(kernels::split_offsets_of(mortal_sizes()).host_end)),
      device_table_(mortal_memory(kMortalDeviceExtentBytes)),
      stop_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  auto memory = ipc::Mapping::map(table_.get(), 0, kernels::table_bytes(mortal_sizes()),
                                  ipc::Access::read_write, "table");
  kernels::format_table(memory.value().data(), mortal_sizes());
  come_back();
}

MortalDaemon::~MortalDaemon() {
  if (thread_.joinable()) die();
}

void MortalDaemon::die(const std::optional<ipc::Error>& why) {
  {
    const std::lock_guard lock(mutex_);
    last_words_ = why;
  }
  const std::uint64_t one = 1;
  (void)!write(stop_.get(), &one, sizeof one);
  wait_until_dead();
}

void MortalDaemon::die_at(const std::string& request, When when) {
  const std::lock_guard lock(mutex_);
  deadly_ = request;
  when_ = when;
}

void MortalDaemon::wait_until_dead() {
  ASSERT_TRUE(test::eventually([&] { return dead_.load(); }));
  thread_.join();
  std::uint64_t stopped = 0;
  (void)!read(stop_.get(), &stopped, sizeof stopped);
}

void MortalDaemon::come_back() { come_back_to_die_at("", When::before); }

void MortalDaemon::come_back_to_die_at(const std::string& request, When when) {
  {
    const std::lock_guard lock(mutex_);
    sequences_.clear();
    deadly_ = request;
    when_ = when;
    resuming_ = false;
    last_words_.reset();
  }
  listener_.emplace(std::move(*ipc::UnixListener::bind({.path = socket_, .mode = 0600})));
  dead_ = false;
  thread_ = std::thread([this] { run(); });
}

bool MortalDaemon::dies_at(const std::string& request, When when) {
  const std::lock_guard lock(mutex_);
  if (when == When::before) requests_.push_back(request);
  return deadly_ == request && when_ == when;
}

void MortalDaemon::run() {
  bool alive = true;
  while (alive) {
    pollfd fds[] = {{listener_->fd(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    ASSERT_GE(poll(fds, 2, -1), 1);
    if (fds[1].revents != 0) break;
    auto socket = listener_->accept();
    ASSERT_TRUE(socket.has_value() && socket->has_value());
    Connection connection;
    connection.socket = std::move(**socket);
    while (true) {
      alive = serve_rings(connection);
      if (!alive) break;
      if (!connection.requests.prepare_to_sleep().value()) continue;
      pollfd wait[] = {{connection.socket.get(), POLLIN, 0},
                       {connection.bells.daemon_end.fd(), POLLIN, 0},
                       {stop_.get(), POLLIN, 0}};
      ASSERT_GE(poll(wait, 3, -1), 1);
      connection.requests.awake();
      (void)connection.bells.daemon_end.drain();
      if (wait[2].revents != 0) {
        alive = false;
        break;
      }
      if (wait[0].revents != 0 && !serve_control(connection)) {
        const std::lock_guard lock(mutex_);
        alive = deadly_ != "dead";
        break;
      }
    }
    const std::lock_guard lock(mutex_);
    if (last_words_) {
      const auto closing = ipc::make_message(0, [&](auto& builder) {
        return wire::CreateClosingDirect(builder, static_cast<std::uint16_t>(last_words_->code),
                                         last_words_->text.c_str());
      });
      (void)ipc::send_frame(connection.socket.get(), closing, {}, soon());
    }
  }
  listener_.reset();
  dead_ = true;
}

bool MortalDaemon::serve_control(Connection& connection) {
  const auto message = ipc::receive_frame(connection.reader, connection.socket.get(), soon());
  if (!message) return false;
  const auto envelope = ipc::verify_envelope(message->bytes);
  if (!envelope) return false;
  const std::string name = wire::EnumNameBody((*envelope)->body_type());
  const auto die_now = [&] {
    const std::lock_guard lock(mutex_);
    deadly_ = "dead";
    return false;
  };
  if (dies_at(name, When::before)) return die_now();
  std::vector<int> fds;
  const auto reply = reply_to(connection, **envelope, fds);
  if (dies_at(name, When::after)) return die_now();
  return ipc::send_frame(connection.socket.get(), reply, fds, soon()).has_value();
}

std::vector<std::byte> MortalDaemon::welcome(Connection& connection, const wire::Envelope& envelope,
                                             std::vector<int>& fds) {
  const auto& hello = *envelope.body_as_Hello();
  ++hellos_;
  const std::lock_guard lock(mutex_);
  const auto given = ipc::bytes_of(hello.resume_token());
  resuming_ = hello.resume_session() == kMortalSession && knows_sessions && !token_.empty() &&
              std::ranges::equal(std::as_bytes(std::span(token_)), given);
  if (!resuming_ && hello.resume_session() != 0) {
    return ipc::make_failed(envelope.request(), ipc::Error{Errc::not_found, "a cold start"});
  }
  if (!resuming_) {
    blocks_.clear();
    directory_.clear();
    token_.assign(resumable ? kResumeTokenBytes : 0, 1);
  }
  fds = {connection.memory.fd().get(), connection.bells.client_end.fd()};
  return ipc::make_message(envelope.request(), [&](auto& builder) {
    return wire::CreateWelcomeDirect(builder, ipc::kProtocolMinor, ipc::kProtocolFeatures,
                                     kMortalSession, "tenant", kMortalRing, kMortalRequestBytes,
                                     connection.memory.layout().memory_bytes, "mortal", 3,
                                     resuming_, &token_, outage_ms);
  });
}

std::vector<std::byte> MortalDaemon::open_cache(const wire::Envelope& envelope,
                                                std::vector<int>& fds) {
  const wire::Executor executor = envelope.body_as_OpenCache()->executor();
  const bool on_device = envelope.body_as_OpenCache()->device_type() != 0;
  const kernels::TableSizes sizes = mortal_sizes();
  const kernels::SplitOffsets split = kernels::split_offsets_of(sizes);
  const bool direct = executor == wire::Executor::direct;
  if (on_device) {
    fds = {node_table_.get(), device_table_.get()};
  } else if (direct) {
    fds = {table_.get()};
  }
  const std::uint64_t whole = direct ? kernels::table_bytes(sizes) : 0;
  return ipc::make_message(envelope.request(), [&](auto& builder) {
    wire::CacheOpenedBuilder opened(builder);
    opened.add_cache(kMortalCache + next_handle_);
    opened.add_slots(kSlots);
    opened.add_slot_extent_bytes(mortal_arena_bytes());
    opened.add_slot_extents(1);
    opened.add_max_blocks(kFrames);
    opened.add_frame_extent_bytes(mortal_frames_bytes());
    opened.add_frames_per_extent(kFrames);
    opened.add_max_frame_extents(1);
    opened.add_frame_extents(1);
    opened.add_table_bytes(on_device ? split.host_end : whole);
    if (on_device) {
      opened.add_device_table_bytes(split.device_end);
      opened.add_device_table_extent_bytes(kMortalDeviceExtentBytes);
    }
    opened.add_table_actors(kActors);
    opened.add_table_log_capacity(sizes.log_capacity);
    opened.add_table_hint_capacity(sizes.hint_capacity);
    opened.add_executor(executor);
    opened.add_incarnation(incarnation);
    return opened.Finish();
  });
}

void MortalDaemon::resume_done() {
  std::set<std::uint32_t> held;
  for (const auto& [handle, ids] : sequences_) held.insert(ids.begin(), ids.end());
  std::erase_if(blocks_, [&](const auto& block) {
    return !block.second.sealed && !held.contains(block.first);
  });
  resuming_ = false;
}

std::vector<std::byte> MortalDaemon::reply_to(Connection& connection,
                                              const wire::Envelope& envelope,
                                              std::vector<int>& fds) {
  const std::uint64_t request = envelope.request();
  if (envelope.body_type() == wire::Body::Hello) return welcome(connection, envelope, fds);
  const std::lock_guard lock(mutex_);
  switch (envelope.body_type()) {
    case wire::Body::OpenCache:
      ++next_handle_;
      return open_cache(envelope, fds);
    case wire::Body::FetchExtents: {
      const auto tier = envelope.body_as_FetchExtents()->tier();
      fds = {tier == static_cast<std::uint8_t>(ipc::Tier::hbm) ? arena_.get() : frames_.get()};
      return ipc::make_message(
          request, [&](auto& builder) { return wire::CreateExtentFds(builder, tier, 0, 1, 1); });
    }
    case wire::Body::OpenActor: {
      std::uint32_t actor = 0;
      while (actors_.contains(actor)) ++actor;
      actors_.insert(actor);
      return ipc::make_message(
          request, [&](auto& builder) { return wire::CreateActorOpened(builder, actor); });
    }
    case wire::Body::CloseActor:
      actors_.erase(envelope.body_as_CloseActor()->actor());
      return ipc::make_done(request);
    case wire::Body::ResumeDone:
      resume_done();
      return ipc::make_done(request);
    default:
      return ipc::make_done(request);
  }
}

bool MortalDaemon::serve_rings(Connection& connection) {
  while (const auto request = connection.requests.next().value()) {
    const std::string name = wire::EnumNameOp(static_cast<wire::Op>(request->op()));
    if (dies_at(name, When::before)) return false;
    const wire::Completion completion = answer(connection, *request);
    if (dies_at(name, When::after)) return false;
    EXPECT_TRUE(connection.completions.push(completion).value());
    if (connection.completions.publish()) connection.bells.daemon_end.ring();
  }
  return true;
}

wire::Completion MortalDaemon::answer(Connection& connection, const wire::Submission& request) {
  const std::lock_guard lock(mutex_);
  std::uint64_t value1 = 0;
  const auto done = carry_out(connection, request, value1);
  if (done) return {request.user_data(), *done, value1, 0, 0, 1};
  const std::string& text = done.error().text;
  const auto reply = connection.area(request.reply_offset(), request.reply_length());
  const std::size_t length = std::min(text.size(), reply.size());
  std::memcpy(reply.data(), text.data(), length);
  return {request.user_data(), length, 0, static_cast<std::uint16_t>(done.error().code), 0, 1};
}

ipc::Result<std::uint32_t> MortalDaemon::make_block() {
  if (extend_error != 0) return fail(static_cast<Errc>(extend_error.load()), "no block");
  if (blocks_.size() >= room) return fail(Errc::quota_exceeded, "no block is left");
  std::uint32_t id = 0;
  while (blocks_.contains(id)) ++id;
  blocks_[id] = {};
  return id;
}

ipc::Result<std::uint64_t> MortalDaemon::open(Connection& connection,
                                              const wire::Submission& request,
                                              std::uint64_t& value1) {
  const auto spec = connection.get<wire::OpenSpec>(request, 0);
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < spec.keys(); ++i) {
    const auto known = directory_.find(
        connection.text(request, sizeof spec + i * spec.key_bytes(), spec.key_bytes()));
    if (known == directory_.end()) break;
    connection.put(request, ids.size(), wire::BlockRef(known->second, known->second));
    ids.push_back(known->second);
  }
  value1 = ids.size();
  sequences_[++next_handle_] = ids;
  return next_handle_;
}

ipc::Result<std::uint64_t> MortalDaemon::seal(Connection& connection,
                                              const wire::Submission& request) {
  if (seal_error != 0) return fail(static_cast<Errc>(seal_error.load()), "no seal");
  std::uint32_t& id = sequences_[request.handle()].at(request.count());
  const auto spec = connection.get<wire::KeySpec>(request, 0);
  const std::string key = connection.text(request, sizeof spec, spec.key_bytes());
  requests_.push_back("sealed " + key);
  const auto known = directory_.find(key);
  if (known != directory_.end() && known->second != id) {
    if (!blocks_[id].sealed) blocks_.erase(id);
    id = known->second;
    connection.put(request, 0, wire::BlockRef(id, id));
    return 1;
  }
  blocks_[id] = {true, key};
  directory_[key] = id;
  connection.put(request, 0, wire::BlockRef(id, id));
  return 0;
}

ipc::Result<std::uint64_t> MortalDaemon::adopt(Connection& connection,
                                               const wire::Submission& request) {
  if (!resuming_) return fail(Errc::wrong_state, "nothing is resumed");
  const auto spec = connection.get<wire::AdoptSpec>(request, 0);
  const std::uint64_t handle = request.handle() == 0 ? ++next_handle_ : request.handle();
  std::vector<std::uint32_t> ids;
  for (std::uint32_t i = 0; i < spec.blocks(); ++i) {
    const auto id = connection.get<std::uint32_t>(request, sizeof spec + i * sizeof(std::uint32_t));
    if (!blocks_.contains(id)) {
      return fail(Errc::stale_handle, "block " + std::to_string(i) + " may not be adopted");
    }
    connection.put(request, i, wire::BlockRef(id, id));
    ids.push_back(id);
  }
  auto& sequence = sequences_[handle];
  sequence.insert(sequence.end(), ids.begin(), ids.end());
  return handle;
}

ipc::Result<std::uint64_t> MortalDaemon::carry_out(Connection& connection,
                                                   const wire::Submission& request,
                                                   std::uint64_t& value1) {
  const auto op = static_cast<wire::Op>(request.op());
  const bool of_sequence = op == wire::Op::sequence_extend || op == wire::Op::sequence_fork ||
                           op == wire::Op::sequence_truncate || op == wire::Op::sequence_release ||
                           op == wire::Op::seal || op == wire::Op::tail_slots;
  if (of_sequence && !sequences_.contains(request.handle())) {
    return fail(Errc::stale_handle, "no such sequence");
  }
  switch (op) {
    case wire::Op::sequence_open:
      return open(connection, request, value1);
    case wire::Op::sequence_extend: {
      auto& ids = sequences_[request.handle()];
      const std::size_t first = ids.size();
      for (std::uint32_t i = 0; i < request.count(); ++i) {
        auto id = make_block();
        if (!id) {
          for (; ids.size() > first; ids.pop_back()) blocks_.erase(ids.back());
          return std::unexpected(id.error());
        }
        ids.push_back(*id);
        connection.put(request, i, wire::BlockRef(*id, *id));
      }
      return first;
    }
    case wire::Op::sequence_fork: {
      auto ids = sequences_[request.handle()];
      for (std::uint32_t i = 0; i < ids.size(); ++i) {
        if (blocks_[ids[i]].sealed) continue;
        const std::uint32_t id = make_block().value();
        connection.put(request, value1++, wire::ForkedRef(i, ids[i], ids[i], id, id));
        ids[i] = id;
      }
      sequences_[++next_handle_] = ids;
      return next_handle_;
    }
    case wire::Op::sequence_truncate:
    case wire::Op::sequence_release: {
      auto& ids = sequences_[request.handle()];
      for (; ids.size() > request.count(); ids.pop_back()) {
        if (!blocks_[ids.back()].sealed) blocks_.erase(ids.back());
      }
      if (op == wire::Op::sequence_release) sequences_.erase(request.handle());
      return 0;
    }
    case wire::Op::seal:
      return seal(connection, request);
    case wire::Op::sequence_adopt:
      return adopt(connection, request);
    case wire::Op::tail_slots:
      for (std::uint32_t i = 0; i < mortal_geometry().pages_per_block; ++i) {
        connection.put(request, i, i);
      }
      return 0;
    case wire::Op::step_begin:
      if (!in_step_.insert(request.actor()).second) return fail(Errc::wrong_state, "in a step");
      return 0;
    case wire::Op::step_end:
      if (in_step_.erase(request.actor()) == 0) return fail(Errc::wrong_state, "in no step");
      return 0;
    case wire::Op::resolve: {  // of one page
      const auto list = connection.get<wire::ListSpec>(request, 0);
      if (!sequences_.contains(list.sequence())) return fail(Errc::stale_handle, "no sequence");
      connection.put(request, 0, wire::ResolveCounts(1, 0, 0, 0, 0, 0, 0, 0, 0));
      connection.put(request, sizeof(wire::ResolveCounts) / sizeof(std::int32_t), std::int32_t{1});
      return 0;
    }
    default:
      return 0;
  }
}

// ---- what it knows

std::vector<std::uint32_t> MortalDaemon::blocks_of(std::uint64_t sequence) const {
  const std::lock_guard lock(mutex_);
  const auto at = sequences_.find(sequence);
  return at == sequences_.end() ? std::vector<std::uint32_t>{} : at->second;
}

std::set<std::uint64_t> MortalDaemon::sequences() const {
  const std::lock_guard lock(mutex_);
  std::set<std::uint64_t> handles;
  for (const auto& [handle, ids] : sequences_) handles.insert(handle);
  return handles;
}

std::optional<MortalDaemon::Block> MortalDaemon::block(std::uint32_t id) const {
  const std::lock_guard lock(mutex_);
  const auto at = blocks_.find(id);
  if (at == blocks_.end()) return std::nullopt;
  return at->second;
}

std::size_t MortalDaemon::private_blocks() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::size_t>(
      std::ranges::count_if(blocks_, [](const auto& block) { return !block.second.sealed; }));
}

std::uint32_t MortalDaemon::know(const std::string& key) {
  const std::lock_guard lock(mutex_);
  std::uint32_t id = kFrames - 1;  // from the other end
  while (blocks_.contains(id)) --id;
  blocks_[id] = {true, key};
  directory_[key] = id;
  return id;
}

void MortalDaemon::forget(std::uint32_t id) {
  const std::lock_guard lock(mutex_);
  blocks_.erase(id);
}

std::vector<std::string> MortalDaemon::requests() const {
  const std::lock_guard lock(mutex_);
  return std::exchange(requests_, {});
}

std::uint32_t MortalDaemon::actors() const {
  const std::lock_guard lock(mutex_);
  return static_cast<std::uint32_t>(actors_.size());
}

}  // namespace sluice::client::internal
