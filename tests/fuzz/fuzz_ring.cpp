// A hostile peer at both rings and the request memory, first of the daemon, then of the client: it
// writes anything anywhere between the steps of the honest end. The honest end never leaves its
// memory (each part is a heap block of its exact size, so asan sees it), and each call ends in a
// value or a typed error that lasts.
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "ipc/session_memory.h"
#include "ipc/validated.h"
#include "tests/fuzz/script.h"

namespace sluice::ipc {
namespace {

constexpr std::uint32_t kCapacity = 8;
constexpr std::size_t kRequestBytes = 512;
constexpr std::size_t kMostCopied = 256;
constexpr int kMaxSteps = 4096;

template <class Descriptor>
class SharedRing {
 public:
  SharedRing()
      : control_(std::make_unique<RingControl>()),
        slots_(static_cast<std::byte*>(operator new(kBytes, std::align_val_t{kCacheLineBytes}))) {
    std::memset(slots_, 0, kBytes);
    control_->tail = control_->head = control_->need_wakeup = 0;
  }
  SharedRing(const SharedRing&) = delete;
  SharedRing& operator=(const SharedRing&) = delete;
  ~SharedRing() { operator delete(slots_, std::align_val_t{kCacheLineBytes}); }

  RingView view() { return {control_.get(), slots_, kCapacity}; }

  void scribble(Script& script) {
    switch (script.u8() % 6) {
      case 0:
        control_->tail = script.u32();
        break;
      case 1:
        control_->head = script.u32();
        break;
      case 2:
        control_->need_wakeup = script.u32();
        break;
      case 3:
        control_->tail += 1 + script.u8() % kCapacity;
        break;
      case 4:
        control_->head += 1 + script.u8() % kCapacity;
        break;
      default: {
        const std::size_t from = script.u8() * kBytes / 256;
        const auto bytes = script.bytes(kSlotBytes<Descriptor>);
        std::memcpy(slots_ + from, bytes.data(), std::min(bytes.size(), kBytes - from));
      }
    }
  }

 private:
  static constexpr std::size_t kBytes = kCapacity * kSlotBytes<Descriptor>;

  std::unique_ptr<RingControl> control_;
  std::byte* slots_;
};

// Whether a call of a ring's end went well; an end that was broken once must stay so.
class Verdict {
 public:
  template <class Value>
  bool operator()(const Result<Value>& result) {
    if (result) {
      SLUICE_ASSERT(!broken_);
      return true;
    }
    SLUICE_ASSERT(result.error().code == Errc::peer_violation);
    broken_ = true;
    return false;
  }

 private:
  bool broken_ = false;
};

class HonestDaemon {
 public:
  HonestDaemon(RingView submissions, RingView completions, std::span<std::byte> memory)
      : submissions_(submissions), completions_(completions), copier_(memory), memory_(memory) {}

  void step(std::uint8_t what) {
    if (what % 4 == 0) {
      if (good_in_(submissions_.prepare_to_sleep())) submissions_.awake();
      return;
    }
    const auto next = submissions_.next();
    if (good_in_(next) && *next) serve(**next);
  }

 private:
  void serve(const wire::Submission& submission) {
    read_request(submission);
    const auto reply = copier_.reply_area(Untrusted(submission.reply_offset()),
                                          Untrusted(submission.reply_length()));
    if (reply) {
      SLUICE_ASSERT(reply->empty() ||
                    (reply->data() >= memory_.data() && reply->size() <= memory_.size()));
      std::ranges::fill(*reply, std::byte{0xAB});
    } else {
      SLUICE_ASSERT(reply.error().code == Errc::peer_violation);
    }
    const auto pushed = completions_.push({submission.user_data(), 0, 0, 0, 0, 0});
    if (good_out_(pushed)) (void)completions_.publish();
  }

  // As a lane would: a header, so many numbers, then bytes.
  void read_request(const wire::Submission& submission) {
    const auto bytes =
        copier_.copy(Untrusted(submission.offset()), Untrusted(submission.length()), kMostCopied);
    if (!bytes) {
      SLUICE_ASSERT(bytes.error().code == Errc::peer_violation ||
                    bytes.error().code == Errc::list_too_long);
      return;
    }
    SLUICE_ASSERT(bytes->size() == submission.length() && bytes->size() <= kMostCopied);
    ByteCursor cursor(*bytes);
    const auto spec = cursor.take<wire::ListSpec>("list");
    if (!spec) return;
    const auto numbers = cursor.take_array<std::uint32_t>(spec->count(), "numbers");
    if (!numbers || !cursor.align_to(8, "padding")) return;
    std::uint64_t sum = 0;
    for (const std::uint32_t number : *numbers) sum += number;
    const auto more = cursor.take_array<std::uint64_t>(sum, "more");
    SLUICE_ASSERT(!more || more->size() == sum);
  }

  SubmissionConsumer submissions_;
  CompletionProducer completions_;
  RequestCopier copier_;
  std::span<std::byte> memory_;
  Verdict good_in_, good_out_;
};

class HonestClient {
 public:
  HonestClient(RingView submissions, RingView completions)
      : submissions_(submissions), completions_(completions) {}

  void step(std::uint8_t what) {
    if (what % 3 == 0) {
      const auto next = completions_.next();
      if (good_in_(next) && *next) sum_ += (*next)->user_data();
    } else if (what % 3 == 1) {
      if (good_in_(completions_.prepare_to_sleep())) completions_.awake();
    } else {
      const wire::Submission submission(sum_, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
      if (good_out_(submissions_.push(submission))) (void)submissions_.publish();
      const auto free = submissions_.free_slots();
      SLUICE_ASSERT(!good_out_(free) || *free <= kCapacity);
    }
  }

 private:
  SubmissionProducer submissions_;
  CompletionConsumer completions_;
  std::uint64_t sum_ = 0;
  Verdict good_in_, good_out_;
};

void run(Script script) {
  SharedRing<wire::Submission> submissions;
  SharedRing<wire::Completion> completions;
  std::vector<std::uint64_t> words(kRequestBytes / 8);
  const auto request = std::as_writable_bytes(std::span(words));
  std::optional<HonestDaemon> daemon;
  std::optional<HonestClient> client;
  if (script.u8() % 2 == 0) {
    daemon.emplace(submissions.view(), completions.view(), request);
  } else {
    client.emplace(submissions.view(), completions.view());
  }
  for (int i = 0; i < kMaxSteps && !script.over(); ++i) {
    const std::uint8_t what = script.u8();
    switch (what & 3) {
      case 0:
        submissions.scribble(script);
        break;
      case 1:
        completions.scribble(script);
        break;
      case 2: {
        const std::size_t from = std::size_t{script.u8()} * 2;
        const auto bytes = script.bytes(what >> 2);
        std::memcpy(request.data() + from, bytes.data(),
                    std::min(bytes.size(), request.size() - from));
        break;
      }
      default:
        if (daemon) daemon->step(static_cast<std::uint8_t>(what >> 2));
        if (client) client->step(static_cast<std::uint8_t>(what >> 2));
    }
  }
}

}  // namespace
}  // namespace sluice::ipc

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  sluice::ipc::run({data, size});
  return 0;
}
