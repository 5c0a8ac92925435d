#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/usage.h"
#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/store.h"
#include "tools/sluicectl/table.h"

namespace sluice::tools {
namespace {

using storage::ListedBlock;

const std::vector<Column>& dump_columns() {
  static const std::vector<Column> all = {{"SEGMENT"},
                                          {"OFFSET"},
                                          {"BYTES"},
                                          {"SEQUENCE"},
                                          {"LAST USE"},
                                          {"KEY", Align::left},
                                          {"NAMESPACE", Align::left}};
  return all;
}
const std::vector<std::size_t> kDumpWidths = {8, 12, 12, 12, 10, 32, 9};

// Without a name a block is in no namespace and of no tenant that it could be asked for by.
bool is_wanted(const ListedBlock& block, const Options& options,
               const std::optional<std::string>& key) {
  if (options.tenant && (!block.scope || block.scope->tenant != *options.tenant)) return false;
  if (options.scope && (!block.scope || !store::is_in(*block.scope, *options.scope))) return false;
  return !key || block.key == *key;
}

Json json_of(const ListedBlock& block) {
  const storage::IndexEntry& entry = block.entry;
  return {{"schema", "sluice.store_block"},
          {"version", 1},
          {"namespace", block.scope ? store::scope_json(*block.scope) : Json(nullptr)},
          {"key", block.key.empty() ? Json(nullptr) : Json(store::hex(block.key))},
          {"digest", store::hex(entry.digest)},
          {"directory",
           block.device != nullptr ? Json(block.device->directory.string()) : Json(nullptr)},
          {"device", entry.device},
          {"segment", entry.segment},
          {"offset", std::uint64_t{entry.offset_pages} * storage::kIoAlign},
          {"block_bytes", std::uint64_t{entry.block_pages} * storage::kIoAlign},
          {"part_bytes", std::uint64_t{entry.part_pages} * storage::kIoAlign},
          {"valid_bytes", entry.valid_bytes},
          {"sequence", entry.sequence},
          {"last_use_seconds", entry.last_use_s},
          {"used", entry.used},
          {"error", block.why_not.empty() ? Json(nullptr) : Json(block.why_not)}};
}

std::string line_of(const ListedBlock& block) {
  const storage::IndexEntry& entry = block.entry;
  return Table::line(dump_columns(), kDumpWidths,
                     {std::to_string(entry.device) + ":" + std::to_string(entry.segment),
                      std::to_string(std::uint64_t{entry.offset_pages} * storage::kIoAlign),
                      std::to_string(entry.valid_bytes), std::to_string(entry.sequence),
                      std::to_string(entry.last_use_s),
                      block.key.empty() ? "#" + store::hex(entry.digest) : store::hex(block.key),
                      block.scope ? store::scope_text(*block.scope)
                                  : "- (" + printable(block.why_not) + ")"}) +
         "\n";
}

int list(const Request& request, const storage::StoreImage& image) {
  std::uint64_t left = request.options.limit.value_or(UINT64_MAX);
  bool written = true;
  if (!request.options.json) {
    std::vector<std::string> headings;
    for (const Column& column : dump_columns()) headings.push_back(column.heading);
    written = request.around.out(Table::line(dump_columns(), kDumpWidths, headings) + "\n");
  }
  const ipc::Status listed = storage::list_blocks(image, [&](const ListedBlock& block) {
    if (!is_wanted(block, request.options, std::nullopt)) return true;
    written = written && request.around.out(request.options.json ? json_text(json_of(block), true)
                                                                 : line_of(block));
    return written && --left > 0;
  });
  return listed ? kExitDone : store::fail(request, listed.error());
}

ipc::Result<storage::IndexEntry> find_one(const Request& request, const storage::StoreImage& image,
                                          const std::string& key) {
  std::optional<storage::IndexEntry> found;
  bool again = false;
  const ipc::Status listed = storage::list_blocks(image, [&](const ListedBlock& block) {
    if (!block.scope || !is_wanted(block, request.options, key)) return true;
    again = found.has_value();
    found = block.entry;
    return !again;
  });
  if (!listed) return std::unexpected(listed.error());
  if (!found) return ipc::fail(ipc::Errc::not_found, "no block has that key");
  if (again) {
    return ipc::fail(ipc::Errc::invalid_argument,
                     "blocks of several namespaces have that key: add --namespace");
  }
  return *found;
}

ipc::Status write_all(int fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t put = ::write(fd, bytes.data(), bytes.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return ipc::fail_errno("write");
    bytes = bytes.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

// A file of its own, that nobody else may read: it is a tenant's payload.
int save(const Request& request, const storage::StoreImage& image, const std::string& key) {
  const auto entry = find_one(request, image, key);
  if (!entry) return store::fail(request, entry.error());
  const std::string& path = request.options.out_file;
  const storage::File file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file && errno == EEXIST) {
    return request.fail({ipc::Errc::invalid_argument, path + " is there already"});
  }
  if (!file) return request.fail(ipc::fail_errno("open of " + path).error());
  storage::ImageReader reader(image);
  const ipc::Status saved = reader.payload(
      *entry, [&](std::span<const std::byte> piece) { return write_all(file.fd(), piece); });
  if (!saved) {
    ::unlink(path.c_str());
    return store::fail(request, saved.error());
  }
  const Json document = {{"schema", "sluice.store_data"},
                         {"version", 1},
                         {"key", store::hex(key)},
                         {"file", path},
                         {"bytes", entry->valid_bytes}};
  return request.show(document, printable(path) + ": " + std::to_string(entry->valid_bytes) +
                                    " bytes, verified.\n");
}

}  // namespace

int store_dump(const Request& request) {
  const auto image = store::open(request, storage::Access::look);
  if (!image) return store::fail(request, image.error());
  if (!request.options.key) return list(request, *image);
  const auto key = store::bytes_of_hex(*request.options.key);
  return key ? save(request, *image, *key) : request.fail(key.error());
}

}  // namespace sluice::tools
