#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/store.h"

namespace sluice::tools {
namespace {

constexpr std::chrono::milliseconds kCompactLookInterval{200};

struct Compacted {
  std::uint64_t moved_bytes = 0;
  std::uint64_t freed_segments = 0;
  std::uint64_t freed_bytes = 0;
};

// What is freed, and what was moved for it.
Compacted compacted_so_far(const storage::BlockStore& store) {
  Compacted so_far;
  for (const storage::DeviceStats& device : store.stats().devices) {
    so_far.moved_bytes += device.cleaned_bytes;
    so_far.freed_segments += device.freed_segments;
    so_far.freed_bytes += device.freed_segments * device.segment_bytes;
  }
  return so_far;
}

std::string words_for(const Compacted& done) {
  return human_bytes(static_cast<double>(done.moved_bytes)) + " moved, " +
         human_bytes(static_cast<double>(done.freed_bytes)) + " freed (" +
         store::counted(done.freed_segments, "segment", "segments") + ")";
}

// The store as its directories say; larger where a size was given.
ipc::Result<storage::StoreConfig> config_for(const Request& request) {
  const auto wanted = store::directories(request);
  if (!wanted) return std::unexpected(wanted.error());
  // Closed again: a store locks it for itself.
  const auto image = store::open(request, storage::Access::look);
  if (!image) return std::unexpected(image.error());
  storage::StoreConfig config = storage::config_of(*image);
  if (config.devices.size() != wanted->size()) {
    return ipc::fail(ipc::Errc::data_lost,
                     "a device does not say which it is; see `sluicectl store check`");
  }
  for (std::size_t i = 0; i < config.devices.size(); ++i) {
    storage::DeviceConfig& device = config.devices[i];
    const auto& bytes = (*wanted)[i].bytes;
    if (!bytes) continue;
    if (*bytes < device.capacity_bytes &&
        *bytes / config.segment_bytes < device.capacity_bytes / config.segment_bytes) {
      return ipc::fail(ipc::Errc::invalid_argument,
                       device.directory.string() + " holds segments beyond " +
                           human_bytes(static_cast<double>(*bytes)) +
                           "; a smaller store would lose what is in them");
    }
    device.capacity_bytes = *bytes;
  }
  return config;
}

struct Waiting {
  std::mutex mutex;
  std::condition_variable ended;
  std::optional<ipc::Status> status;
};

ipc::Status compact_and_wait(const Request& request, storage::BlockStore& store,
                             double least_live) {
  const auto waiting = std::make_shared<Waiting>();
  store.compact(least_live, [waiting](ipc::Status status) {
    const std::lock_guard lock(waiting->mutex);
    waiting->status = std::move(status);
    waiting->ended.notify_all();
  });
  store::Progress progress(request, "compacting:");
  std::unique_lock lock(waiting->mutex);
  while (!waiting->ended.wait_for(lock, kCompactLookInterval,
                                  [&] { return waiting->status.has_value(); })) {
    if (progress.is_due()) progress.show(words_for(compacted_so_far(store)));
  }
  return *waiting->status;
}

}  // namespace

int store_compact(const Request& request) {
  const auto config = config_for(request);
  if (!config) return store::fail(request, config.error());
  auto store = storage::BlockStore::open(*config);
  if (!store) return store::fail(request, store.error());
  const double least_live = static_cast<double>(request.options.live_percent) / 100;
  const ipc::Status ended = compact_and_wait(request, **store, least_live);
  const Compacted done = compacted_so_far(**store);
  store->reset();
  if (!ended) {
    request.note(words_for(done) + " until then");
    const bool full = ended.error().code == ipc::Errc::no_memory;
    return request.fail({ended.error().code,
                         ended.error().text + (full ? "; say how much the directory may hold as "
                                                      "DIR:SIZE, or name the configuration"
                                                    : "")},
                        kExitFailed);
  }
  const Json document = {{"schema", "sluice.store_compact"},
                         {"version", 1},
                         {"moved_bytes", done.moved_bytes},
                         {"freed_bytes", done.freed_bytes},
                         {"freed_segments", done.freed_segments}};
  return request.show(document, "Compacted: " + words_for(done) + ".\n");
}

}  // namespace sluice::tools
