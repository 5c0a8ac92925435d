#include "client/cuda/pinner.h"

#include <algorithm>
#include <string>

namespace sluice::client::internal::cuda {

using ipc::Errc;
using ipc::fail;

ipc::Result<std::unique_ptr<Pinner>> Pinner::make(const Context& context, std::byte* frames,
                                                  std::uint64_t extent_bytes,
                                                  std::uint32_t frames_per_extent,
                                                  std::uint32_t most_extents,
                                                  std::uint64_t registered, Told told) {
  std::unique_ptr<Pinner> pinner(
      new Pinner(context, frames, extent_bytes, frames_per_extent, registered, std::move(told)));
  auto stream = OwnStream::make();
  if (!stream) return std::unexpected(stream.error());
  pinner->stream_ = std::move(*stream);
  auto frames_ready = DeviceBuffer::make_zeroed(sizeof(std::uint32_t), pinner->stream_.get());
  if (!frames_ready) return std::unexpected(frames_ready.error());
  pinner->frames_ready_ = std::move(*frames_ready);
  pinner->extents_.reserve(most_extents);
  pinner->told_(static_cast<std::int64_t>(registered));
  pinner->thread_ = std::thread([self = pinner.get()] { self->run(); });
  return pinner;
}

Pinner::~Pinner() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (!thread_.joinable()) return;
  thread_.join();
  told_(-static_cast<std::int64_t>(registered_ + done_ * extent_bytes_));
}

ipc::Result<Registration> Pinner::register_extent(std::uint32_t extent) const {
  auto registration = Registration::make(frames_ + extent * extent_bytes_, extent_bytes_,
                                         "DRAM extent " + std::to_string(extent),
                                         registered_ + extent * extent_bytes_);
  if (!registration) return registration;
  const std::uint32_t ready = (extent + 1) * frames_per_extent_;
  for (const cudaError_t status :
       {cudaMemcpyAsync(frames_ready_.at<std::uint32_t>(), &ready, sizeof ready,
                        cudaMemcpyHostToDevice, stream_.get()),
        cudaStreamSynchronize(stream_.get())}) {
    if (auto ok = check(status, "saying that a DRAM extent is pinned"); !ok) {
      return std::unexpected(ok.error());
    }
  }
  return registration;
}

void Pinner::run() {
  const CurrentBesideCaptures current(context_);
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || (done_ < wanted_ && failure_.code == Errc::ok); });
    if (stop_) return;
    const std::uint32_t extent = done_;
    lock.unlock();
    auto registration = register_extent(extent);
    lock.lock();
    if (registration) {
      extents_.push_back(std::move(*registration));
      ++done_;
      lock.unlock();
      told_(static_cast<std::int64_t>(extent_bytes_));
      lock.lock();
    } else {
      failure_ = std::move(registration.error());
    }
    changed_.notify_all();
  }
}

void Pinner::pin(std::uint32_t extents) {
  {
    const std::lock_guard lock(mutex_);
    wanted_ = std::max(wanted_, extents);
  }
  changed_.notify_all();
}

std::uint32_t Pinner::pinned() const {
  const std::lock_guard lock(mutex_);
  return done_;
}

ipc::Status Pinner::status() const {
  const std::lock_guard lock(mutex_);
  if (failure_.code == Errc::ok) return {};
  return std::unexpected(failure_);
}

void Pinner::retry() {
  {
    const std::lock_guard lock(mutex_);
    failure_ = {Errc::ok, {}};
  }
  changed_.notify_all();
}

ipc::Status Pinner::wait(std::uint32_t extents, ipc::Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto over = [&] { return done_ >= extents || failure_.code != Errc::ok; };
  if (deadline == ipc::kNoDeadline) {
    changed_.wait(lock, over);
  } else if (!changed_.wait_until(lock, deadline, over)) {
    return fail(Errc::timed_out, std::to_string(done_) + " of " + std::to_string(extents) +
                                     " DRAM extents are pinned so far; wait again");
  }
  if (done_ >= extents) return {};
  return std::unexpected(failure_);
}

}  // namespace sluice::client::internal::cuda
