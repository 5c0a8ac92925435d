#include "client/link.h"

#include <poll.h>
#include <sys/socket.h>

#include "ipc/protocol.h"

namespace sluice::client::internal {

using ipc::Errc;
using ipc::fail;
namespace wire = ipc::wire;

ipc::Status Link::greet(const Greeting& greeting, ipc::Deadline deadline) {
  auto reply = control_.call(
      [&](flatbuffers::FlatBufferBuilder& builder) {
        const auto name = builder.CreateString(greeting.client_name);
        const auto token = builder.CreateVector(greeting.resume_token);
        wire::HelloBuilder hello(builder);
        hello.add_protocol_major(ipc::kProtocolMajor);
        hello.add_protocol_minor(ipc::kProtocolMinor);
        hello.add_features(ipc::kProtocolFeatures);
        hello.add_client_name(name);
        hello.add_admin(greeting.admin);
        hello.add_resume_session(greeting.resume_session);
        hello.add_resume_token(token);
        return hello.Finish();
      },
      deadline);
  if (!reply) return std::unexpected(reply.error());
  auto body = reply->as<wire::Welcome>();
  if (!body) return std::unexpected(body.error());
  const wire::Welcome& welcome = **body;
  const auto token = ipc::bytes_of(welcome.resume_token());
  if (!token.empty() && token.size() != kResumeTokenBytes) {
    return fail(Errc::peer_violation, "the daemon gave a resume token of " +
                                          std::to_string(token.size()) + " bytes; expected " +
                                          std::to_string(kResumeTokenBytes));
  }
  welcome_ = {welcome.session(),
              welcome.executors(),
              std::string(ipc::text_of(welcome.tenant())),
              std::string(ipc::text_of(welcome.daemon_version())),
              welcome.resumed(),
              {},
              welcome.outage_ms()};
  if (!token.empty()) {
    const auto* const bytes = welcome.resume_token();
    welcome_.token.assign(bytes->begin(), bytes->end());
  }
  if (greeting.admin) return {};
  auto& fds = reply->frame.fds;
  if (fds.size() != ipc::kWelcomeFds) {
    return fail(Errc::peer_violation, "the daemon's welcome came with " +
                                          std::to_string(fds.size()) + " descriptors; expected " +
                                          std::to_string(ipc::kWelcomeFds));
  }
  auto memory = ipc::SessionMemory::attach(std::move(fds[0]), welcome.ring_capacity(),
                                           welcome.request_bytes());
  if (!memory) return std::unexpected(memory.error());
  channel_.emplace(std::move(*memory), ipc::Doorbell(std::move(fds[1])), control_);
  return {};
}

bool Link::hung_up() const {
  pollfd socket{control_.fd(), POLLRDHUP, 0};
  return poll(&socket, 1, 0) > 0 && (socket.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

bool Link::broken() {
  return control_.end_code() != Errc::ok || (channel_ && channel_->end_code() != Errc::ok) ||
         hung_up();
}

void Link::cut() const { (void)shutdown(control_.fd(), SHUT_RDWR); }

}  // namespace sluice::client::internal
