// The C ABI: checks what a caller passes, calls the library, and turns results into statuses. Here:
// versions, names and checks; the functions of each subject are in abi_*.cpp.
#include <cstdio>
#include <cstring>

#include "client/abi_checks.h"
#include "client/sluice.h"
#include "ipc/layout.h"
#include "ipc/wire_generated.h"

namespace ipc = sluice::ipc;
namespace wire = sluice::ipc::wire;
using ipc::Errc;

static_assert(SLUICE_DATA_LOST == static_cast<int>(ipc::kLastErrc));
static_assert(SLUICE_DAEMON_AWAY == static_cast<int>(Errc::daemon_away));
static_assert(SLUICE_EXECUTOR_DIRECT == static_cast<int>(wire::Executor::direct));
static_assert(sizeof(sluice_plan_desc) == 128 && sizeof(sluice_cache_info) == 88,
              "these structs are part of the ABI");
static_assert(SLUICE_PAGE_BLOCK == static_cast<int>(ipc::PageKind::block));

namespace sluice::client::internal {

sluice_status report(const ipc::Error& error, sluice_error* out) {
  if (out != nullptr) {
    out->code = static_cast<int32_t>(error.code);
    std::snprintf(out->text, sizeof(out->text), "%s", error.text.c_str());
  }
  return static_cast<sluice_status>(error.code);
}

sluice_status done(sluice_error* out) {
  if (out != nullptr) {
    out->code = SLUICE_OK;
    out->text[0] = '\0';
  }
  return SLUICE_OK;
}

std::unexpected<ipc::Error> null_argument(const char* name) {
  return ipc::fail(Errc::invalid_argument, std::string(name) + " is NULL");
}

ipc::Status check_text(const char* text, std::size_t most, const char* name) {
  if (text != nullptr && strnlen(text, most + 1) > most) {
    return ipc::fail(Errc::invalid_argument,
                     std::string(name) + " is longer than " + std::to_string(most) + " bytes");
  }
  return {};
}

std::string text_or_empty(const char* text) { return text == nullptr ? std::string() : text; }

}  // namespace sluice::client::internal

extern "C" {

uint32_t sluice_abi_version(void) { return SLUICE_ABI_VERSION; }
const char* sluice_version(void) { return SLUICE_VERSION; }

const char* sluice_status_name(int32_t status) {
  const auto code = static_cast<Errc>(static_cast<std::uint16_t>(status));
  return status < 0 || status > static_cast<int32_t>(ipc::kLastErrc) ? "unknown"
                                                                     : ipc::to_string(code).data();
}

}  // extern "C"
