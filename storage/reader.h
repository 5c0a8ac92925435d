// Reads blocks of a device, and believes nothing that it read until it is verified.
//
// The header page of the record is read along with the parts, unless it was verified lately
// (header_cache.h): it holds their checksums, and shows that this is the record (namespace, key,
// sequence). Parts that the caller wants whole are read into its memory and verified there; others
// into private memory. A part that does not match is
// read once more, privately: what a client wrote over it meanwhile is not the disk's fault.
//
// Thread-safety: the device's thread.
#pragma once

#include <cstdint>
#include <memory>

#include "storage/device_context.h"
#include "storage/header_cache.h"
#include "storage/job.h"
#include "storage/staging.h"

namespace sluice::storage {

class Reader {
 public:
  // `moved`: what to do with a read job of cleaning that ended; its memory holds the record.
  using Moved = std::function<void(std::unique_ptr<Job>, Status)>;
  Reader(DeviceContext& context, std::uint32_t depth, Moved moved);

  // Whether begin() may be called.
  bool has_room() const { return !pages_.empty(); }
  void begin(std::unique_ptr<Job> job);

 private:
  struct Op;
  using OpPtr = std::shared_ptr<Op>;

  Status prepare(Op& op);
  void push_parts(const OpPtr& op);
  void push(const OpPtr& op, std::uint64_t offset, std::span<std::byte> to);
  void read_again(const OpPtr& op, std::uint32_t part);
  void answered(const OpPtr& op, int error);
  void verify(const OpPtr& op);
  Result<HeaderPtr> verified_header(const Op& op) const;
  void end(Op& op, Status status);

  DeviceContext& context_;
  Staging pages_;
  HeaderCache headers_;
  const Moved moved_;
};

}  // namespace sluice::storage
