// The launches of kernels/cuda/launch.h that make a table and enter and leave a step.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/table.h"

namespace sluice::kernels {
namespace {

constexpr TableSizes kSizes{
    .slots = 1000,
    .blocks = 50,
    .pages_per_block = 4,
    .actors = 3,
    .log_capacity = 16,
    .hint_capacity = 64,
};

// A split table in zeroed memory of its own.
class LaunchTest : public testing::Test {
 protected:
  void SetUp() override {
    const SplitOffsets offsets = split_offsets_of(kSizes);
    ASSERT_EQ(cudaMalloc(&device_part_, offsets.device_end), cudaSuccess);
    ASSERT_EQ(cudaMemset(device_part_, 0, offsets.device_end), cudaSuccess);
    ASSERT_EQ(cudaHostAlloc(&host_part_, offsets.host_end, cudaHostAllocMapped), cudaSuccess);
    std::memset(host_part_, 0, offsets.host_end);
    table_ = view_split_table(device_part_, host_part_, kSizes);
  }
  void TearDown() override {
    EXPECT_EQ(cudaFree(device_part_), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(host_part_), cudaSuccess);
  }

  template <class T>
  std::vector<T> fetch(const void* device_memory, std::size_t count) {
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), device_memory, count * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return values;
  }
  void finish(cuda::Status status) {
    ASSERT_EQ(status, 0) << cuda::describe(status);
    const cudaError_t error = cudaDeviceSynchronize();
    ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
  }

  void* device_part_ = nullptr;
  void* host_part_ = nullptr;
  HotTable table_;
};

TEST_F(LaunchTest, AFormattedTableIsEmptyAndAllOfItsSlotsMayBeClaimed) {
  finish(cuda::format(table_, nullptr));

  EXPECT_EQ(fetch<TableHeader>(table_.header, 1)[0].limit, kSizes.slots);
  for (const Word word : fetch<Word>(table_.words, kSizes.slots)) ASSERT_TRUE(is_free(word));
}

TEST_F(LaunchTest, TheDaemonSeesWhoIsInAStep) {
  finish(cuda::format(table_, nullptr));
  const HotTable daemons = view_host_part(host_part_, kSizes);
  constexpr std::uint32_t kActor = 1;

  finish(cuda::enter_step(table_, kActor, nullptr));
  EXPECT_NE(actor_line(daemons, kActor)->active, 0u);
  EXPECT_EQ(actor_line(daemons, kActor)->entries, 1u);
  EXPECT_EQ(actor_line(daemons, kActor - 1)->active, 0u);

  finish(cuda::leave_step(table_, kActor, nullptr));
  EXPECT_EQ(actor_line(daemons, kActor)->active, 0u);
}

}  // namespace
}  // namespace sluice::kernels
