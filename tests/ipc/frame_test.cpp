#include "ipc/frame.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstring>
#include <random>
#include <thread>

#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::vector<std::byte> bytes(size);
  std::mt19937 random(seed);
  for (auto& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

std::vector<std::byte> framed(const std::vector<std::byte>& body) {
  std::vector<std::byte> frame(4 + body.size());
  const auto length = static_cast<std::uint32_t>(body.size());
  std::memcpy(frame.data(), &length, 4);
  std::memcpy(frame.data() + 4, body.data(), body.size());
  return frame;
}

std::vector<Fd> some_files(std::size_t count) {
  std::vector<Fd> files;
  files.reserve(count);
  for (std::size_t i = 0; i < count; ++i) files.emplace_back(memfd_create("file", MFD_CLOEXEC));
  return files;
}

std::vector<int> numbers_of(const std::vector<Fd>& files) {
  std::vector<int> numbers;
  numbers.reserve(files.size());
  for (const Fd& file : files) numbers.push_back(file.get());
  return numbers;
}

void send_raw(int socket, std::span<const std::byte> bytes, const std::vector<int>& fds = {}) {
  std::vector<char> control(CMSG_SPACE(sizeof(int) * std::max<std::size_t>(fds.size(), 1)));
  iovec place{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(part), fds.data(), sizeof(int) * fds.size());
  }
  ASSERT_EQ(sendmsg(socket, &message, 0), static_cast<ssize_t>(bytes.size()));
}

void expect_same_files(const std::vector<Fd>& got, const std::vector<Fd>& sent) {
  ASSERT_EQ(got.size(), sent.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(inode_of(got[i].get()), inode_of(sent[i].get()));
    EXPECT_NE(fcntl(got[i].get(), F_GETFD) & FD_CLOEXEC, 0);
  }
}

class FrameTest : public testing::Test {
 protected:
  SocketPair sockets = socket_pair();
  int from() const { return sockets.left.get(); }
  int to() const { return sockets.right.get(); }
};

TEST_F(FrameTest, ArrivesAsItWasSentWithItsDescriptorsInOrder) {
  const auto body = pattern(1000, 1);
  const auto files = some_files(3);
  ASSERT_OK(send_frame(from(), body, numbers_of(files), soon()));
  FrameReader reader(FdPolicy::accept);
  const auto frame = receive_frame(reader, to(), soon());
  ASSERT_OK(frame);
  EXPECT_EQ(frame->bytes, body);
  expect_same_files(frame->fds, files);
}

TEST_F(FrameTest, IsTheSameHoweverItsBytesAreCut) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    FrameReader reader(FdPolicy::accept);
    for (unsigned number = 0; number < 4; ++number) {
      const auto body = pattern(1 + random() % 300, number);
      const auto files = some_files(random() % 4);
      const auto frame = framed(body);
      // Descriptors may ride on any byte of the frame: they are still this frame's, in order.
      std::size_t given = 0;
      FrameReader::Progress progress = FrameReader::Progress::again;
      for (std::size_t sent = 0; sent < frame.size();) {
        ASSERT_EQ(progress, FrameReader::Progress::again);
        const std::size_t piece = std::min(frame.size() - sent, 1 + random() % 40);
        std::vector<int> fds;
        if (given < files.size()) fds.push_back(files[given++].get());
        if (sent + piece == frame.size()) {
          while (given < files.size()) fds.push_back(files[given++].get());
        }
        send_raw(from(), std::span(frame).subspan(sent, piece), fds);
        sent += piece;
        progress = reader.advance(to()).value();
      }
      ASSERT_EQ(progress, FrameReader::Progress::frame);
      const Frame got = reader.take();
      ASSERT_EQ(got.bytes, body);
      expect_same_files(got.fds, files);
    }
  }
}

TEST_F(FrameTest, DescriptorsOfFramesThatLieTogetherInTheSocketAreNotMixed) {
  std::vector<std::vector<Fd>> files;
  for (unsigned i = 0; i < 5; ++i) {
    files.push_back(some_files(i % 3));
    ASSERT_OK(send_frame(from(), pattern(10 + i, i), numbers_of(files.back()), soon()));
  }
  FrameReader reader(FdPolicy::accept);
  for (unsigned i = 0; i < 5; ++i) {
    ASSERT_EQ(reader.advance(to()).value(), FrameReader::Progress::frame);
    const Frame frame = reader.take();
    EXPECT_EQ(frame.bytes, pattern(10 + i, i));
    expect_same_files(frame.fds, files[i]);
  }
  EXPECT_EQ(reader.advance(to()).value(), FrameReader::Progress::again);
}

TEST_F(FrameTest, ALengthOfZeroOrAboveTheLimitIsRefused) {
  for (const std::uint32_t length : {0u, static_cast<std::uint32_t>(kMaxFrameBytes) + 1, ~0u}) {
    const SocketPair other = socket_pair();
    ASSERT_EQ(write(other.left.get(), &length, 4), 4);
    FrameReader reader(FdPolicy::refuse);
    EXPECT_ERROR(reader.advance(other.right.get()), Errc::peer_violation);
  }
}

TEST_F(FrameTest, TheDaemonsReaderRefusesDescriptorsAndNoneIsLeftOpen) {
  for (const std::size_t cut : {std::size_t{0}, std::size_t{2}, std::size_t{4}, std::size_t{50}}) {
    const SocketPair other = socket_pair();
    const auto files = some_files(2);
    const auto frame = framed(pattern(100, 1));
    const std::size_t before = open_descriptors();
    if (cut > 0) send_raw(other.left.get(), std::span(frame).first(cut));
    send_raw(other.left.get(), std::span(frame).subspan(cut), numbers_of(files));
    FrameReader reader(FdPolicy::refuse);
    EXPECT_ERROR(reader.advance(other.right.get()), Errc::peer_violation);
    EXPECT_EQ(open_descriptors(), before);
  }
}

TEST_F(FrameTest, TooManyDescriptorsAreRefusedAndNoneIsLeftOpen) {
  const auto files = some_files(kMaxFdsPerFrame + 1);
  const std::size_t before = open_descriptors();
  {
    const auto frame = framed(pattern(100, 1));
    send_raw(from(), frame, numbers_of(files));
    FrameReader reader(FdPolicy::accept);
    EXPECT_ERROR(reader.advance(to()), Errc::peer_violation);
  }
  {
    const SocketPair other = socket_pair();
    const auto frame = framed(pattern(100, 1));
    FrameReader reader(FdPolicy::accept);
    const auto numbers = numbers_of(files);
    send_raw(other.left.get(), std::span(frame).first(50), {numbers.begin(), numbers.begin() + 40});
    send_raw(other.left.get(), std::span(frame).subspan(50), {numbers.begin() + 40, numbers.end()});
    EXPECT_ERROR(reader.advance(other.right.get()), Errc::peer_violation);
  }
  EXPECT_EQ(open_descriptors(), before);
}

TEST_F(FrameTest, SaysWhenThereIsNoRoomForADescriptor) {
  Child child([&] {
    const auto files = some_files(4);
    if (!send_frame(from(), pattern(10, 1), numbers_of(files), soon())) return 1;
    rlimit limit{static_cast<rlim_t>(files.back().get()) + 2, 0};
    limit.rlim_max = limit.rlim_cur;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return 2;
    FrameReader reader(FdPolicy::accept);
    const auto frame = receive_frame(reader, to(), soon());
    return !frame && frame.error().code == Errc::limit_reached ? 0 : 3;
  });
  EXPECT_EQ(child.wait(), 0);
}

TEST_F(FrameTest, APeerThatClosesInTheMiddleOfAFrameIsClosed) {
  const auto frame = framed(pattern(100, 1));
  send_raw(from(), std::span(frame).first(60));
  sockets.left.reset();
  FrameReader reader(FdPolicy::refuse);
  EXPECT_EQ(reader.advance(to()).value(), FrameReader::Progress::closed);
  EXPECT_ERROR(receive_frame(reader, to(), soon()), Errc::daemon_away);
}

TEST_F(FrameTest, WaitingForAFrameEndsAtTheDeadlineAndCanGoOn) {
  const auto body = pattern(100, 1);
  const auto frame = framed(body);
  FrameReader reader(FdPolicy::refuse);
  send_raw(from(), std::span(frame).first(60));
  EXPECT_ERROR(receive_frame(reader, to(), deadline_in(std::chrono::milliseconds(5))),
               Errc::timed_out);
  send_raw(from(), std::span(frame).subspan(60));
  const auto got = receive_frame(reader, to(), soon());
  ASSERT_OK(got);
  EXPECT_EQ(got->bytes, body);
}

TEST_F(FrameTest, WaitingEndsAtTheDeadlineAlsoWhileThePeerSendsByteByByte) {
  const auto whole = framed(pattern(kMaxFrameBytes, 1));
  std::thread peer([&] {
    std::size_t at = 0;
    while (at < whole.size() && send(from(), whole.data() + at, 1, MSG_NOSIGNAL) == 1) ++at;
  });
  FrameReader reader(FdPolicy::accept);
  EXPECT_ERROR(receive_frame(reader, to(), deadline_in(std::chrono::milliseconds(20))),
               Errc::timed_out);
  shutdown(to(), SHUT_RDWR);  // ends the peer
  peer.join();
}

TEST_F(FrameTest, TheLargestFrameGoesThroughASmallSocketInManyPieces) {
  const int small = 4096;
  ASSERT_EQ(setsockopt(from(), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
  const auto body = pattern(kMaxFrameBytes, 3);
  const auto files = some_files(2);
  FrameWriter writer;
  ASSERT_OK(writer.enqueue(body, numbers_of(files)));
  ASSERT_OK(writer.enqueue(pattern(5, 4)));
  FrameReader reader(FdPolicy::accept);
  std::vector<Frame> got;
  while (got.size() < 2) {
    ASSERT_OK(writer.flush(from()));
    if (reader.advance(to()).value() == FrameReader::Progress::frame) got.push_back(reader.take());
  }
  EXPECT_TRUE(writer.empty());
  EXPECT_EQ(writer.queued_bytes(), 0u);
  EXPECT_EQ(got[0].bytes, body);
  expect_same_files(got[0].fds, files);
  EXPECT_EQ(got[1].bytes, pattern(5, 4));
  EXPECT_TRUE(got[1].fds.empty());
}

TEST_F(FrameTest, QueuedDescriptorsOutliveTheCallersOwn) {
  FrameWriter writer;
  auto files = some_files(1);
  const ino_t inode = inode_of(files[0].get());
  ASSERT_OK(writer.enqueue(pattern(5, 4), numbers_of(files)));
  files.clear();
  ASSERT_EQ(writer.flush(from()).value(), FrameWriter::Progress::drained);
  FrameReader reader(FdPolicy::accept);
  const auto frame = receive_frame(reader, to(), soon());
  ASSERT_OK(frame);
  EXPECT_EQ(inode_of(frame->fds.at(0).get()), inode);
}

TEST_F(FrameTest, TheQueueIsBoundedForAPeerThatDoesNotRead) {
  FrameWriter writer(64 << 10);
  const auto body = pattern(1000, 1);
  std::size_t accepted = 0;
  while (true) {
    const auto queued = writer.enqueue(body);
    if (!queued) {
      EXPECT_EQ(queued.error().code, Errc::busy);
      break;
    }
    ++accepted;
    ASSERT_LT(accepted, 1000u);
  }
  EXPECT_GT(accepted, 50u);
  EXPECT_LE(writer.queued_bytes(), 64u << 10);
  ASSERT_OK(writer.flush(from()));
  EXPECT_TRUE(writer.enqueue(body).has_value());
}

TEST_F(FrameTest, AFrameThatIsTooLargeIsNotQueued) {
  FrameWriter writer;
  EXPECT_ERROR(writer.enqueue(pattern(kMaxFrameBytes + 1, 1)), Errc::list_too_long);
  EXPECT_ERROR(writer.enqueue({}), Errc::list_too_long);
  const auto files = some_files(kMaxFdsPerFrame + 1);
  EXPECT_ERROR(writer.enqueue(pattern(5, 1), numbers_of(files)), Errc::list_too_long);
  EXPECT_TRUE(writer.empty());
}

TEST_F(FrameTest, APeerThatLetsDescriptorsPileUpUnreadIsEnded) {
  const auto files = some_files(kMaxFdsPerFrame);
  FrameWriter writer;
  const std::size_t frames = FrameWriter::kMaxUnreadFds / kMaxFdsPerFrame;
  for (std::size_t i = 0; i < frames; ++i) {
    ASSERT_OK(writer.enqueue(pattern(5, 1), numbers_of(files)));
    ASSERT_EQ(writer.flush(from()).value(), FrameWriter::Progress::drained);
  }
  FrameReader reader(FdPolicy::accept);
  for (std::size_t i = 0; i < frames; ++i) ASSERT_OK(receive_frame(reader, to(), soon()));
  for (std::size_t i = 0; i < frames; ++i) {  // all were read: as many again may go
    ASSERT_OK(writer.enqueue(pattern(5, 1), numbers_of(files)));
    ASSERT_EQ(writer.flush(from()).value(), FrameWriter::Progress::drained);
  }
  ASSERT_OK(writer.enqueue(pattern(5, 1), numbers_of(files)));
  EXPECT_ERROR(writer.flush(from()), Errc::peer_violation);
}

TEST_F(FrameTest, SendingEndsAtTheDeadlineOrWhenThePeerGoes) {
  EXPECT_ERROR(
      send_frame(from(), pattern(kMaxFrameBytes, 1), {}, deadline_in(std::chrono::milliseconds(5))),
      Errc::timed_out);
  sockets.right.reset();
  EXPECT_ERROR(send_frame(from(), pattern(10, 1), {}, soon()), Errc::daemon_away);
}

TEST_F(FrameTest, ManyFramesBetweenTwoThreads) {
  constexpr unsigned kFrames = 500;
  std::thread sending([&] {
    for (unsigned i = 0; i < kFrames; ++i) {
      EXPECT_TRUE(send_frame(from(), pattern(1 + i * 37 % 5000, i), {}, soon()).has_value());
    }
  });
  FrameReader reader(FdPolicy::refuse);
  for (unsigned i = 0; i < kFrames; ++i) {
    const auto frame = receive_frame(reader, to(), soon());
    ASSERT_OK(frame);
    ASSERT_EQ(frame->bytes, pattern(1 + i * 37 % 5000, i));
  }
  sending.join();
}

}  // namespace
}  // namespace sluice::ipc
