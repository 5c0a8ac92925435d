#include "client/cuda/sequence_rows.h"

#include <algorithm>
#include <bit>
#include <string>

#include "client/device_cache.h"

namespace sluice::client::internal::cuda {

using ipc::Errc;
using ipc::fail;
using kernels::cuda::SequenceRow;

ipc::Status SequenceRows::make_table() {
  if (table_.size() != 0) return {};
  auto stream = OwnStream::make();
  if (!stream) return std::unexpected(stream.error());
  auto table = DeviceBuffer::make_zeroed(kMaxSequenceRows * sizeof(SequenceRow), stream->get());
  if (!table) return std::unexpected(table.error());
  stream_ = std::move(*stream);
  table_ = std::move(*table);
  return {};
}

ipc::Result<const SequenceRow*> SequenceRows::table() {
  const std::lock_guard lock(mutex_);
  if (auto ok = make_table(); !ok) return std::unexpected(ok.error());
  return table_.at<const SequenceRow>();
}

ipc::Result<SequenceRows::Array> SequenceRows::allocate(std::size_t ids) {
  const std::uint64_t least = std::bit_ceil(std::max<std::uint64_t>(ids, kLeastIds));
  const auto size = static_cast<std::uint32_t>(std::countr_zero(least / kLeastIds));
  auto& free = free_arrays_.at(size);
  if (!free.empty()) {
    std::uint32_t* const reused = free.back();
    free.pop_back();
    return Array{reused, size};
  }
  const std::size_t bytes = least * sizeof(std::uint32_t);
  if (bytes > chunk_left_) {
    // What is left of the chunk before is less than this array, and lost.
    auto chunk = DeviceBuffer::make(std::max(bytes, kChunkBytes));
    if (!chunk) return std::unexpected(chunk.error());
    chunk_left_ = chunk->size();
    chunks_.push_back(std::move(*chunk));
  }
  const DeviceBuffer& chunk = chunks_.back();
  auto* const array = chunk.at<std::uint32_t>(chunk.size() - chunk_left_);
  chunk_left_ -= bytes;
  return Array{array, size};
}

ipc::Status SequenceRows::copy(void* to, const void* from, std::size_t bytes) {
  return check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_.get()),
               "writing a row of a sequence");
}

ipc::Status SequenceRows::wait() {
  return check(cudaStreamSynchronize(stream_.get()), "writing a row of a sequence");
}

// The ids first, and then the row that leads to them.
ipc::Status SequenceRows::write(std::uint32_t row, Ids ids, std::size_t first_changed) {
  auto& arrays = rows_[row].arrays;
  const std::size_t room = arrays.empty() ? 0 : std::size_t{kLeastIds} << arrays.back().size;
  if (ids.size() > room) {
    auto array = allocate(ids.size());
    if (!array) return std::unexpected(array.error());
    arrays.push_back(*array);
    first_changed = 0;
  }
  std::uint32_t* const to = arrays.empty() ? nullptr : arrays.back().ids;
  if (first_changed < ids.size()) {
    if (auto ok = copy(to + first_changed, ids.data() + first_changed,
                       (ids.size() - first_changed) * sizeof(std::uint32_t));
        !ok) {
      return ok;
    }
  }
  const SequenceRow entry{to, static_cast<std::uint32_t>(ids.size()), 0};
  if (auto ok = copy(table_.at<SequenceRow>() + row, &entry, sizeof entry); !ok) return ok;
  return wait();
}

void SequenceRows::give_back(std::uint32_t row) {
  for (const Array& array : rows_[row].arrays) free_arrays_.at(array.size).push_back(array.ids);
  rows_[row] = {};
  free_rows_.push_back(row);
}

ipc::Result<std::uint32_t> SequenceRows::add(Ids ids) {
  const std::lock_guard lock(mutex_);
  if (auto ok = make_table(); !ok) return std::unexpected(ok.error());
  std::uint32_t row = 0;
  if (!free_rows_.empty()) {
    row = free_rows_.back();
    free_rows_.pop_back();
  } else if (rows_.size() < kMaxSequenceRows) {
    row = static_cast<std::uint32_t>(rows_.size());
    rows_.emplace_back();
  } else {
    return fail(Errc::limit_reached, "plans name " + std::to_string(kMaxSequenceRows) +
                                         " sequences of this cache already; release some");
  }
  if (auto ok = write(row, ids, 0); !ok) {
    give_back(row);
    return std::unexpected(ok.error());
  }
  return row;
}

ipc::Status SequenceRows::update(std::uint32_t row, Ids ids, std::size_t first_changed) {
  const std::lock_guard lock(mutex_);
  return write(row, ids, first_changed);
}

void SequenceRows::remove(std::uint32_t row) {
  const std::lock_guard lock(mutex_);
  // A launch that names the row by mistake finds a sequence without blocks.
  const SequenceRow none{};
  if (copy(table_.at<SequenceRow>() + row, &none, sizeof none)) (void)wait();
  give_back(row);
}

std::uint64_t SequenceRows::device_bytes() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = table_.size();
  for (const DeviceBuffer& chunk : chunks_) bytes += chunk.size();
  return bytes;
}

}  // namespace sluice::client::internal::cuda
