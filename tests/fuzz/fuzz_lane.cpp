// A session that says anything at all to its lane: descriptors and request memory come from the
// input. The lane may end the session, never crash, and gives everything back when the session is
// over.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>

#include "daemon/coordinator.h"
#include "daemon/lane_session.h"
#include "tests/daemon/test_session.h"

namespace {

using namespace sluice::daemon;  // NOLINT(google-build-using-namespace): one function of a test
namespace ipc = sluice::ipc;
namespace test = sluice::test;
namespace wire = sluice::ipc::wire;

constexpr std::uint32_t kRing = 64;
constexpr std::uint64_t kRequestBytes = 64 << 10;
constexpr std::size_t kMostRequests = 200;

// One coordinator and cache for all inputs: what an input leaves behind, the next one meets.
struct Node {
  Node() {
    config.limits.actors_per_cache = 8;
    config.limits.sequences_per_session = 64;
    coordinator = std::move(*Coordinator::create(
        config, one_device(make_host_device(HugePages::never, HugePages::never))));
  }
  Config config = test::small_config();
  std::unique_ptr<Coordinator> coordinator;
};

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}
  template <class T>
  T take() {
    T value{};
    const std::size_t bytes = std::min(sizeof(T), size_);
    std::memcpy(&value, data_, bytes);
    data_ += bytes;
    size_ -= bytes;
    return value;
  }
  bool empty() const { return size_ == 0; }
  const std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  const std::uint8_t* data_;
  std::size_t size_;
};

// A number that is often a small one, sometimes anything.
std::uint64_t number(Input& input) {
  const auto kind = input.take<std::uint8_t>();
  if (kind < 200) return kind % 8;
  if (kind < 240) return input.take<std::uint16_t>();
  return input.take<std::uint64_t>();
}

wire::Submission request_from(Input& input, std::uint64_t cache) {
  const auto op = static_cast<std::uint16_t>(input.take<std::uint8_t>() % 16);
  // Mostly a handle that may be right: generation 1 of a small index, or the cache's.
  std::uint64_t handle = number(input) | (std::uint64_t{1} << 32);
  if (input.take<std::uint8_t>() % 3 == 0) handle = cache;
  const auto u32 = [&] { return static_cast<std::uint32_t>(number(input)); };
  const std::uint32_t offset = u32() * 8;
  const std::uint32_t length = u32() * 16;
  return wire::Submission(number(input), handle, number(input), op, 0, u32(), u32(), offset, length,
                          32768, input.take<std::uint8_t>() % 4 == 0 ? u32() : 16384, 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Node node;
  Input input(data, size);
  const auto session =
      std::make_shared<test::TestSession>(*node.coordinator, 0, kRing, kRequestBytes);
  const auto cache = test::open_small_cache(*node.coordinator, *session);
  if (cache) (void)node.coordinator->open_actor(*session, cache->handle);
  {
    LaneSession lane(session, *node.coordinator);
    ipc::SubmissionProducer requests(session->memory.submission_ring());
    ipc::CompletionConsumer completions(session->memory.completion_ring());
    const auto memory = session->memory.request_memory();
    for (std::size_t i = 0; i < kMostRequests && !input.empty(); ++i) {
      // Structs that the request will find: the cache's handle first, which OpenSpec begins with.
      const std::uint64_t handle = cache ? cache->handle.bits() : 0;
      std::memcpy(memory.data(), &handle, sizeof(handle));
      const std::size_t bytes = std::min<std::size_t>(input.size(), 96);
      std::memcpy(memory.data() + sizeof(handle), input.data(), bytes);
      if (!requests.push(request_from(input, handle)).value_or(false)) break;
      (void)requests.publish();
      if (!lane.serve(4)) break;
      while (true) {
        auto completion = completions.next();
        if (!completion || !*completion) break;
      }
    }
  }
  node.coordinator->end_session(session, true, std::chrono::steady_clock::now());
  for (int i = 0; i < 64; ++i) node.coordinator->tick();
  const auto status =
      node.coordinator->with_manager([](auto& manager) { return manager.status(); });
  SLUICE_ASSERT(status.sessions == 0 && status.sequences == 0);
  SLUICE_ASSERT(status.blocks.taken == 0 && status.blocks.retiring == 0);
  return 0;
}
