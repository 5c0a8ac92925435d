#include "storage/usage.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "storage/bytes.h"
#include "storage/catalog.h"

namespace sluice::storage {
namespace {

// Of the segment: what may hold records, behind its page.
std::uint64_t written_bytes(const DeviceImage& device, const SegmentImage& segment) {
  const bool last = segment.sequence == device.checkpoint.segment_sequence;
  const std::uint64_t end = last
                                ? std::min(device.checkpoint.offset, device.identity->segment_bytes)
                                : device.identity->segment_bytes;
  return end > kPageBytes ? end - kPageBytes : 0;
}

DeviceUsage usage_of_device(const DeviceImage& device,
                            const std::map<std::uint32_t, std::uint64_t>& live) {
  DeviceUsage usage;
  usage.directory = device.directory;
  usage.segment_bytes = device.identity->segment_bytes;
  usage.segments = device.segments.size();
  for (const SegmentImage& segment : device.segments) {
    const auto found = live.find(segment.number);
    const std::uint64_t bytes = found == live.end() ? 0 : found->second;
    if (segment.sequence == 0) continue;
    ++usage.segments_used;
    const std::uint64_t written = written_bytes(device, segment);
    usage.dead_bytes += written > bytes ? written - bytes : 0;
    const std::uint64_t room = usage.segment_bytes - kPageBytes;
    ++usage.fill[std::min<std::uint64_t>(bytes * kFillClasses / room, kFillClasses - 1)];
  }
  return usage;
}

}  // namespace

Status list_blocks(const StoreImage& image, const std::function<bool(const ListedBlock&)>& take) {
  if (!image.index_fault.empty()) return ipc::fail(Errc::data_lost, image.index_fault);
  ImageReader reader(image);
  for (const IndexEntry& entry : image.index.entries) {
    ListedBlock block{entry, image.device(entry.device), std::nullopt, {}, {}};
    const auto fields = reader.header(entry);
    if (fields) {
      block.scope = decode_namespace(as_bytes(fields->encoded_namespace));
      block.key = as_text(fields->key);
    } else {
      block.why_not = fields.error().text;
    }
    if (!take(block)) return {};
  }
  return {};
}

Result<Usage> usage_of(const StoreImage& image, const OnUsage& progress) {
  Usage usage;
  std::map<std::uint32_t, std::map<std::uint32_t, std::uint64_t>> live;  // by device and segment
  std::map<std::uint32_t, DeviceUsage> blocks;
  std::map<std::string, TenantUsage> tenants;
  std::map<std::string, ScopeUsage> scopes;
  std::uint64_t done = 0;
  const Status listed = list_blocks(image, [&](const ListedBlock& block) {
    const IndexEntry& entry = block.entry;
    const std::uint64_t bytes = record_bytes(entry);
    if (progress) progress(++done, image.index.entries.size());
    if (block.device == nullptr) {
      ++usage.other_blocks;
      return true;
    }
    live[entry.device][entry.segment] += bytes;
    ++blocks[entry.device].blocks;
    blocks[entry.device].live_bytes += bytes;
    const auto name = image.tenants.find(entry.tenant);
    TenantUsage& tenant = tenants[name == image.tenants.end() ? "" : name->second];
    ++tenant.blocks;
    tenant.live_bytes += bytes;
    if (!block.scope) {
      ++usage.unread_blocks;
      return true;
    }
    ScopeUsage& scope = scopes[encode_namespace(*block.scope)];
    scope.scope = *block.scope;
    ++scope.blocks;
    scope.live_bytes += bytes;
    scope.valid_bytes += entry.valid_bytes;
    return true;
  });
  if (!listed) return std::unexpected(listed.error());
  for (const DeviceImage& device : image.devices) {
    if (!device.identity) continue;
    DeviceUsage& of =
        usage.devices.emplace_back(usage_of_device(device, live[device.identity->device]));
    of.blocks = blocks[device.identity->device].blocks;
    of.live_bytes = blocks[device.identity->device].live_bytes;
  }
  for (auto& [name, tenant] : tenants) {
    tenant.name = name;
    usage.tenants.push_back(std::move(tenant));
  }
  for (auto& [name, scope] : scopes) usage.namespaces.push_back(std::move(scope));
  std::ranges::sort(usage.namespaces, {}, [](const ScopeUsage& of) {
    return std::tie(of.scope.tenant, of.scope.model, of.scope.salt, of.scope.layout,
                    of.scope.shard);
  });
  return usage;
}

}  // namespace sluice::storage
