#include "storage/io_engine.h"

#include "storage/thread_engine.h"
#include "storage/uring_engine.h"

namespace sluice::storage {

Result<std::unique_ptr<IoEngine>> make_io_engine(IoKind kind, std::uint32_t depth,
                                                 std::string* why) {
  if (depth < 1 || depth > kMaxIoDepth) {
    return ipc::fail(Errc::invalid_argument, "the depth of an io engine is 1 to " +
                                                 std::to_string(kMaxIoDepth) + ", not " +
                                                 std::to_string(depth));
  }
  if (kind == IoKind::threads) return make_thread_engine(depth);
  auto engine = make_uring_engine(depth);
  if (engine || kind == IoKind::io_uring) return engine;
  if (why != nullptr) *why = engine.error().text;
  return make_thread_engine(depth);
}

}  // namespace sluice::storage
