// The C ABI: actors, their steps, and what they resolve and forecast.
#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "client/abi_checks.h"
#include "client/abi_handles.h"

namespace ipc = sluice::ipc;
using ipc::Errc;
using namespace sluice::client::internal;  // NOLINT(google-build-using-namespace): this file is its
                                           // C face

namespace {

ipc::Result<std::vector<PageList>> lists_from(const sluice_page_list* lists, std::size_t count) {
  if (count > 0 && lists == nullptr) return null_argument("lists");
  std::vector<PageList> out(count);
  for (std::size_t i = 0; i < count; ++i) {
    const sluice_page_list& list = lists[i];
    out[i] = {list.sequence == nullptr ? nullptr : list.sequence->impl.get(),
              list.page,
              list.count,
              list.blocks,
              list.slots,
              list.outcomes};
  }
  return out;
}

}  // namespace

extern "C" {

sluice_status sluice_actor_open(sluice_cache* cache, sluice_actor** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (cache == nullptr) return null_argument("cache");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto actor = Actor::open(*cache->impl);
    if (!actor) return std::unexpected(actor.error());
    *out = new sluice_actor{std::move(*actor)};
    return {};
  });
}

sluice_status sluice_actor_close(sluice_actor* actor, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return {};
    const std::unique_ptr<sluice_actor> gone(actor);
    return gone->impl->close();
  });
}

sluice_status sluice_step_begin(sluice_actor* actor, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    return actor->impl->begin_step();
  });
}

sluice_status sluice_step_end(sluice_actor* actor, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    return actor->impl->end_step();
  });
}

// ---- resolve

sluice_status sluice_resolve(sluice_actor* actor, const sluice_page_list* lists, size_t list_count,
                             sluice_resolve_counts* counts, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    sluice_resolve_counts found{};
    if (auto ok = actor->impl->resolve(*wanted, found); !ok) return ok;
    if (counts != nullptr) *counts = found;
    return {};
  });
}

sluice_status sluice_resolve_wait(sluice_actor* actor, const sluice_page_list* lists,
                                  size_t list_count, uint64_t wait_us,
                                  sluice_resolve_counts* counts, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    sluice_resolve_counts found{};
    const auto until = deadline_after(wait_us);
    if (auto ok = actor->impl->resolve_wait(*wanted, until, found); !ok) return ok;
    if (counts != nullptr) *counts = found;
    return {};
  });
}

sluice_status sluice_resolve_async(sluice_actor* actor, const sluice_page_list* lists,
                                   size_t list_count, sluice_op** out, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    auto operation = actor->impl->start(*wanted);
    if (!operation) return std::unexpected(operation.error());
    *out = new sluice_op{actor->impl.get(), std::move(*operation)};
    return {};
  });
}

sluice_status sluice_op_wait(sluice_op* op, uint64_t timeout_us, sluice_resolve_counts* counts,
                             sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (op == nullptr) return null_argument("op");
    const ipc::Status finished = op->actor->finish(*op->impl, deadline_after(timeout_us));
    if (!finished && finished.error().code == Errc::timed_out) return finished;
    if (finished && counts != nullptr) *counts = op->impl->counts;
    delete op;
    return finished;
  });
}

sluice_status sluice_forecast(sluice_actor* actor, const sluice_page_list* lists, size_t list_count,
                              uint64_t deadline_us, uint32_t confidence, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (actor == nullptr) return null_argument("actor");
    auto wanted = lists_from(lists, list_count);
    if (!wanted) return std::unexpected(wanted.error());
    return actor->impl->forecast(*wanted, deadline_us, confidence);
  });
}

}  // extern "C"
