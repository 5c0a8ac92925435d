#include <string>
#include <utility>

#include "storage/usage.h"
#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/store.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

using storage::Usage;

std::string size_text(std::uint64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

std::string devices_text(const Usage& usage, bool colour) {
  Table table({{"DIRECTORY", Align::left},
               {"SEGMENTS"},
               {"IN USE"},
               {"OF"},
               {"BLOCKS"},
               {"LIVE"},
               {"DEAD"}});
  for (const storage::DeviceUsage& device : usage.devices) {
    table.add({printable(device.directory.string()), human_count(device.segments),
               human_count(device.segments_used), size_text(device.segment_bytes),
               human_count(device.blocks), size_text(device.live_bytes),
               size_text(device.dead_bytes)});
  }
  return table.text(colour);
}

// A column per tenth of a segment.
std::string fill_text(const Usage& usage, bool colour) {
  std::vector<Column> columns = {{"SEGMENTS BY LIVE PART", Align::left}};
  for (std::size_t i = 0; i < storage::kFillClasses; ++i) {
    const bool last = i + 1 == storage::kFillClasses;
    columns.push_back({(last ? "<=" : "<") + std::to_string((i + 1) * 10) + "%"});
  }
  Table table(columns);
  for (const storage::DeviceUsage& device : usage.devices) {
    std::vector<std::string> cells = {printable(device.directory.string())};
    for (const std::uint64_t count : device.fill) cells.push_back(human_count(count));
    table.add(std::move(cells));
  }
  return table.text(colour);
}

std::string owners_text(const Usage& usage, bool colour) {
  Table tenants({{"TENANT", Align::left}, {"BLOCKS"}, {"LIVE"}});
  for (const storage::TenantUsage& tenant : usage.tenants) {
    tenants.add({printable(tenant.name), human_count(tenant.blocks), size_text(tenant.live_bytes)});
  }
  Table scopes({{"BLOCKS"}, {"LIVE"}, {"NAMESPACE", Align::left}});
  for (const storage::ScopeUsage& scope : usage.namespaces) {
    scopes.add(
        {human_count(scope.blocks), size_text(scope.live_bytes), store::scope_text(scope.scope)});
  }
  return tenants.text(colour) + "\n" + scopes.text(colour);
}

std::string notes_text(const Usage& usage) {
  std::string text;
  if (usage.unread_blocks > 0) {
    text += "\nThe headers of " + store::counted(usage.unread_blocks, "block", "blocks") +
            " cannot be read: `sluicectl store check` says more.\n";
  }
  if (usage.other_blocks > 0) {
    text += "\n" + store::counted(usage.other_blocks, "block", "blocks") +
            " are on devices that were not named.\n";
  }
  return text;
}

Json document_of(const Usage& usage) {
  Json devices = Json::array();
  for (const storage::DeviceUsage& device : usage.devices) {
    devices.push_back({{"directory", device.directory.string()},
                       {"segment_bytes", device.segment_bytes},
                       {"segments", device.segments},
                       {"segments_used", device.segments_used},
                       {"blocks", device.blocks},
                       {"live_bytes", device.live_bytes},
                       {"dead_bytes", device.dead_bytes},
                       {"segments_by_live_tenths", device.fill}});
  }
  Json tenants = Json::array();
  for (const storage::TenantUsage& tenant : usage.tenants) {
    tenants.push_back(
        {{"tenant", tenant.name}, {"blocks", tenant.blocks}, {"live_bytes", tenant.live_bytes}});
  }
  Json scopes = Json::array();
  for (const storage::ScopeUsage& scope : usage.namespaces) {
    scopes.push_back({{"namespace", store::scope_json(scope.scope)},
                      {"blocks", scope.blocks},
                      {"live_bytes", scope.live_bytes},
                      {"valid_bytes", scope.valid_bytes}});
  }
  return {{"schema", "sluice.store_stats"},    {"version", 1},
          {"devices", std::move(devices)},     {"tenants", std::move(tenants)},
          {"namespaces", std::move(scopes)},   {"unread_blocks", usage.unread_blocks},
          {"other_blocks", usage.other_blocks}};
}

}  // namespace

int store_stats(const Request& request) {
  const auto image = store::open(request, storage::Access::look);
  if (!image) return store::fail(request, image.error());
  const auto usage = [&] {
    store::Progress progress(request, "reading headers:");
    return storage::usage_of(*image, [&](std::uint64_t done, std::uint64_t all) {
      if (progress.is_due()) progress.show(human_count(done) + " of " + human_count(all));
    });
  }();
  if (!usage) return store::fail(request, usage.error());
  const bool colour = request.around.colour;
  return request.show(document_of(*usage), devices_text(*usage, colour) + "\n" +
                                               fill_text(*usage, colour) + "\n" +
                                               owners_text(*usage, colour) + notes_text(*usage));
}

}  // namespace sluice::tools
