// A hostile sender of frames: any bytes, cut anywhere, with descriptors anywhere. Each frame that
// comes out is what was sent at its place; every other end is typed; no descriptor is left open.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ipc/frame.h"
#include "tests/fuzz/script.h"

namespace sluice::ipc {
namespace {

constexpr std::size_t kMostSent = 64 << 10;
constexpr std::size_t kMostFdsPerSend = 80;  // above what a frame may carry

// What the sender sends; not a socket, which would keep the connection alive.
int some_file() {
  static const Fd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return file.get();
}

class Session {
 public:
  explicit Session(FdPolicy policy) : policy_(policy), reader_(policy) {
    int ends[2];
    SLUICE_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    hostile_ = Fd(ends[0]);
    honest_ = Fd(ends[1]);
  }

  void send(std::span<const std::uint8_t> bytes, std::size_t fds) {
    if (bytes.empty()) return;
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kMostFdsPerSend)> control{};
    iovec place{const_cast<std::uint8_t*>(bytes.data()), bytes.size()};
    msghdr message{};
    message.msg_iov = &place;
    message.msg_iovlen = 1;
    if (fds > 0) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds);
      cmsghdr* part = CMSG_FIRSTHDR(&message);
      part->cmsg_level = SOL_SOCKET;
      part->cmsg_type = SCM_RIGHTS;
      part->cmsg_len = CMSG_LEN(sizeof(int) * fds);
      const int number = some_file();
      for (std::size_t i = 0; i < fds; ++i) {
        std::memcpy(CMSG_DATA(part) + i * sizeof(int), &number, sizeof(int));
      }
    }
    const ssize_t sent = sendmsg(hostile_.get(), &message, MSG_NOSIGNAL);
    if (sent > 0) sent_.insert(sent_.end(), bytes.begin(), bytes.begin() + sent);
  }

  // false: the reader has come to its end.
  bool read_all() {
    while (true) {
      const auto progress = reader_.advance(honest_.get());
      if (!progress) {
        SLUICE_ASSERT(progress.error().code == Errc::peer_violation);
        return false;
      }
      if (*progress == FrameReader::Progress::closed) return false;
      if (*progress == FrameReader::Progress::again) return true;
      check(reader_.take());
    }
  }

  void hang_up() { hostile_.reset(); }

 private:
  void check(const Frame& frame) {
    std::uint32_t length = 0;
    SLUICE_ASSERT(position_ + sizeof(length) <= sent_.size());
    std::memcpy(&length, sent_.data() + position_, sizeof(length));
    position_ += sizeof(length);
    SLUICE_ASSERT(length == frame.bytes.size() && position_ + length <= sent_.size());
    SLUICE_ASSERT(std::memcmp(frame.bytes.data(), sent_.data() + position_, length) == 0);
    position_ += length;
    SLUICE_ASSERT(frame.fds.size() <= (policy_ == FdPolicy::accept ? kMaxFdsPerFrame : 0));
  }

  FdPolicy policy_;
  FrameReader reader_;
  Fd hostile_, honest_;
  std::vector<std::uint8_t> sent_;
  std::size_t position_ = 0;  // of sent_ that came out as frames
};

// The least free descriptor: rises if one is left open.
int least_free() { return Fd(fcntl(0, F_DUPFD_CLOEXEC, 0)).get(); }

void run(Script script) {
  Session session(script.u8() % 2 == 0 ? FdPolicy::refuse : FdPolicy::accept);
  std::size_t sent = 0;
  while (!script.over() && sent < kMostSent) {
    const std::uint8_t what = script.u8();
    const std::size_t fds = what < 0xC0 ? 0 : 1 + script.u8() % kMostFdsPerSend;
    const auto bytes = script.bytes(1 + (what & 0x3F));
    sent += bytes.size();
    session.send(bytes, fds);
    if ((what & 0x40) != 0 && !session.read_all()) return;
  }
  session.hang_up();
  SLUICE_ASSERT(!session.read_all());
}

}  // namespace
}  // namespace sluice::ipc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  SLUICE_ASSERT(sluice::ipc::some_file() >= 0);
  const int before = sluice::ipc::least_free();
  sluice::ipc::run({data, size});
  SLUICE_ASSERT(sluice::ipc::least_free() == before);
  return 0;
}
