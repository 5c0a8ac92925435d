#include "storage/block_store.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "storage/bytes.h"
#include "storage/device.h"
#include "storage/outstanding.h"
#include "storage/recovery.h"
#include "storage/store_config.h"

namespace sluice::storage {
namespace {

constexpr std::chrono::microseconds kPauseOfDrops{100};

struct Scope {
  std::string encoded;
  std::uint32_t tenant = 0;
  std::atomic<double> weight = 1;  // the tenant's; nothing else changes
};

StoredBlock stored(const IndexEntry& entry) {
  return {entry.device,
          entry.segment,
          std::uint64_t{entry.offset_pages} * kIoAlign,
          entry.sequence,
          std::uint64_t{entry.block_pages} * kIoAlign,
          entry.valid_bytes};
}

bool is_aligned(const std::byte* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % kIoAlign == 0;
}

}  // namespace

struct BlockStore::Impl {
  struct Slot {
    DeviceConfig config;
    File lock;
    std::string why_not;
    std::unique_ptr<Device> device;  // null: it could not be opened
  };

  StoreConfig config;
  StoreId id;
  Catalog catalog;
  DailyBound written;
  std::unique_ptr<Index> index;
  std::unique_ptr<Commit> commit;
  std::atomic<std::uint64_t> next_sequence{1};
  std::vector<Slot> slots;
  std::vector<Device*> devices;
  std::map<std::uint32_t, Device*> by_number;
  Outstanding outstanding;
  std::atomic<std::uint64_t> queued_bytes{0};
  std::atomic<Cleaning> cleaning{Cleaning::when_asked};
  StoreStats opened;

  mutable std::mutex scopes_mutex;
  std::deque<Scope> scopes;  // in place for good: jobs point to them
  std::map<std::string, NamespaceId> scope_numbers;

  explicit Impl(StoreConfig what) : config(std::move(what)), written(config.write_bytes_per_day) {}

  Status open();
  Result<Recovered> recover_with(const std::filesystem::path& index_directory,
                                 std::vector<OpenedDevice>& opened_devices);
  Status start(OpenedDevice& opened_device, std::size_t slot);
  std::uint64_t capacity_bytes() const;
  std::uint32_t tenant_number(const std::string& name);
  void set_quota(const TenantConfig& tenant);
  void clean_as_needed();
  const Scope* scope(NamespaceId number) const;
  Result<Digest> digest(NamespaceId number, std::span<const std::byte> key) const;
  Result<std::vector<Digest>> digests(NamespaceId number,
                                      std::span<const std::span<const std::byte>> keys) const;
  Done tracked(Done done, std::uint64_t bytes);
  void answer(Done done, Status status);
  void post(Device& device, std::unique_ptr<Job> job);
  void end_unwritten(const Digest& digest, const Status& status);
  Device* choose(const Digest& digest) const;
  Status check_write(const Scope* own, std::span<const std::byte> key,
                     std::span<const std::byte> payload, std::uint64_t valid_bytes) const;
  Status admit(const Scope& own, std::uint64_t bytes);
  Status admit_today(std::uint64_t bytes, Reuse reuse);
};

Result<Recovered> BlockStore::Impl::recover_with(const std::filesystem::path& index_directory,
                                                 std::vector<OpenedDevice>& opened_devices) {
  auto opened_index = Index::open(index_directory);
  if (!opened_index) return std::unexpected(opened_index.error());
  index = std::move(*opened_index);
  const auto identified = identify(opened_devices, *index, config.segment_bytes);
  if (!identified) return std::unexpected(identified.error());
  id = *identified;
  return recover(opened_devices, *index, catalog);
}

Status BlockStore::Impl::open() {
  const auto began = std::chrono::steady_clock::now();
  if (Status checked = check_config(config); !checked) return checked;
  if (Status allowed = allow_open_files(config); !allowed) return allowed;
  auto opened_devices = open_devices(config.devices);
  if (!opened_devices) return std::unexpected(opened_devices.error());
  const std::filesystem::path where = config.index_directory.empty()
                                          ? config.devices.front().directory / "index"
                                          : config.index_directory;
  auto recovered = recover_with(where, *opened_devices);
  if (!recovered && recovered.error().code == Errc::data_lost) {
    index.reset();
    if (Status aside = Index::set_aside(where); !aside) return aside;
    recovered = recover_with(where, *opened_devices);
  }
  if (!recovered) return std::unexpected(recovered.error());
  if (config.cleaning == Cleaning::as_needed) clean_as_needed();
  next_sequence = recovered->next_sequence;
  written.restore(recovered->written);
  commit = std::make_unique<Commit>(*index, catalog, written);
  for (std::size_t i = 0; i < opened_devices->size(); ++i) {
    OpenedDevice& device = (*opened_devices)[i];
    if (!device.usable()) {
      slots.push_back({device.config, std::move(device.lock), device.why_not, nullptr});
    } else if (Status started = start(device, i); !started) {
      return started;
    }
  }
  opened.recovered_blocks = recovered->recovered_blocks;
  opened.dropped_records = recovered->dropped_records;
  opened.open_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return {};
}

Status BlockStore::Impl::start(OpenedDevice& opened_device, std::size_t slot) {
  DeviceSetup setup;
  auto engine = config.engine ? config.engine(slot)
                              : make_io_engine(config.io, config.depth, &setup.engine_why);
  if (!engine) return std::unexpected(engine.error());
  setup.engine = std::move(*engine);
  setup.segments = std::move(opened_device.segments);
  setup.checkpoint = opened_device.checkpoint;
  setup.capacity_bytes = opened_device.config.capacity_bytes;
  setup.part_bytes = config.part_bytes;
  setup.depth = config.depth;
  setup.error_budget = config.device_error_budget;
  setup.stall_timeout = config.stall_timeout;
  auto device = std::make_unique<Device>(
      std::move(setup), StoreShared{catalog, *commit, written, next_sequence, cleaning});
  devices.push_back(device.get());
  by_number[device->number()] = device.get();
  slots.push_back({opened_device.config, std::move(opened_device.lock), {}, std::move(device)});
  return {};
}

std::uint64_t BlockStore::Impl::capacity_bytes() const {
  std::uint64_t sum = 0;
  for (const DeviceConfig& device : config.devices) sum += device.capacity_bytes;
  return sum;
}

// With scopes_mutex.
std::uint32_t BlockStore::Impl::tenant_number(const std::string& name) {
  const Catalog::TenantNumber tenant = catalog.tenant(name);
  if (tenant.is_new) {
    // Refused: after a restart its blocks belong to a tenant without a name.
    static_cast<void>(index->put_tenant(tenant.number, name));
  }
  return tenant.number;
}

void BlockStore::Impl::set_quota(const TenantConfig& tenant) {
  // A limit counts what waits to be written, too; what is not divided goes by its devices alone.
  const bool all = tenant.limit_bytes >= capacity_bytes();
  std::uint32_t number = 0;
  {
    const std::lock_guard lock(scopes_mutex);
    number = tenant_number(tenant.name);
    catalog.set_quota(number, all ? 0 : tenant.limit_bytes, tenant.weight);
    for (Scope& scope : scopes) {
      if (scope.tenant == number) scope.weight = tenant.weight;
    }
  }
  // Without a pause nobody else would get the catalog in between.
  while (catalog.drop_excess(number)) std::this_thread::sleep_for(kPauseOfDrops);
}

void BlockStore::Impl::clean_as_needed() {
  for (const TenantConfig& tenant : config.tenants) set_quota(tenant);
  cleaning = Cleaning::as_needed;
}

const Scope* BlockStore::Impl::scope(NamespaceId number) const {
  const std::lock_guard lock(scopes_mutex);
  return number.value < scopes.size() ? &scopes[number.value] : nullptr;
}

Result<Digest> BlockStore::Impl::digest(NamespaceId number, std::span<const std::byte> key) const {
  const Scope* own = scope(number);
  if (own == nullptr || key.empty() || key.size() > kMaxKeyBytes) {
    return ipc::fail(Errc::invalid_argument, "no such namespace, or no key of 1 to 64 bytes");
  }
  return digest_of(id, own->encoded, key);
}

Result<std::vector<Digest>> BlockStore::Impl::digests(
    NamespaceId number, std::span<const std::span<const std::byte>> keys) const {
  const Scope* own = scope(number);
  if (own == nullptr) return ipc::fail(Errc::invalid_argument, "no such namespace");
  std::vector<Digest> all;
  all.reserve(keys.size());
  for (const auto key : keys) {
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return ipc::fail(Errc::invalid_argument, "a key has 1 to 64 bytes");
    }
    all.push_back(digest_of(id, own->encoded, key));
  }
  return all;
}

Done BlockStore::Impl::tracked(Done done, std::uint64_t bytes) {
  return [this, bytes, epoch = outstanding.begin(), own = std::move(done)](Status status) mutable {
    queued_bytes -= bytes;
    own(std::move(status));
    outstanding.end(epoch);
  };
}

void BlockStore::Impl::answer(Done done, Status status) {
  auto job = std::make_unique<Job>();
  job->status = std::move(status);
  job->done = std::move(done);
  post(*devices.front(), std::move(job));
}

void BlockStore::Impl::post(Device& device, std::unique_ptr<Job> job) {
  // The device has stopped: a completion called the store while it closes.
  const std::unique_ptr<Job> refused = device.post(std::move(job));
  if (!refused) return;
  if (refused->kind == Job::Kind::hurry) return;
  const Status closing = ipc::fail(Errc::shutting_down, "the store is closing");
  if (refused->kind != Job::Kind::write) return refused->done(closing);
  for (Done& done : catalog.end_write(refused->digest)) done(closing);
}

// A write that was begun in the catalog and goes no further.
void BlockStore::Impl::end_unwritten(const Digest& digest, const Status& status) {
  for (Done& done : catalog.end_write(digest)) answer(std::move(done), status);
}

Device* BlockStore::Impl::choose(const Digest& digest) const {
  std::uint64_t all = 0;
  for (const Device* device : devices) {
    if (device->usable()) all += device->capacity_bytes();
  }
  if (all == 0) return nullptr;
  std::uint64_t at = digest.high % all;
  for (Device* device : devices) {
    if (!device->usable()) continue;
    if (at < device->capacity_bytes()) return device;
    at -= device->capacity_bytes();
  }
  // One was taken out meanwhile.
  const auto usable = std::ranges::find_if(devices, &Device::usable);
  return usable == devices.end() ? nullptr : *usable;
}

Status BlockStore::Impl::check_write(const Scope* own, std::span<const std::byte> key,
                                     std::span<const std::byte> payload,
                                     std::uint64_t valid_bytes) const {
  const auto bad = [](const char* why) { return ipc::fail(Errc::invalid_argument, why); };
  if (own == nullptr) return bad("no such namespace");
  if (key.empty() || key.size() > kMaxKeyBytes) return bad("a key has 1 to 64 bytes");
  if (payload.empty() || payload.size() > kMaxBlockBytes || payload.size() % kIoAlign != 0) {
    return bad("a block has a multiple of 4 KiB, up to 1 GiB");
  }
  if (!is_aligned(payload.data())) return bad("the payload is not aligned to 4 KiB");
  if (valid_bytes > payload.size()) return bad("more valid bytes than the block has");
  if (kPageBytes + record_bytes_of(payload.size()) > config.segment_bytes) {
    return bad("the block is larger than a segment");
  }
  return {};
}

// The bounds that do not depend on the block. `bytes` are queued if it is ok.
Status BlockStore::Impl::admit(const Scope& own, std::uint64_t bytes) {
  if (queued_bytes.fetch_add(bytes) + bytes > config.queue_bytes) {
    queued_bytes -= bytes;
    catalog.count_refused(own.tenant);
    return ipc::fail(Errc::limit_reached, "too much is waiting to be written (queue_bytes)");
  }
  return {};
}

Status BlockStore::Impl::admit_today(std::uint64_t bytes, Reuse reuse) {
  switch (written.take(bytes, wall_clock_s(), reuse)) {
    case DailyBound::Taken::yes:
      return {};
    case DailyBound::Taken::no:
      return ipc::fail(Errc::limit_reached, "enough was written today (write_bytes_per_day)");
    case DailyBound::Taken::not_unlikely:
      break;
  }
  return ipc::fail(Errc::busy,
                   "the rest of what may be written today (write_bytes_per_day) is for blocks that "
                   "are likelier to be read again");
}

BlockStore::BlockStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<BlockStore>> BlockStore::open(StoreConfig config) {
  auto store =
      std::unique_ptr<BlockStore>(new BlockStore(std::make_unique<Impl>(std::move(config))));
  if (const Status opened = store->impl_->open(); !opened) return std::unexpected(opened.error());
  return store;
}

BlockStore::~BlockStore() {
  for (Device* device : impl_->devices) device->stop();
  // What fails here is found again in the segments.
  if (impl_->commit) static_cast<void>(impl_->commit->sync());
}

Result<NamespaceId> BlockStore::intern(const Namespace& scope) {
  const std::size_t bytes = scope.tenant.size() + scope.model.size() + scope.salt.size() +
                            scope.layout.size() + scope.shard.size();
  if (bytes > kMaxNamespaceBytes) {
    return ipc::fail(Errc::invalid_argument, "a namespace has at most 2048 bytes");
  }
  std::string encoded = encode_namespace(scope);
  const std::lock_guard lock(impl_->scopes_mutex);
  if (const auto known = impl_->scope_numbers.find(encoded); known != impl_->scope_numbers.end()) {
    return known->second;
  }
  if (impl_->scopes.size() >= kMaxNamespaces) {
    return ipc::fail(Errc::limit_reached, "the store knows 65536 namespaces, and no more");
  }
  const std::uint32_t tenant = impl_->tenant_number(scope.tenant);
  const NamespaceId number{static_cast<std::uint32_t>(impl_->scopes.size())};
  impl_->scopes.emplace_back(encoded, tenant, impl_->catalog.weight(tenant));
  impl_->scope_numbers.emplace(std::move(encoded), number);
  return number;
}

Result<std::vector<std::optional<StoredBlock>>> BlockStore::find(
    NamespaceId scope, std::span<const std::span<const std::byte>> keys) {
  const auto digests = impl_->digests(scope, keys);
  if (!digests) return std::unexpected(digests.error());
  std::vector<std::optional<StoredBlock>> found(keys.size());
  std::vector<std::optional<IndexEntry>> entries;
  impl_->catalog.find(*digests, wall_clock_s(), entries);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    if (entries[i]) found[i] = stored(*entries[i]);
  }
  return found;
}

Result<std::vector<BlockStore::HeldBlock>> BlockStore::find_and_hold(
    NamespaceId scope, std::span<const std::span<const std::byte>> keys) {
  const auto digests = impl_->digests(scope, keys);
  if (!digests) return std::unexpected(digests.error());
  std::vector<HeldBlock> found;
  for (const Catalog::Held& held : impl_->catalog.find_and_hold(*digests, wall_clock_s())) {
    found.push_back({stored(held.block), held.newly});
  }
  return found;
}

void BlockStore::read(NamespaceId scope, std::span<const std::byte> key, const StoredBlock& block,
                      std::uint64_t offset, std::span<std::byte> to, IoClass io_class, Done done) {
  Done tracked = impl_->tracked(std::move(done), 0);
  const Scope* own = impl_->scope(scope);
  if (own == nullptr || key.empty() || key.size() > kMaxKeyBytes || to.empty() ||
      offset % kIoAlign != 0 || to.size() % kIoAlign != 0 || !is_aligned(to.data()) ||
      offset > block.block_bytes || to.size() > block.block_bytes - offset) {
    return impl_->answer(std::move(tracked),
                         ipc::fail(Errc::invalid_argument,
                                   "a read is of 4 KiB pages of a block, into aligned memory"));
  }
  const auto device = impl_->by_number.find(block.device);
  if (device == impl_->by_number.end()) {
    return impl_->answer(std::move(tracked), ipc::fail(Errc::not_found, "no such device"));
  }
  auto job = std::make_unique<Job>();
  job->kind = Job::Kind::read;
  job->io_class = io_class;
  job->tenant = own->tenant;
  job->weight = own->weight;
  job->digest = digest_of(impl_->id, own->encoded, key);
  job->encoded_namespace = own->encoded;
  job->key = Key(key);
  job->block_bytes = block.block_bytes;
  job->offset = offset;
  job->to = to;
  job->done = std::move(tracked);
  impl_->post(*device->second, std::move(job));
}

void BlockStore::write(NamespaceId scope, std::span<const std::byte> key,
                       std::span<const std::byte> payload, std::uint64_t valid_bytes,
                       IoClass io_class, Done done, Reuse reuse, Hold hold) {
  const Scope* own = impl_->scope(scope);
  Status good = impl_->check_write(own, key, payload, valid_bytes);
  const Digest digest = good ? digest_of(impl_->id, own->encoded, key) : Digest{};
  // No bound is in the way of a block that is there.
  const bool exists = good && impl_->catalog.exists(digest, payload.size(), valid_bytes, hold);
  if (good && !exists) good = impl_->admit(*own, payload.size());
  Done tracked = impl_->tracked(std::move(done), good && !exists ? payload.size() : 0);
  if (!good || exists) return impl_->answer(std::move(tracked), std::move(good));

  Device* device = impl_->choose(digest);
  if (device == nullptr) {
    impl_->catalog.count_refused(own->tenant);
    return impl_->answer(std::move(tracked),
                         ipc::fail(Errc::io_error, "every device was taken out"));
  }
  switch (
      impl_->catalog.begin_write(digest, own->tenant, payload.size(), valid_bytes, hold, tracked)) {
    case Catalog::Begun::exists:
      return impl_->answer(std::move(tracked), {});
    case Catalog::Begun::refused:
      return impl_->answer(std::move(tracked),
                           ipc::fail(Errc::quota_exceeded, "more than the tenant's limit"));
    case Catalog::Begun::joined:
      return;
    case Catalog::Begun::started:
      break;
  }
  if (Status today = impl_->admit_today(record_bytes_of(payload.size()), reuse); !today) {
    impl_->catalog.count_refused(own->tenant);
    return impl_->end_unwritten(digest, today);
  }
  auto job = std::make_unique<Job>();
  job->kind = Job::Kind::write;
  job->io_class = io_class;
  job->tenant = own->tenant;
  job->weight = own->weight;
  job->digest = digest;
  job->encoded_namespace = own->encoded;
  job->key = Key(key);
  job->payload = payload;
  job->valid_bytes = valid_bytes;
  impl_->post(*device, std::move(job));
}

void BlockStore::hurry(NamespaceId scope, std::span<const std::byte> key) {
  const Scope* own = impl_->scope(scope);
  if (own == nullptr || key.empty() || key.size() > kMaxKeyBytes) return;
  const Digest digest = digest_of(impl_->id, own->encoded, key);
  const auto entry = impl_->catalog.peek(digest);
  if (!entry) return;
  const auto device = impl_->by_number.find(entry->device);
  if (device == impl_->by_number.end()) return;
  auto job = std::make_unique<Job>();
  job->kind = Job::Kind::hurry;
  job->tenant = own->tenant;
  job->digest = digest;
  impl_->post(*device->second, std::move(job));
}

Status BlockStore::hold(NamespaceId scope, std::span<const std::byte> key) {
  const auto digest = impl_->digest(scope, key);
  if (!digest) return std::unexpected(digest.error());
  if (impl_->catalog.hold(*digest)) return {};
  return ipc::fail(Errc::not_found, "the store has no such block any more");
}

void BlockStore::let_go(NamespaceId scope, std::span<const std::byte> key) {
  if (const auto digest = impl_->digest(scope, key)) impl_->catalog.let_go(*digest);
}

Status BlockStore::forget(NamespaceId scope, std::span<const std::byte> key) {
  const auto digest = impl_->digest(scope, key);
  if (!digest) return std::unexpected(digest.error());
  impl_->catalog.drop(*digest, std::nullopt, Drop::forgotten);
  return {};
}

Status BlockStore::set_tenant(const TenantConfig& tenant) {
  if (Status checked = check_tenant(tenant); !checked) return checked;
  impl_->set_quota(tenant);
  return {};
}

void BlockStore::clean_as_needed() { impl_->clean_as_needed(); }

void BlockStore::compact(double least_live, Done done) {
  Done tracked = impl_->tracked(std::move(done), 0);
  if (!(least_live >= 0 && least_live <= 1)) {
    return impl_->answer(std::move(tracked),
                         ipc::fail(Errc::invalid_argument, "a share of a segment is 0 to 1"));
  }
  // The last device to end answers, with the first error.
  struct Waiting {
    std::mutex mutex;
    std::size_t devices = 0;
    Status first;
    Done done;
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->devices = impl_->devices.size();
  waiting->done = std::move(tracked);
  for (Device* device : impl_->devices) {
    auto job = std::make_unique<Job>();
    job->kind = Job::Kind::compact;
    job->least_live = least_live;
    job->done = [waiting](Status status) {
      {
        const std::lock_guard lock(waiting->mutex);
        if (waiting->first && !status) waiting->first = std::move(status);
        if (--waiting->devices > 0) return;
      }
      waiting->done(waiting->first);
    };
    impl_->post(*device, std::move(job));
  }
}

Status BlockStore::drain(std::chrono::milliseconds timeout) {
  if (impl_->outstanding.wait(timeout)) return {};
  return ipc::fail(Errc::timed_out, "requests of the block store are not answered yet");
}

StoreStats BlockStore::stats() const {
  StoreStats stats = impl_->opened;
  stats.blocks = impl_->catalog.blocks();
  stats.tenants = impl_->catalog.tenant_stats();
  for (const Impl::Slot& slot : impl_->slots) {
    if (slot.device) {
      stats.devices.push_back(slot.device->stats());
      continue;
    }
    DeviceStats& gone = stats.devices.emplace_back();
    gone.directory = slot.config.directory;
    gone.capacity_bytes = slot.config.capacity_bytes;
    gone.taken_out = true;
    gone.taken_out_why = slot.why_not;
  }
  for (TenantStats& tenant : stats.tenants) {
    if (tenant.limit_bytes == 0) tenant.limit_bytes = impl_->capacity_bytes();
  }
  return stats;
}

}  // namespace sluice::storage
