#include "tests/hostile/raw_peer.h"

#include <sys/socket.h>
#include <unistd.h>

#include <stdexcept>
#include <vector>

#include "ipc/deadline.h"
#include "ipc/message.h"
#include "ipc/protocol.h"
#include "ipc/unix_socket.h"
#include "tests/integration/daemon_process.h"

namespace sluice::test {

namespace wire = ipc::wire;

RawPeer::RawPeer(const std::string& path) {
  auto socket = ipc::connect_unix(path, ipc::deadline_in(kDeadline));
  if (!socket) throw std::runtime_error(socket.error().text);
  socket_ = std::move(*socket);
}

bool RawPeer::send(std::span<const std::byte> bytes) {
  return ipc::send_frame(fd(), bytes, {}, ipc::deadline_in(kDeadline)).has_value();
}

bool RawPeer::hello(bool admin) {
  return send(ipc::make_message(1, [&](auto& builder) {
    return wire::CreateHello(builder, ipc::kProtocolMajor, ipc::kProtocolMinor, 0, 0, 0, admin);
  }));
}

bool RawPeer::resume(std::uint64_t session) {
  return send(ipc::make_message(1, [&](auto& builder) {
    const auto token = builder.CreateVector(std::vector<std::uint8_t>(16, 0));
    wire::HelloBuilder hello(builder);
    hello.add_protocol_major(ipc::kProtocolMajor);
    hello.add_protocol_minor(ipc::kProtocolMinor);
    hello.add_resume_session(session);
    hello.add_resume_token(token);
    return hello.Finish();
  }));
}

bool RawPeer::ask(const char* verb) {
  return send(ipc::make_message(
      2, [&](auto& builder) { return wire::CreateAdminRequestDirect(builder, verb); }));
}

bool RawPeer::send_raw(std::span<const std::byte> bytes) {
  return ::send(fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(bytes.size());
}

ipc::Result<ipc::Frame> RawPeer::receive() {
  auto frame = ipc::receive_frame(reader_, fd(), ipc::deadline_in(kDeadline));
  if (!frame) return frame;
  const auto envelope = ipc::verify_envelope(frame->bytes);
  if (!envelope) return std::unexpected(envelope.error());
  const auto said = [](const auto& why) {
    return std::unexpected(ipc::error_from_wire(why.code(), ipc::text_of(why.text())));
  };
  if (const auto* failed = (*envelope)->body_as_Failed()) return said(*failed);
  if (const auto* closing = (*envelope)->body_as_Closing()) return said(*closing);
  return frame;
}

ipc::Error RawPeer::end() {
  while (true) {
    auto frame = receive();
    if (!frame) return frame.error();
  }
}

RawPeer::Session RawPeer::open_session() {
  if (!hello(false)) throw std::runtime_error("the daemon does not take a Hello");
  auto frame = receive();
  if (!frame) throw std::runtime_error(frame.error().text);
  const auto* welcome = (*ipc::verify_envelope(frame->bytes))->body_as_Welcome();
  if (welcome == nullptr || frame->fds.size() != ipc::kWelcomeFds) {
    throw std::runtime_error("no welcome");
  }
  auto memory = ipc::SessionMemory::attach(std::move(frame->fds[0]), welcome->ring_capacity(),
                                           welcome->request_bytes());
  if (!memory) throw std::runtime_error(memory.error().text);
  return {std::move(*memory), ipc::Doorbell(std::move(frame->fds[1]))};
}

std::optional<RawPeer> connect_as(uid_t uid, const std::string& path) {
  if (seteuid(uid) != 0) return std::nullopt;
  std::optional<RawPeer> peer;
  try {
    peer.emplace(path);
  } catch (const std::runtime_error&) {
    peer.reset();
  }
  if (seteuid(0) != 0) throw std::runtime_error("root is lost");
  return peer;
}

}  // namespace sluice::test
