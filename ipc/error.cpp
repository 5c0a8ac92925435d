#include "ipc/error.h"

#include <cerrno>
#include <system_error>

namespace sluice::ipc {

std::unexpected<Error> fail_errno(std::string_view what) {
  const int number = errno;
  Errc code = Errc::io_error;
  if (number == ENOMEM || number == ENOSPC || number == EFBIG) code = Errc::no_memory;
  if (number == EMFILE || number == ENFILE) code = Errc::limit_reached;
  if (number == EACCES || number == EPERM) code = Errc::permission_denied;
  return fail(code, std::string(what) + " failed: " + std::generic_category().message(number));
}

}  // namespace sluice::ipc
