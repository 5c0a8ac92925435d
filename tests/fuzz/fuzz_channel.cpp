// A hostile daemon at the rings of a client: it answers what it likes and when, and writes anything
// anywhere in the session's memory. Every call ends; a ticket gives back the memory that was sent
// with it, or an error; a session that ended stays so, and its end is no time-out.
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <vector>

#include "client/channel.h"
#include "tests/fuzz/script.h"

namespace sluice::client::internal {
namespace {

using ipc::Deadline;
using ipc::Errc;
using ipc::Script;
namespace wire = ipc::wire;

constexpr std::uint32_t kRing = 4;
constexpr std::size_t kRequestBytes = 4096;
constexpr int kMaxSteps = 64;  // a wait in vain takes some system calls

class Session {
 public:
  explicit Session(Script script) : script_(script) {
    memory_ = std::move(*ipc::SessionMemory::create(kRing, kRequestBytes));
    bells_ = std::move(*ipc::make_doorbell());
    int ends[2];
    SLUICE_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    socket_ = ipc::Fd(ends[0]);
    control_.emplace(ipc::Fd(ends[1]));
    auto mine = ipc::SessionMemory::attach(std::move(*ipc::duplicate(memory_.fd().get())), kRing,
                                           kRequestBytes);
    channel_.emplace(std::move(*mine), std::move(bells_.client_end), *control_);
  }

  void run() {
    for (int i = 0; i < kMaxSteps && !script_.over(); ++i) step();
    // Nobody answers any more: the reason why the session ended, or a time-out.
    while (!sent_.empty()) wait(0, true);
  }

 private:
  struct Sent {
    Channel::Ticket ticket;
    std::uint32_t offset = 0, size = 0;
  };

  void step() {
    switch (script_.u8() % 8) {
      case 0:
      case 1:
        submit();
        break;
      case 2:
        if (!sent_.empty()) wait(script_.u8() % sent_.size(), false);
        break;
      case 3:
        if (!sent_.empty()) abandon(script_.u8() % sent_.size());
        break;
      case 4:
      case 5:
        answer();
        break;
      case 6:
        take();
        break;
      default:
        scribble();
    }
    check_end();
  }

  void submit() {
    auto piece = channel_->allocate(std::size_t{script_.u8()} * 4, Deadline::min());
    if (!piece) return failed(piece.error());
    Sent sent{{}, piece->offset(), piece->size()};
    Channel::Request request;
    request.op = static_cast<wire::Op>(script_.u8() % 13);
    request.reply_offset = script_.u8();
    request.reply_length = script_.u8();
    auto ticket = channel_->submit(request, std::move(*piece), Deadline::min());
    if (!ticket) return failed(ticket.error());
    sent.ticket = *ticket;
    last_user_data_ = ticket->user_data;
    sent_.push_back(sent);
  }

  void wait(std::size_t index, bool for_the_last_time) {
    const Sent sent = sent_[index];
    const auto answer = channel_->wait(sent.ticket, Deadline::min());
    if (answer) {
      SLUICE_ASSERT(answer->memory.offset() == sent.offset && answer->memory.size() == sent.size);
    } else if (answer.error().code == Errc::timed_out) {
      SLUICE_ASSERT(channel_->end_code() == Errc::ok);
      if (!for_the_last_time) return;
    }
    forget(index);
  }

  void abandon(std::size_t index) {
    channel_->abandon(sent_[index].ticket);
    forget(index);
  }

  void forget(std::size_t index) {
    sent_.erase(sent_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  static void failed(const ipc::Error& error) { SLUICE_ASSERT(error.code != Errc::ok); }

  void check_end() {
    const Errc now = channel_->end_code();
    SLUICE_ASSERT(now != Errc::timed_out && (end_ == Errc::ok || end_ == now));
    end_ = now;
  }

  // ---- the daemon

  // Mostly to a request that was made, not always to one that still waits.
  void answer() {
    std::uint64_t user_data = last_user_data_;
    const std::uint8_t which = script_.u8();
    if (which < 160 && !sent_.empty()) {
      user_data = sent_[which % sent_.size()].ticket.user_data;
    } else if (which > 240) {
      user_data = (std::uint64_t{script_.u32()} << 32) | script_.u32();
    }
    const std::uint8_t error = script_.u8();
    const std::uint16_t code = error < 128 ? 0 : error % 32;
    const wire::Completion completion(user_data, script_.u8(), script_.u8(), code, 0, 0);
    const ipc::RingView ring = memory_.completion_ring();
    const std::uint32_t slot = ring.control->tail % kRing;
    std::memcpy(ring.slots + slot * ipc::kSlotBytes<wire::Completion>, &completion,
                sizeof(completion));
    ++ring.control->tail;
  }

  void take() { memory_.submission_ring().control->head += script_.u8() % 4; }

  void scribble() {
    auto* first = reinterpret_cast<std::byte*>(memory_.submission_ring().control);
    const std::size_t bytes = memory_.layout().memory_bytes - ipc::kCacheLineBytes;
    const std::uint8_t what = script_.u8();
    // The six words of the rings, or anywhere.
    const std::size_t word = what < 24 ? what % 6 * ipc::kCacheLineBytes : script_.u32() % bytes;
    const auto value = script_.bytes(4);
    std::memcpy(first + word, value.data(), std::min(value.size(), bytes - word));
  }

  Script script_;
  ipc::SessionMemory memory_;
  ipc::DoorbellPair bells_;
  ipc::Fd socket_;
  std::optional<Control> control_;
  std::optional<Channel> channel_;
  std::vector<Sent> sent_;
  std::uint64_t last_user_data_ = 0;
  Errc end_ = Errc::ok;
};

}  // namespace
}  // namespace sluice::client::internal

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::client::internal::Session({data, size}).run();
  return 0;
}
