// A daemon that the tests of the library make lie: one session, one cache of kSlots slots and
// kFrames frames, and answers that look like those of an honest one but for what a test sets.
//
// Thread-safety: the constructor's thread; what is atomic, from any.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "client/cache.h"
#include "client/sluice.h"
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

  // Ends the session and goes away, as the death of a daemon does; with `why`, it says so first.
  // The client has connected, and waits for nothing.
  void go_away(const std::optional<ipc::Error>& why = std::nullopt);

  static CacheOptions cache();
  // The same cache, for the C ABI.
  static sluice_cache_desc cache_desc(sluice_executor executor);
  // Of a cache for executor direct.
  static kernels::TableSizes table();

  std::atomic<std::int32_t> slot{0};                    // of every page that is resolved
  std::atomic<std::uint32_t> frame{0};                  // of every block that is added
  std::atomic<std::uint32_t> sealed_as{kNoOtherBlock};  // the id of the block that seals find
  // On a GPU: the device's part of the table is told to have so many bytes less than it has.
  std::atomic<std::uint64_t> table_bytes_missing{0};
  std::atomic<bool> opened_on_device{false};  // as the last open asked
  std::atomic<bool> opens_for_itself{false};  // says executor daemon, whoever asked for which

  static constexpr std::uint32_t kNoOtherBlock = ~0u;

 private:
  void run();
  // False when the client is gone.
  bool serve_control();
  void serve_rings();
  ipc::wire::Completion answer(const ipc::wire::Submission& request);
  std::vector<std::byte> open_cache(const ipc::wire::Envelope& envelope, std::vector<int>& fds);
  std::vector<std::byte> reply_to(const ipc::wire::Envelope& envelope, std::vector<int>& fds);

  ipc::TempFolder folder_;
  std::string socket_ = folder_.file("socket");
  ipc::UnixListener listener_;
  ipc::Fd connection_;
  std::atomic<bool> connected_{false};  // connection_ may be read by any thread
  ipc::FrameReader reader_{ipc::FdPolicy::refuse};
  ipc::SessionMemory memory_;
  ipc::DoorbellPair bells_;
  ipc::SubmissionConsumer requests_;
  ipc::CompletionProducer completions_;
  ipc::Fd arena_, frames_, host_table_, node_table_, device_table_;
  std::uint32_t blocks_ = 0;
  std::thread thread_;
};

}  // namespace sluice::client::internal
