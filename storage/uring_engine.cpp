#include "storage/uring_engine.h"

namespace sluice::storage {

Result<std::unique_ptr<IoEngine>> make_uring_engine(std::uint32_t) {
  return ipc::fail(Errc::not_supported, "the io engine of io_uring is not built yet");
}

}  // namespace sluice::storage
