// A device worker without a device; see fake_device.h. Started as the real one is.
#include <unistd.h>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "daemon/device_worker/serve.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "kernels/drop.h"
#include "kernels/pins.h"
#include "kernels/steps.h"
#include "tests/daemon/fake_arena.h"
#include "tests/daemon/fake_device.h"

namespace sluice::test {
namespace {

using device_worker::DeviceFacts;
using device_worker::TableWork;
using ipc::Access;
using ipc::Errc;
using ipc::fail;

struct OpenedTable {
  kernels::TableSizes sizes;
  ipc::Mapping device;
  ipc::Mapping node;
  std::unique_ptr<FakeArena> arena;

  kernels::HotTable view() const {
    return kernels::view_split_table(device.data(), node.data(), sizes);
  }
};

void reset(const kernels::HotTable& table, std::uint32_t actor) {
  kernels::reset_actor(table, actor);
  auto* mirror =
      reinterpret_cast<kernels::ActorLine*>(table.mirrors + actor * kernels::kActorBytes);
  kernels::store_release(&mirror->active, kernels::kIdle);
}

void seal(const kernels::HotTable& table, const kernels::BlockSet& blocks) {
  for (std::uint32_t i = 0; i < table.sizes.slots; ++i) {
    const kernels::Word word = kernels::load_acquire(&table.words[i]);
    const kernels::Page page = kernels::page_of(word);
    if (page < table.pages && blocks.contains(kernels::block_of(table, page))) {
      kernels::seal_pin(table, static_cast<kernels::Slot>(i), page, kernels::clock_of(table));
    }
  }
}

class NodeBackend final : public device_worker::Backend {
 public:
  NodeBackend(FakeDeviceControl* control, std::uint32_t gpu) : control_(control), gpu_(gpu) {}

  bool usable() const override { return usable_; }

  ipc::Result<DeviceFacts> describe() override {
    if (auto ok = no_error(Request::Describe); !ok) return std::unexpected(ok.error());
    return DeviceFacts{fake_uuid(gpu_),  "Fake GPU", kFakeHbmBytes,        kFakeHbmBytes,
                       kFakeGranularity, kFakeGpus,  fake_pci_bus_id(gpu_)};
  }

  ipc::Result<ipc::Fd> allocate(std::uint64_t bytes) override {
    if (auto ok = no_error(Request::Allocate); !ok) return std::unexpected(ok.error());
    if (bytes > kFakeHbmBytes) return fail(Errc::no_memory, "there is not so much HBM");
    return ipc::create_memfd("sluice-fake-hbm", bytes, ipc::Populate::yes);
  }

  ipc::Status scrub(const ipc::Fd& memory, std::uint64_t bytes) override {
    if (auto ok = no_error(Request::Scrub); !ok) return ok;
    auto mapping = ipc::Mapping::map(memory.get(), 0, bytes, Access::read_write, "fake HBM");
    if (!mapping) return std::unexpected(std::move(mapping.error()));
    std::memset(mapping->data(), 0, bytes);
    return {};
  }

  ipc::Result<ipc::Fd> make_table(const kernels::TableSizes& sizes, const ipc::Fd& node) override {
    if (auto ok = no_error(Request::MakeTable); !ok) return std::unexpected(ok.error());
    auto memory = allocate(device_worker::device_part_bytes(sizes, kFakeGranularity));
    if (!memory) return memory;
    auto table = map_table(sizes, *memory, node);
    if (!table) return std::unexpected(std::move(table.error()));
    kernels::set_limit(table->view(), sizes.slots);
    return memory;
  }

  ipc::Status open_table(std::uint64_t table, const kernels::TableSizes& sizes,
                         const ipc::Fd& device, const ipc::Fd& node) override {
    auto opened = map_table(sizes, device, node);
    if (!opened) return std::unexpected(std::move(opened.error()));
    tables_.insert_or_assign(table, std::move(*opened));
    return {};
  }

  ipc::Status work(std::uint64_t table, const TableWork& work) override {
    if (auto ok = no_error(Request::Work); !ok) return ok;
    const kernels::HotTable view = tables_.at(table).view();
    for (const std::uint32_t actor : work.idle_actors) reset(view, actor);
    seal(view, marked(view, work.seal_pins));
    kernels::drop_pins(view, marked(view, work.drop_pins));
    kernels::drop_blocks(view, marked(view, work.drop_pages));
    return {};
  }

  ipc::Status read_words(std::uint64_t table, std::uint32_t first, std::uint32_t count,
                         const ipc::Fd& into) override {
    if (auto ok = no_error(Request::ReadWords); !ok) return ok;
    const std::uint64_t bytes = std::uint64_t{count} * sizeof(kernels::Word);
    auto memory = ipc::Mapping::map(into.get(), 0, bytes, Access::read_write, "words");
    if (!memory) return std::unexpected(std::move(memory.error()));
    std::memcpy(memory->data(), tables_.at(table).view().words + first, bytes);
    return {};
  }

  void forget_table(std::uint64_t table) override { tables_.erase(table); }

  ipc::Result<kernels::TableSizes> sizes_of(std::uint64_t table) const override {
    const auto found = tables_.find(table);
    if (found == tables_.end()) return fail(Errc::not_found, "no such table");
    return found->second.sizes;
  }

  ipc::Status open_arena(std::uint64_t table, const device_worker::ArenaShape& shape,
                         const ipc::Fd& lists) override {
    if (auto ok = no_error(Request::OpenArena); !ok) return ok;
    OpenedTable& opened = tables_.at(table);
    opened.arena = std::make_unique<FakeArena>(opened.view(), shape);
    return opened.arena->prepare(lists);
  }

  device_worker::Arena* arena(std::uint64_t table) override {
    const auto found = tables_.find(table);
    return found == tables_.end() ? nullptr : found->second.arena.get();
  }

 private:
  // As after an illegal access: this context is lost.
  ipc::Status no_error(Request request) {
    auto& left = control_->of(control_->errors, request);
    if (left == 0) return {};
    --left;
    usable_ = false;
    return fail(Errc::io_error, "the test broke the GPU");
  }

  static ipc::Result<OpenedTable> map_table(const kernels::TableSizes& sizes, const ipc::Fd& device,
                                            const ipc::Fd& node) {
    const kernels::SplitOffsets offsets = kernels::split_offsets_of(sizes);
    auto device_part = ipc::Mapping::map(device.get(), 0, offsets.device_end, Access::read_write,
                                         "the device's part");
    if (!device_part) return std::unexpected(std::move(device_part.error()));
    auto node_part =
        ipc::Mapping::map(node.get(), 0, offsets.host_end, Access::read_write, "the node's part");
    if (!node_part) return std::unexpected(std::move(node_part.error()));
    return OpenedTable{sizes, std::move(*device_part), std::move(*node_part), nullptr};
  }

  kernels::BlockSet marked(const kernels::HotTable& table, const std::vector<std::uint32_t>& ids) {
    marks_.assign((table.sizes.blocks + 63) / 64, 0);
    for (const std::uint32_t id : ids) marks_[id / 64] |= std::uint64_t{1} << (id % 64);
    return {marks_.data(), table.sizes.blocks};
  }

  FakeDeviceControl* control_;
  std::uint32_t gpu_;
  bool usable_ = true;
  std::map<std::uint64_t, OpenedTable> tables_;
  std::vector<std::uint64_t> marks_;
};

bool take_one(std::atomic<std::uint32_t>& count) {
  if (count == 0) return false;
  --count;
  return true;
}

// The GPU that a worker was started for, by number or by UUID.
std::optional<std::uint32_t> find_gpu(const std::string& device) {
  for (std::uint32_t gpu = 0; gpu < kFakeGpus; ++gpu) {
    if (device == std::to_string(gpu) || device == device_worker::to_string(fake_uuid(gpu))) {
      return gpu;
    }
  }
  return std::nullopt;
}

void before(FakeDeviceControl& control, std::uint32_t gpu, Request request, int socket) {
  ++control.of(control.asked, request);
  ++control.asked_of[gpu];
  if (take_one(control.of(control.deaths, request))) raise(SIGKILL);
  if (take_one(control.of(control.hangs, request))) pause();
  if (take_one(control.of(control.nonsense, request))) {
    constexpr char kNonsense[] = "\x20\0\0\0 is a length, but this is no message";
    (void)!write(socket, kNonsense, sizeof(kNonsense));
  }
  while (control.of(control.held, request) != 0 || control.held_gpu == gpu) {
    std::this_thread::yield();
  }
}

int run(int argc, char** argv) {
  auto arguments = device_worker::take_arguments(argc, argv);
  const char* file = std::getenv(kFakeDeviceVariable);
  if (!arguments || file == nullptr) return 2;
  FakeDeviceControl* control = map_fake_device(file);
  control->pid = static_cast<std::uint32_t>(getpid());
  ++control->started;
  if (const char* mps = std::getenv("CUDA_MPS_PIPE_DIRECTORY");
      mps != nullptr && std::string(mps) == kFakeMpsDirectory) {
    ++control->under_mps;
  }
  const auto gpu = find_gpu(arguments->device);
  if (!gpu) {
    const auto refusing = device_worker::make_refusing_backend(
        {Errc::bad_config, "backend.devices names the GPU " + arguments->device});
    return device_worker::serve(arguments->socket, *refusing) ? 0 : 1;
  }
  std::unique_ptr<device_worker::Backend> backend = std::make_unique<NodeBackend>(control, *gpu);
  if (take_one(control->lost)) {
    backend = device_worker::make_refusing_backend({Errc::not_supported, "the test took the GPU"});
  }
  const device_worker::ServeHooks hooks{
      .before = [&](Request request) { before(*control, *gpu, request, arguments->socket.get()); },
      .after =
          [&](Request request) {
            if (take_one(control->of(control->late_deaths, request))) raise(SIGKILL);
          }};
  return device_worker::serve(arguments->socket, *backend, hooks) ? 0 : 1;
}

}  // namespace
}  // namespace sluice::test

int main(int argc, char** argv) { return sluice::test::run(argc, argv); }
