// A daemon that the tests of the library let die and come back: it keeps the memory of its one
// cache, and what it knows of blocks, as a real one does, and forgets its handles.
//
// It can be told to die at a request, before it carries it out or after, and never answers that
// one.
//
// Thread-safety: the constructor's thread; what it tells of its state, at any time.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "client/cache.h"
#include "ipc/doorbell.h"
#include "ipc/message.h"
#include "ipc/session_memory.h"
#include "ipc/unix_socket.h"
#include "tests/ipc/support.h"

namespace sluice::client::internal {

class MortalDaemon {
 public:
  static constexpr std::uint32_t kSlots = 64;
  static constexpr std::uint32_t kFrames = 64;
  static constexpr std::uint32_t kActors = 4;

  MortalDaemon();
  ~MortalDaemon();

  const std::string& socket() const { return socket_; }
  static CacheOptions cache(ipc::wire::Executor executor);

  // Dies; with `why`, it says so first. Returns when it is dead.
  void die(const std::optional<ipc::Error>& why = std::nullopt);
  enum class When : std::uint8_t { before, after };
  // Dies at the next request of this name (of wire::Op or wire::Body).
  void die_at(const std::string& request, When when);
  // Waits until it has died so.
  void wait_until_dead();
  void come_back();
  void come_back_to_die_at(const std::string& request, When when);

  // ---- what a test sets, before it comes back or while nothing is asked

  std::atomic<bool> resumable{true};       // gives tokens
  std::atomic<bool> knows_sessions{true};  // or is a cold start
  std::atomic<std::uint64_t> incarnation{7};
  std::atomic<std::uint32_t> outage_ms{0};
  std::atomic<std::uint32_t> seal_error{0};    // an Errc that seals end with
  std::atomic<std::uint32_t> extend_error{0};  // and extends
  std::atomic<std::uint32_t> room{kFrames};    // blocks there can be

  // ---- what it knows

  struct Block {
    bool sealed = false;
    std::string key;
  };
  std::vector<std::uint32_t> blocks_of(std::uint64_t sequence) const;
  std::set<std::uint64_t> sequences() const;
  std::optional<Block> block(std::uint32_t id) const;
  std::size_t private_blocks() const;
  // A block that somebody else has sealed.
  std::uint32_t know(const std::string& key);
  // Gives a block up behind the client's back.
  void forget(std::uint32_t id);
  std::vector<std::string> requests() const;  // since the last call of this, but nop
  std::uint32_t actors() const;
  std::uint64_t hellos() const { return hellos_; }

 private:
  struct Connection;

  void run();
  bool serve_control(Connection& connection);
  bool serve_rings(Connection& connection);
  std::vector<std::byte> reply_to(Connection& connection, const ipc::wire::Envelope& envelope,
                                  std::vector<int>& fds);
  std::vector<std::byte> welcome(Connection& connection, const ipc::wire::Envelope& envelope,
                                 std::vector<int>& fds);
  std::vector<std::byte> open_cache(const ipc::wire::Envelope& envelope, std::vector<int>& fds);
  ipc::wire::Completion answer(Connection& connection, const ipc::wire::Submission& request);
  ipc::Result<std::uint64_t> carry_out(Connection& connection, const ipc::wire::Submission& request,
                                       std::uint64_t& value1);
  ipc::Result<std::uint64_t> seal(Connection& connection, const ipc::wire::Submission& request);
  ipc::Result<std::uint64_t> adopt(Connection& connection, const ipc::wire::Submission& request);
  ipc::Result<std::uint64_t> open(Connection& connection, const ipc::wire::Submission& request,
                                  std::uint64_t& value1);
  bool dies_at(const std::string& request, When when);
  void resume_done();
  ipc::Result<std::uint32_t> make_block();

  ipc::TempFolder folder_;
  std::string socket_ = folder_.file("socket");
  ipc::Fd arena_, frames_, table_, node_table_, device_table_;

  mutable std::mutex mutex_;  // of the following
  std::string deadly_;
  When when_ = When::before;
  std::map<std::uint32_t, Block> blocks_;
  std::map<std::string, std::uint32_t> directory_;
  std::map<std::uint64_t, std::vector<std::uint32_t>> sequences_;
  std::set<std::uint32_t> in_step_;
  std::set<std::uint32_t> actors_;
  mutable std::vector<std::string> requests_;
  std::uint64_t next_handle_ = 1;
  std::vector<std::uint8_t> token_;
  bool resuming_ = false;
  std::optional<ipc::Error> last_words_;

  std::atomic<std::uint64_t> hellos_{0};
  std::optional<ipc::UnixListener> listener_;
  ipc::Fd stop_;  // an eventfd
  std::atomic<bool> dead_{true};
  std::thread thread_;
};

}  // namespace sluice::client::internal
