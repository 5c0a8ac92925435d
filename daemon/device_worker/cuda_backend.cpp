#include "daemon/device_worker/cuda_backend.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "daemon/device_worker/cuda_arena.h"
#include "daemon/device_worker/cuda_memory.h"
#include "ipc/mapping.h"
#include "ipc/memfd.h"
#include "kernels/cuda/launch.h"
#include "kernels/table.h"

namespace sluice::device_worker {

using ipc::Errc;
using ipc::fail;

namespace {

// Both parts of a table as the GPU addresses them. Without a bitmap until the first drop.
struct OpenedTable {
  kernels::TableSizes sizes;
  DeviceMapping device;
  PinnedMapping node;
  std::vector<std::uint64_t> marks;  // bitmap over blocks, clear between calls
  std::optional<DeviceBuffer> device_marks;
  std::unique_ptr<Arena> arena;  // of executor daemon; goes before what it uses

  kernels::HotTable view() const {
    return kernels::view_split_table(device.data(), node.on_device(), sizes);
  }
  std::uint64_t marks_bytes() const { return marks.size() * sizeof(std::uint64_t); }
};

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, const cudaDeviceProp& properties, std::uint64_t granularity,
              cudaStream_t stream)
      : device_(device), properties_(properties), granularity_(granularity), stream_(stream) {}
  ~CudaBackend() override {
    tables_.clear();
    (void)cudaStreamDestroy(stream_);
  }

  bool usable() const override { return usable_; }

  ipc::Result<DeviceFacts> describe() override {
    DeviceFacts facts;
    std::memcpy(facts.uuid.data(), properties_.uuid.bytes, facts.uuid.size());
    facts.name = properties_.name;
    facts.granularity_bytes = granularity_;
    facts.pci_bus_id = pci_bus_id();
    int gpus = 0;
    if (auto ok = judge(cudaGetDeviceCount(&gpus), "how many GPUs there are"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    facts.gpus = static_cast<std::uint32_t>(gpus);
    std::size_t left = 0;
    std::size_t total = 0;
    if (auto ok = judge(cudaMemGetInfo(&left, &total), "how much HBM there is"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    facts.hbm_total_bytes = total;
    facts.hbm_free_bytes = left;
    return facts;
  }

  ipc::Result<ipc::Fd> allocate(std::uint64_t bytes) override {
    if (bytes == 0 || bytes % granularity_ != 0) {
      return fail(Errc::invalid_argument, "an allocation of " + std::to_string(bytes) +
                                              " bytes; expected a multiple of " +
                                              std::to_string(granularity_));
    }
    return judged(allocate_device_memory(device_, bytes));
  }

  ipc::Status scrub(const ipc::Fd& memory, std::uint64_t bytes) override {
    auto mapping = DeviceMapping::map(device_, memory, bytes);
    if (!mapping) return std::unexpected(judged(std::move(mapping.error())));
    if (auto zeroed = zero_device_memory(mapping->data(), bytes); !zeroed) {
      return std::unexpected(judged(std::move(zeroed.error())));
    }
    return {};
  }

  ipc::Result<ipc::Fd> make_table(const kernels::TableSizes& sizes, const ipc::Fd& node) override {
    auto memory = allocate(device_part_bytes(sizes, granularity_));
    if (!memory) return memory;
    auto table = map_table(sizes, *memory, node);
    if (!table) return std::unexpected(std::move(table.error()));
    if (auto ok = judge(kernels::cuda::format(table->view(), stream_), "formatting a table"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    if (auto ok = wait("formatting a table"); !ok) return std::unexpected(std::move(ok.error()));
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
    auto found = find(table);
    if (!found) return std::unexpected(std::move(found.error()));
    OpenedTable& opened = **found;
    for (const std::uint32_t actor : work.idle_actors) {
      if (auto ok = judge(kernels::cuda::reset_actor(opened.view(), actor, stream_),
                          "resetting an actor");
          !ok) {
        return ok;
      }
    }
    using kernels::cuda::Drop;
    if (auto ok = drop(opened, work.seal_pins, Drop::seal_pins); !ok) return ok;
    if (auto ok = drop(opened, work.drop_pins, Drop::pins); !ok) return ok;
    if (auto ok = drop(opened, work.drop_pages, Drop::pages); !ok) return ok;
    return wait("work on a table");
  }

  ipc::Status read_words(std::uint64_t table, std::uint32_t first, std::uint32_t count,
                         const ipc::Fd& into) override {
    auto found = find(table);
    if (!found) return std::unexpected(std::move(found.error()));
    const std::uint64_t bytes = std::uint64_t{count} * sizeof(kernels::Word);
    if (auto ok = ipc::check_memfd(into.get(), bytes, "memory for words"); !ok) return ok;
    auto memory = ipc::Mapping::map(into.get(), 0, bytes, ipc::Access::read_write, "words");
    if (!memory) return std::unexpected(std::move(memory.error()));
    if (auto ok = judge(cudaMemcpyAsync(memory->data(), (*found)->view().words + first, bytes,
                                        cudaMemcpyDeviceToHost, stream_),
                        "reading words");
        !ok) {
      return ok;
    }
    return wait("reading words");
  }

  void forget_table(std::uint64_t table) override { tables_.erase(table); }

  ipc::Result<kernels::TableSizes> sizes_of(std::uint64_t table) const override {
    const auto found = tables_.find(table);
    if (found == tables_.end()) return unknown(table);
    return found->second.sizes;
  }

  ipc::Status open_arena(std::uint64_t table, const ArenaShape& shape,
                         const ipc::Fd& lists) override {
    auto found = find(table);
    if (!found) return std::unexpected(std::move(found.error()));
    OpenedTable& opened = **found;
    auto made =
        judged(make_cuda_arena(device_, opened.view(), shape, lists,
                               [this](ipc::Error error) { return judged(std::move(error)); }));
    if (!made) return std::unexpected(std::move(made.error()));
    opened.arena = std::move(*made);
    return {};
  }

  Arena* arena(std::uint64_t table) override {
    const auto found = tables_.find(table);
    return found == tables_.end() ? nullptr : found->second.arena.get();
  }

 private:
  // As the kernel writes it, in small letters; empty if the driver does not tell.
  std::string pci_bus_id() const {
    std::array<char, 32> text{};
    if (cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), device_) != cudaSuccess) {
      (void)cudaGetLastError();
      return {};
    }
    std::string id = text.data();
    std::ranges::transform(id, id.begin(), [](unsigned char c) { return std::tolower(c); });
    return id;
  }

  // Whatever is not a lack of memory may stay with the context: the next process has a new one.
  ipc::Error judged(ipc::Error error) {
    if (error.code == Errc::io_error) usable_ = false;
    return error;
  }
  template <class T>
  ipc::Result<T> judged(ipc::Result<T> result) {
    if (result) return result;
    return std::unexpected(judged(std::move(result.error())));
  }
  ipc::Status judge(int status, const char* what) {
    if (status == cudaSuccess) return {};
    return std::unexpected(judged(cuda_error(status, what)));
  }
  ipc::Status wait(const char* what) { return judge(cudaStreamSynchronize(stream_), what); }

  static std::unexpected<ipc::Error> unknown(std::uint64_t table) {
    return fail(Errc::not_found, "no table " + std::to_string(table) + " was opened here");
  }

  ipc::Result<OpenedTable*> find(std::uint64_t table) {
    const auto found = tables_.find(table);
    if (found == tables_.end()) return unknown(table);
    return &found->second;
  }

  ipc::Result<OpenedTable> map_table(const kernels::TableSizes& sizes, const ipc::Fd& device,
                                     const ipc::Fd& node) {
    OpenedTable table;
    table.sizes = sizes;
    auto device_part =
        judged(DeviceMapping::map(device_, device, device_part_bytes(sizes, granularity_)));
    if (!device_part) return std::unexpected(std::move(device_part.error()));
    table.device = std::move(*device_part);
    auto node_part = judged(PinnedMapping::map(node, kernels::split_offsets_of(sizes).host_end,
                                               "the node's part of a hot table"));
    if (!node_part) return std::unexpected(std::move(node_part.error()));
    table.node = std::move(*node_part);
    table.marks.assign((sizes.blocks + 63) / 64, 0);
    return table;
  }

  ipc::Status drop(OpenedTable& table, const std::vector<std::uint32_t>& blocks,
                   kernels::cuda::Drop what) {
    if (blocks.empty()) return {};
    if (!table.device_marks) {
      auto made = judged(DeviceBuffer::make(table.marks_bytes(), "memory for a set of blocks"));
      if (!made) return std::unexpected(std::move(made.error()));
      table.device_marks = std::move(*made);
    }
    for (const std::uint32_t block : blocks) {
      table.marks[block / 64] |= std::uint64_t{1} << (block % 64);
    }
    const auto dropped = drop_marked(table, what);
    for (const std::uint32_t block : blocks) table.marks[block / 64] = 0;
    return dropped;
  }

  ipc::Status drop_marked(OpenedTable& table, kernels::cuda::Drop what) {
    if (auto ok = judge(cudaMemcpyAsync(table.device_marks->data(), table.marks.data(),
                                        table.marks_bytes(), cudaMemcpyHostToDevice, stream_),
                        "a set of blocks");
        !ok) {
      return ok;
    }
    const kernels::BlockSet set{static_cast<const std::uint64_t*>(table.device_marks->data()),
                                table.sizes.blocks};
    if (auto ok = judge(kernels::cuda::drop_blocks(table.view(), set, what, stream_),
                        "dropping pages of blocks");
        !ok) {
      return ok;
    }
    return wait("dropping pages of blocks");
  }

  int device_;
  cudaDeviceProp properties_;
  std::uint64_t granularity_;
  cudaStream_t stream_;
  bool usable_ = true;
  std::map<std::uint64_t, OpenedTable> tables_;
};

std::string uuid_text(const cudaDeviceProp& properties) {
  Uuid uuid{};
  std::memcpy(uuid.data(), properties.uuid.bytes, uuid.size());
  return to_string(uuid);
}

// What keeps this process from a context would keep another one from it, but for a lack of memory.
std::unexpected<ipc::Error> without_context(cudaError_t status, const char* what) {
  ipc::Error error = cuda_error(status, what);
  if (error.code != Errc::no_memory) error.code = Errc::device_lost;
  return std::unexpected(std::move(error));
}

// The GPU that `wanted` names, among those that this process may use.
ipc::Result<int> find_device(const std::string& wanted, cudaDeviceProp& properties) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    return fail(Errc::not_supported,
                std::string("there is no GPU that CUDA can use: ") +
                    (status == cudaSuccess ? "none was found" : cudaGetErrorString(status)) +
                    "; a driver for CUDA 13 is needed");
  }
  std::string there;
  for (int device = 0; device < count; ++device) {
    if (const cudaError_t got = cudaGetDeviceProperties(&properties, device); got != cudaSuccess) {
      return without_context(got, "the properties of a GPU");
    }
    const std::string uuid = uuid_text(properties);
    if (wanted == std::to_string(device) ||
        std::ranges::equal(
            wanted, uuid, {}, [](unsigned char c) { return std::tolower(c); },
            [](unsigned char c) { return std::tolower(c); })) {
      return device;
    }
    there += (there.empty() ? "" : ", ") + std::to_string(device) + " " + uuid;
  }
  return fail(Errc::bad_config,
              "backend.devices names the GPU " + wanted + "; there are: " + there);
}

}  // namespace

ipc::Result<std::unique_ptr<Backend>> make_cuda_backend(const std::string& device) {
  // Numbers as nvidia-smi shows them, unless the environment says otherwise.
  (void)setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 0);
  cudaDeviceProp properties{};
  auto number = find_device(device, properties);
  if (!number) return std::unexpected(std::move(number.error()));
  if (const cudaError_t status = cudaSetDevice(*number); status != cudaSuccess) {
    return without_context(status, "a CUDA context");
  }
  auto granularity = allocation_granularity(*number);
  if (!granularity) return std::unexpected(std::move(granularity.error()));
  cudaStream_t stream = nullptr;
  if (const cudaError_t status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      status != cudaSuccess) {
    return without_context(status, "a CUDA stream");
  }
  return std::make_unique<CudaBackend>(*number, properties, *granularity, stream);
}

}  // namespace sluice::device_worker
