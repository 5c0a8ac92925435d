#include "daemon/device_worker/backend.h"

namespace sluice::device_worker {
namespace {

class RefusingBackend final : public Backend {
 public:
  explicit RefusingBackend(ipc::Error reason) : reason_(std::move(reason)) {}

  bool usable() const override { return false; }
  ipc::Result<DeviceFacts> describe() override { return refusal(); }
  ipc::Result<ipc::Fd> allocate(std::uint64_t) override { return refusal(); }
  ipc::Status scrub(const ipc::Fd&, std::uint64_t) override { return refusal(); }
  ipc::Result<ipc::Fd> make_table(const kernels::TableSizes&, const ipc::Fd&) override {
    return refusal();
  }
  ipc::Status open_table(std::uint64_t, const kernels::TableSizes&, const ipc::Fd&,
                         const ipc::Fd&) override {
    return refusal();
  }
  ipc::Status work(std::uint64_t, const TableWork&) override { return refusal(); }
  ipc::Status read_words(std::uint64_t, std::uint32_t, std::uint32_t, const ipc::Fd&) override {
    return refusal();
  }
  void forget_table(std::uint64_t) override {}
  ipc::Result<kernels::TableSizes> sizes_of(std::uint64_t) const override { return refusal(); }
  ipc::Status open_arena(std::uint64_t, const ArenaShape&, const ipc::Fd&) override {
    return refusal();
  }
  Arena* arena(std::uint64_t) override { return nullptr; }

 private:
  std::unexpected<ipc::Error> refusal() const { return std::unexpected(reason_); }

  ipc::Error reason_;
};

}  // namespace

std::unique_ptr<Backend> make_refusing_backend(ipc::Error reason) {
  return std::make_unique<RefusingBackend>(std::move(reason));
}

}  // namespace sluice::device_worker
