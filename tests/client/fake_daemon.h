// A daemon that the tests of the library make lie: one session, one cache of kSlots slots and
// kFrames frames, and answers that look like those of an honest one but for what a test sets.
//
// Thread-safety: the constructor's thread; what is atomic, from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "client/cache.h"
#include "ipc/doorbell.h"
#include "ipc/fd.h"
#include "ipc/message.h"
#include "ipc/session_memory.h"
#include "ipc/unix_socket.h"
#include "tests/ipc/support.h"

namespace sluice::client::internal {

class FakeDaemon {
 public:
  static constexpr std::uint32_t kSlots = 4;
  static constexpr std::uint32_t kFrames = 4;

  FakeDaemon();
  ~FakeDaemon();

  const std::string& socket() const { return socket_; }
  static CacheOptions cache();

  std::atomic<std::int32_t> slot{0};    // of every page that is resolved
  std::atomic<std::uint32_t> frame{0};  // of every block that is added

 private:
  void run();
  // False when the client is gone.
  bool serve_control();
  void serve_rings();
  ipc::wire::Completion answer(const ipc::wire::Submission& request);
  std::vector<std::byte> reply_to(const ipc::wire::Envelope& envelope, std::vector<int>& fds);

  ipc::TempFolder folder_;
  std::string socket_ = folder_.file("socket");
  ipc::UnixListener listener_;
  ipc::Fd connection_;
  ipc::FrameReader reader_{ipc::FdPolicy::refuse};
  ipc::SessionMemory memory_;
  ipc::DoorbellPair bells_;
  ipc::SubmissionConsumer requests_;
  ipc::CompletionProducer completions_;
  ipc::Fd arena_, frames_;
  std::uint32_t blocks_ = 0;
  std::thread thread_;
};

}  // namespace sluice::client::internal
