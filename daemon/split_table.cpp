#include "daemon/split_table.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "daemon/logging.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "ipc/numa.h"

namespace sluice::daemon {

using device_worker::TableWork;
using ipc::Errc;
using ipc::fail;

namespace {

constexpr const char* kWordsName = "sluice-words";

// Moves up to `most` numbers from the end of one list to another; returns how many.
std::size_t move_some(std::vector<std::uint32_t>& from, std::vector<std::uint32_t>& to,
                      std::size_t most) {
  const std::size_t count = std::min(from.size(), most);
  const auto first = from.end() - static_cast<std::ptrdiff_t>(count);
  to.insert(to.end(), first, from.end());
  from.erase(first, from.end());
  return count;
}

void append(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& more) {
  to.insert(to.end(), more.begin(), more.end());
}

// A list that is longer than there are numbers names some twice. Keeps what waits bounded, however
// long the device cannot be reached.
void bound(std::vector<std::uint32_t>& list, std::size_t numbers) {
  if (list.size() <= numbers) return;
  std::ranges::sort(list);
  const auto twice = std::ranges::unique(list);
  list.erase(twice.begin(), twice.end());
}

class SplitTable final : public CacheTable {
 public:
  SplitTable(std::shared_ptr<DeviceClient> device, std::uint64_t granularity,
             const kernels::TableSizes& sizes, const SplitTableTimes& times, ipc::Fd node)
      : device_(std::move(device)), times_(times) {
    static std::atomic<std::uint64_t> tables{0};
    parts_.number = ++tables;
    parts_.sizes = sizes;
    parts_.node = std::move(node);
    const kernels::SplitOffsets offsets = kernels::split_offsets_of(sizes);
    bytes_ = {offsets.host_end, offsets.device_end,
              device_worker::device_part_bytes(sizes, granularity)};
  }

  TableBytes bytes() const override { return bytes_; }
  std::vector<int> fds() const override { return {parts_.node.get(), parts_.device.get()}; }

  ipc::Status make_piece() override {
    if (taken_ < bytes_.node) return make_node_piece();
    auto made = device_->make_table(parts_.sizes, parts_.node);
    if (!made) return std::unexpected(std::move(made.error()));
    parts_.device = std::move(*made);
    view_ = kernels::view_host_part(memory_.data(), parts_.sizes);
    const std::lock_guard lock(mutex_);
    whole_ = true;
    return {};
  }

  ipc::Status adopt(ipc::Fd device_part) {
    auto mapping = ipc::Mapping::map(parts_.node.get(), 0, bytes_.node, ipc::Access::read_write,
                                     "the node's part of a hot table");
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    memory_ = std::move(*mapping);
    taken_ = bytes_.node;
    parts_.device = std::move(device_part);
    view_ = kernels::view_host_part(memory_.data(), parts_.sizes);
    const std::lock_guard lock(mutex_);
    whole_ = true;
    return {};
  }

  bool whole() const override {
    const std::lock_guard lock(mutex_);
    return whole_;
  }

  bool free_piece() override {
    if (parts_.device) {
      {
        const std::lock_guard lock(mutex_);
        whole_ = false;
        pending_ = {};
        look_.reset();
      }
      device_->forget_table(parts_.number);
      parts_.device.reset();
      return true;
    }
    if (taken_ == 0) return false;
    memory_ = ipc::Mapping();
    const std::uint64_t piece = std::min(kTablePiece, taken_);
    taken_ -= piece;
    (void)ipc::vacate_memfd(parts_.node.get(), kTableName, taken_, piece);
    return true;
  }

  kernels::HotTable view() const override { return view_; }
  bool grace_by_log() const override { return true; }

  Ticket reset_actors(const std::vector<std::uint32_t>& actors) override {
    return order([&] {
      append(pending_.idle_actors, actors);
      bound(pending_.idle_actors, parts_.sizes.actors);
    });
  }

  Ticket drop_pages(const std::vector<ipc::BlockId>& ids) override {
    return order([&] { add(pending_.drop_pages, ids); });
  }

  Ticket drop_pins(const std::vector<ipc::BlockId>& ids, bool sealed) override {
    return order([&] { add(sealed ? pending_.seal_pins : pending_.drop_pins, ids); });
  }

  bool done(Ticket ticket) const override {
    const std::lock_guard lock(mutex_);
    return ticket <= done_;
  }

  ipc::Result<HbmResidency> scan() override {
    std::unique_lock lock(mutex_);
    if (seen_ && std::chrono::steady_clock::now() - seen_at_ < times_.look_life) return *seen_;
    if (!look_ && whole_) look_.emplace(Look{0, empty_residency(view_)});
    call(lock);
    return fail(Errc::busy, "the words of the table are being fetched from the device; ask again");
  }

  void on_orders(std::function<void(std::shared_ptr<CacheTable>)> listener) override {
    const std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
  }

  bool work() override {
    std::unique_lock lock(mutex_);
    if (whole_ && pending_.items() > 0) return do_orders(lock);
    if (whole_ && look_) return go_on_looking(lock);
    called_ = false;
    return false;
  }

  void retry(std::chrono::steady_clock::time_point now) override {
    std::unique_lock lock(mutex_);
    if (pending_.items() == 0 || called_ || now - failed_at_ < times_.retry) return;
    call(lock);
  }

 private:
  // An operator's look at the words, part by part.
  struct Look {
    std::uint32_t next = 0;
    HbmResidency found;
  };

  ipc::Status make_node_piece() {
    const std::uint64_t piece = std::min(kTablePiece, bytes_.node - taken_);
    if (auto ok = ipc::populate_memfd(parts_.node.get(), kTableName, taken_, piece,
                                      ipc::HugePages::attempt);
        !ok) {
      return ok;
    }
    taken_ += piece;
    if (taken_ < bytes_.node) return {};
    auto mapping = ipc::Mapping::map(parts_.node.get(), 0, bytes_.node, ipc::Access::read_write,
                                     "the node's part of a hot table");
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    memory_ = std::move(*mapping);
    return {};
  }

  void add(std::vector<std::uint32_t>& list, const std::vector<ipc::BlockId>& ids) {
    for (const ipc::BlockId id : ids) list.push_back(id.value);
    bound(list, parts_.sizes.blocks);
  }

  template <class Add>
  Ticket order(Add&& add_to_pending) {
    std::unique_lock lock(mutex_);
    std::forward<Add>(add_to_pending)();
    const Ticket ticket = ++ordered_;
    // After a failure the next try has its time; see retry().
    if (!failing_) call(lock);
    return ticket;
  }

  void call(std::unique_lock<std::mutex>& lock) {
    if (called_ || !listener_) return;
    called_ = true;
    const auto listener = listener_;
    lock.unlock();
    listener(shared_from_this());
  }

  bool do_orders(std::unique_lock<std::mutex>& lock) {
    TableWork batch;
    std::size_t room = device_worker::kMaxWorkItems;
    room -= move_some(pending_.idle_actors, batch.idle_actors, room);
    room -= move_some(pending_.seal_pins, batch.seal_pins, room);
    room -= move_some(pending_.drop_pins, batch.drop_pins, room);
    move_some(pending_.drop_pages, batch.drop_pages, room);
    // What is ordered from here on has a scan to come.
    const Ticket ticket = pending_.items() == 0 ? ordered_ : done_;
    lock.unlock();
    const auto done = device_->work(parts_, batch);
    lock.lock();
    if (!done) {
      take_back(batch);
      if (!std::exchange(failing_, true)) {
        log_error(
            "the device could not be told what to drop from a table; blocks that wait for it are "
            "not used again until it can",
            {{"reason", done.error().text}});
      }
      failed_at_ = std::chrono::steady_clock::now();
      if (std::exchange(look_, std::nullopt)) end_look(std::unexpected(done.error()));
      called_ = false;
      return false;
    }
    if (std::exchange(failing_, false)) log_info("the device can be told again what to drop");
    done_ = ticket;
    return true;
  }

  void take_back(const TableWork& batch) {
    append(pending_.idle_actors, batch.idle_actors);
    append(pending_.seal_pins, batch.seal_pins);
    append(pending_.drop_pins, batch.drop_pins);
    append(pending_.drop_pages, batch.drop_pages);
  }

  bool go_on_looking(std::unique_lock<std::mutex>& lock) {
    Look look = std::move(*look_);
    lock.unlock();
    const auto read = read_words(look);
    lock.lock();
    look_.reset();
    if (!read) {
      end_look(std::unexpected(read.error()));
    } else if (look.next < parts_.sizes.slots) {
      look_ = std::move(look);
    } else {
      end_look(std::move(look.found));
    }
    return true;
  }

  void end_look(ipc::Result<HbmResidency> seen) {
    seen_ = std::move(seen);
    seen_at_ = std::chrono::steady_clock::now();
  }

  ipc::Status read_words(Look& look) {
    const std::uint32_t count =
        std::min(device_worker::kMaxWordsPerRead, parts_.sizes.slots - look.next);
    const std::uint64_t bytes = std::uint64_t{count} * sizeof(kernels::Word);
    auto memory = ipc::create_memfd(kWordsName, bytes, ipc::Populate::yes);
    if (!memory) return std::unexpected(std::move(memory.error()));
    if (auto read = device_->read_words(parts_, look.next, count, *memory); !read) return read;
    auto mapping = ipc::Mapping::map(memory->get(), 0, bytes, ipc::Access::read, "words");
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    const auto* words = reinterpret_cast<const kernels::Word*>(mapping->data());
    for (std::uint32_t i = 0; i < count; ++i) count_word(look.found, view_, words[i]);
    look.next += count;
    return {};
  }

  const std::shared_ptr<DeviceClient> device_;
  const SplitTableTimes times_;
  TableBytes bytes_;
  SplitTableParts parts_;
  std::uint64_t taken_ = 0;  // bytes of the node's part that have memory
  ipc::Mapping memory_;      // once all have
  kernels::HotTable view_{};

  mutable std::mutex mutex_;  // what follows
  bool whole_ = false;
  std::function<void(std::shared_ptr<CacheTable>)> listener_;
  bool called_ = false;  // and work() was not through since
  TableWork pending_;
  Ticket ordered_ = 0;
  Ticket done_ = 0;
  bool failing_ = false;
  std::chrono::steady_clock::time_point failed_at_{};
  std::optional<Look> look_;
  std::optional<ipc::Result<HbmResidency>> seen_;
  std::chrono::steady_clock::time_point seen_at_{};
};

}  // namespace

ipc::Result<std::shared_ptr<CacheTable>> make_split_table(std::shared_ptr<DeviceClient> device,
                                                          const SplitTablePlace& place,
                                                          const kernels::TableSizes& sizes,
                                                          const SplitTableTimes& times) {
  const std::uint64_t bytes = kernels::split_offsets_of(sizes).host_end;
  auto node = ipc::create_memfd(kTableName, bytes, ipc::Populate::no);
  if (!node) return std::unexpected(std::move(node.error()));
  // Elsewhere the table is as good, and a little slower; who makes DRAM extents says why.
  if (place.numa_node) (void)ipc::prefer_numa_node(node->get(), bytes, *place.numa_node);
  return std::make_shared<SplitTable>(std::move(device), place.granularity_bytes, sizes, times,
                                      std::move(*node));
}

ipc::Result<std::shared_ptr<CacheTable>> adopt_split_table(std::shared_ptr<DeviceClient> device,
                                                           std::uint64_t granularity_bytes,
                                                           const kernels::TableSizes& sizes,
                                                           std::vector<ipc::Fd> fds) {
  if (fds.size() != 2) {
    return fail(Errc::invalid_argument,
                "a hot table of " + std::to_string(fds.size()) + " parts; expected 2");
  }
  const std::uint64_t bytes = kernels::split_offsets_of(sizes).host_end;
  if (auto ok = ipc::check_memfd(fds[0].get(), bytes, kTableName); !ok) {
    return fail(Errc::invalid_argument, std::move(ok.error().text));
  }
  auto table = std::make_shared<SplitTable>(std::move(device), granularity_bytes, sizes,
                                            SplitTableTimes{}, std::move(fds[0]));
  if (auto ok = table->adopt(std::move(fds[1])); !ok) return std::unexpected(std::move(ok.error()));
  return table;
}

}  // namespace sluice::daemon
