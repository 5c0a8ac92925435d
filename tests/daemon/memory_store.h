// A store of descriptors that outlives the daemon of a test, which is an object in this process.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/descriptor_store.h"

namespace sluice::test {

// What is kept: it belongs to the test, and each store that is opened on it to one daemon.
struct MemoryShelf {
  std::mutex mutex;
  std::map<std::string, ipc::Fd, std::less<>> kept;
  std::optional<ipc::Error> refusal;  // what put and remove answer instead, until it is reset
};

class MemoryStore final : public daemon::DescriptorStore {
 public:
  explicit MemoryStore(std::shared_ptr<MemoryShelf> shelf) : shelf_(std::move(shelf)) {}

  ipc::Result<std::vector<daemon::KeptDescriptor>> take() override {
    const std::lock_guard lock(shelf_->mutex);
    if (std::exchange(is_in_use_, true)) {
      return ipc::fail(ipc::Errc::wrong_state, "what is kept is taken once");
    }
    std::vector<daemon::KeptDescriptor> all;
    for (const auto& [name, fd] : shelf_->kept) {
      auto copy = ipc::duplicate(fd.get());
      if (!copy) return std::unexpected(std::move(copy.error()));
      all.push_back({name, std::move(*copy)});
    }
    return all;
  }

  ipc::Status put(std::string_view name, int fd) override {
    if (auto ok = daemon::check_put(name, fd); !ok) return ok;
    const std::lock_guard lock(shelf_->mutex);
    is_in_use_ = true;
    if (shelf_->refusal) return std::unexpected(*shelf_->refusal);
    if (shelf_->kept.contains(name)) {
      return ipc::fail(ipc::Errc::wrong_state, std::string(name) + " is kept already");
    }
    auto copy = ipc::duplicate(fd);
    if (!copy) return std::unexpected(std::move(copy.error()));
    shelf_->kept.emplace(name, std::move(*copy));
    return {};
  }

  ipc::Status remove(std::string_view name) override {
    const std::lock_guard lock(shelf_->mutex);
    is_in_use_ = true;
    if (shelf_->refusal) return std::unexpected(*shelf_->refusal);
    if (const auto found = shelf_->kept.find(name); found != shelf_->kept.end()) {
      shelf_->kept.erase(found);
    }
    return {};
  }

  ipc::Status clear() override {
    const std::lock_guard lock(shelf_->mutex);
    shelf_->kept.clear();
    return {};
  }

  ipc::Status look() override {
    const std::lock_guard lock(shelf_->mutex);
    return shelf_->refusal ? ipc::Status(std::unexpected(*shelf_->refusal)) : ipc::Status();
  }

  std::string describe() const override { return "this process"; }

 private:
  std::shared_ptr<MemoryShelf> shelf_;
  bool is_in_use_ = false;
};

}  // namespace sluice::test
