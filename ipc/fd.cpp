#include "ipc/fd.h"

#include <fcntl.h>
#include <unistd.h>

namespace sluice::ipc {

void Fd::reset(int number) {
  if (number_ >= 0) ::close(number_);
  number_ = number;
}

Result<Fd> duplicate(int fd) {
  Fd copy(fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy) return fail_errno("duplicating a file descriptor");
  return copy;
}

}  // namespace sluice::ipc
