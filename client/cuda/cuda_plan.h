// A plan on a GPU: one launch of the resolver, or of a forecast, with everything bound. See plan.h.
//
// Thread-safety: one thread at a time, which is that of its actor or ordered with it.
#pragma once

#include <memory>

#include "client/cuda/cuda_actor.h"
#include "client/cuda/memory.h"
#include "client/plan.h"
#include "kernels/cuda/launch.h"

namespace sluice::client::internal::cuda {

class CudaPlan final : public Plan {
 public:
  // Errors: invalid_argument (a page that the layout does not have, memory that the device cannot
  // use), no_memory, io_error.
  static ipc::Result<std::unique_ptr<Plan>> make(CudaActor& actor, const PlanOptions& options);
  ~CudaPlan() override;

  ipc::Status launch(const StreamRef& stream) override;
  ipc::Status launch_wait(const StreamRef& stream, ipc::Deadline until,
                          std::uint64_t& absent) override;

 private:
  explicit CudaPlan(CudaActor& actor) : actor_(actor) {}
  ipc::Status check_step(cudaStream_t stream) const;
  kernels::cuda::Status enqueue(cudaStream_t stream, std::uint64_t wait_us);
  ipc::Status launch_and_wait(const StreamRef& stream, std::uint64_t wait_us);
  cudaStream_t stream_of(const StreamRef& stream) const;
  ipc::Status check_wait(cudaStream_t stream) const;
  // Launches once and waits; how many items are absent.
  ipc::Result<std::uint64_t> count_absent(const StreamRef& stream);

  CudaActor& actor_;
  kernels::cuda::ResolveBatch batch_;
  bool forecast_ = false;
  kernels::cuda::Arrangement arrangement_;  // of a resolve
  kernels::cuda::ForecastGoal goal_;        // of a forecast
  std::uint64_t wait_us_ = 0;               // in the stream
  std::unique_ptr<DeviceBuffer> scratch_ = std::make_unique<DeviceBuffer>();
  std::unique_ptr<DeviceBuffer> wait_state_ = std::make_unique<DeviceBuffer>();
  std::unique_ptr<StagingBuffer> heard_;  // outcomes; once one has waited
};

}  // namespace sluice::client::internal::cuda
