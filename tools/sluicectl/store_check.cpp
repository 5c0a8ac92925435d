#include <optional>
#include <set>
#include <string>
#include <utility>

#include "storage/check.h"
#include "storage/repair.h"
#include "tools/common/size.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/store.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

using storage::CheckReport;
using storage::FindingKind;
using storage::StoreImage;

std::string directory_of(const StoreImage& image, const storage::Finding& finding) {
  return finding.device ? image.devices[*finding.device].directory.string() : std::string();
}

std::string number_text(const std::optional<std::uint64_t>& number) {
  return number ? std::to_string(*number) : "-";
}

// The key; where the header does not say it any more, the name that the index has for it.
std::string key_text(const storage::Finding& finding) {
  if (!finding.key.empty()) return store::hex(finding.key);
  return finding.digest ? "#" + store::hex(*finding.digest) : "-";
}

std::string findings_text(const CheckReport& report, const StoreImage& image, bool colour) {
  if (report.findings.empty()) return {};
  Table table({{"FINDING", Align::left},
               {"DIRECTORY", Align::left},
               {"SEGMENT"},
               {"OFFSET"},
               {"BYTES"},
               {"KEY", Align::left},
               {"NAMESPACE", Align::left},
               {"WHAT", Align::left}});
  for (const storage::Finding& finding : report.findings) {
    table.add({std::string(word_for(finding.kind)), printable(directory_of(image, finding)),
               number_text(finding.segment), number_text(finding.offset),
               std::to_string(finding.bytes), key_text(finding),
               finding.scope ? store::scope_text(*finding.scope) : "-", printable(finding.text)});
  }
  return table.text(colour);
}

std::string summary_text(const CheckReport& report) {
  std::string text = "Checked " + store::blocks_text(report.blocks, report.bytes) + " in " +
                     store::counted(report.segments, "segment", "segments") + ": ";
  if (report.findings.empty()) {
    text += "no fault";
  } else {
    text += store::counted(report.findings.size(), "finding", "findings") + ", " +
            store::blocks_text(report.lost_blocks, report.lost_bytes) + " lost";
  }
  if (report.unchecked_blocks > 0) {
    text += "; " + store::counted(report.unchecked_blocks, "block", "blocks") +
            " of devices that were not named, or do not say which they are, were not checked";
  }
  return text + ".\n";
}

Json document_of(const CheckReport& report, const StoreImage& image) {
  Json rows = Json::array();
  for (const storage::Finding& finding : report.findings) {
    const auto number = [](const auto& value) { return value ? Json(*value) : Json(nullptr); };
    rows.push_back(
        {{"kind", word_for(finding.kind)},
         {"directory", finding.device ? Json(directory_of(image, finding)) : Json(nullptr)},
         {"segment", number(finding.segment)},
         {"offset", number(finding.offset)},
         {"bytes", finding.bytes},
         {"namespace", finding.scope ? store::scope_json(*finding.scope) : Json(nullptr)},
         {"key", finding.key.empty() ? Json(nullptr) : Json(store::hex(finding.key))},
         {"digest", finding.digest ? Json(store::hex(*finding.digest)) : Json(nullptr)},
         {"loses_block", finding.loses_block},
         {"text", finding.text}});
  }
  return {{"schema", "sluice.store_check"},
          {"version", 1},
          {"clean", report.findings.empty()},
          {"segments", report.segments},
          {"blocks", report.blocks},
          {"bytes", report.bytes},
          {"lost_blocks", report.lost_blocks},
          {"lost_bytes", report.lost_bytes},
          {"unchecked_blocks", report.unchecked_blocks},
          {"read_bytes", report.read_bytes},
          {"findings", std::move(rows)},
          {"repaired", nullptr}};
}

std::uint64_t count_of(const CheckReport& report, FindingKind kind) {
  std::uint64_t count = 0;
  for (const storage::Finding& finding : report.findings) count += finding.kind == kind ? 1 : 0;
  return count;
}

// What a repair takes away, and what it gives back.
std::string plan_text(const CheckReport& report) {
  std::string text = "forgets " + store::blocks_text(report.lost_blocks, report.lost_bytes);
  if (const auto found = count_of(report, FindingKind::unindexed); found > 0) {
    text += ", tells the index of " + store::counted(found, "record", "records");
  }
  if (const auto torn = count_of(report, FindingKind::torn); torn > 0) {
    text += ", wipes " + store::counted(torn, "torn record", "torn records");
  }
  if (count_of(report, FindingKind::index) > 0) {
    text += ", sets the index aside and makes it anew from the segments";
  }
  return text;
}

CheckReport look(const Request& request, const StoreImage& image) {
  store::Progress progress(request, "checking:");
  return storage::check(image, [&](const storage::CheckProgress& at) {
    if (!progress.is_due()) return;
    progress.show(human_bytes(static_cast<double>(at.done_bytes)) + " of " +
                  human_bytes(static_cast<double>(at.all_bytes)));
  });
}

int repair_store(const Request& request, StoreImage image, const CheckReport& report,
                 Json document) {
  if (const auto stop = confirm(request, "Repairing " + plan_text(report))) return *stop;
  const auto repaired = storage::repair(std::move(image), report);
  if (!repaired) return store::fail(request, repaired.error());
  document["repaired"] = {{"forgotten_blocks", repaired->forgotten_blocks},
                          {"forgotten_bytes", repaired->forgotten_bytes},
                          {"found_blocks", repaired->found_blocks}};
  request.show(
      document,
      "Repaired: " + store::blocks_text(repaired->forgotten_blocks, repaired->forgotten_bytes) +
          " forgotten, " + store::counted(repaired->found_blocks, "block", "blocks") +
          " found again.\n");
  return kExitUnhealthy;
}

}  // namespace

int store_check(const Request& request) {
  const Options& options = request.options;
  const bool repairs = options.repair && !options.dry_run;
  auto image = store::open(request, repairs ? storage::Access::repair : storage::Access::look);
  if (!image) return store::fail(request, image.error());
  const CheckReport report = look(request, *image);
  const Json document = document_of(report, *image);
  const bool clean = report.findings.empty();
  std::string text = findings_text(report, *image, request.around.colour) + summary_text(report);
  if (clean || !repairs) {
    if (!clean && options.repair) text += "Repairing " + plan_text(report) + ".\n";
    request.show(document, text);
    return clean ? kExitDone : kExitUnhealthy;
  }
  if (!options.json) request.show(document, text);
  return repair_store(request, std::move(*image), report, document);
}

}  // namespace sluice::tools
