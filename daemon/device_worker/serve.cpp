#include "daemon/device_worker/serve.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <string_view>
#include <vector>

#include "ipc/deadline.h"
#include "ipc/frame.h"
#include "ipc/memfd.h"

namespace sluice::device_worker {

using ipc::Errc;
using ipc::fail;

namespace {

// A daemon that does not take an answer for so long has stopped.
constexpr std::chrono::seconds kSendPatience{60};

struct Answer {
  std::vector<std::byte> bytes;
  ipc::Fd fd;
};

std::vector<std::byte> failed(std::uint64_t request, const ipc::Error& error, bool leaving) {
  return make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
    return wire::CreateFailedDirect(builder, static_cast<std::uint16_t>(error.code),
                                    error.text.c_str(), leaving);
  });
}

std::vector<std::byte> done(std::uint64_t request) {
  return make_message(
      request, [](flatbuffers::FlatBufferBuilder& builder) { return wire::CreateDone(builder); });
}

// The numbers of a list, each below `end`.
ipc::Result<std::vector<std::uint32_t>> numbers_below(
    const flatbuffers::Vector<std::uint32_t>* list, std::uint32_t end, const char* what) {
  if (list == nullptr) return std::vector<std::uint32_t>();
  if (list->size() > kMaxWorkItems) {
    return fail(Errc::peer_violation, std::string(what) + ": " + std::to_string(list->size()) +
                                          " numbers in one request");
  }
  std::vector<std::uint32_t> numbers(list->begin(), list->end());
  if (std::ranges::any_of(numbers, [&](std::uint32_t number) { return number >= end; })) {
    return fail(Errc::peer_violation,
                std::string(what) + ": a number that is not below " + std::to_string(end));
  }
  return numbers;
}

ipc::Result<TableWork> work_from(const wire::Work& body, const kernels::TableSizes& sizes) {
  TableWork work;
  const struct {
    const flatbuffers::Vector<std::uint32_t>* from;
    std::uint32_t end;
    const char* what;
    std::vector<std::uint32_t>& to;
  } lists[] = {{body.idle_actors(), sizes.actors, "idle_actors", work.idle_actors},
               {body.seal_pins(), sizes.blocks, "seal_pins", work.seal_pins},
               {body.drop_pins(), sizes.blocks, "drop_pins", work.drop_pins},
               {body.drop_pages(), sizes.blocks, "drop_pages", work.drop_pages}};
  for (const auto& list : lists) {
    auto numbers = numbers_below(list.from, list.end, list.what);
    if (!numbers) return std::unexpected(std::move(numbers.error()));
    list.to = std::move(*numbers);
  }
  return work;
}

class Server {
 public:
  explicit Server(Backend& backend) : backend_(backend) {}

  ipc::Result<Answer> answer(const wire::Message& message, const std::vector<ipc::Fd>& fds) {
    const std::uint64_t request = message.request();
    if (auto ok = check_fds(message.body_type(), fds.size()); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    switch (message.body_type()) {
      case wire::Body::Describe:
        return describe(request);
      case wire::Body::Allocate:
        return memory(request, backend_.allocate(message.body_as_Allocate()->bytes()));
      case wire::Body::Scrub:
        return plain(request, backend_.scrub(fds[0], message.body_as_Scrub()->bytes()));
      case wire::Body::MakeTable: {
        auto sizes = sizes_from(message.body_as_MakeTable()->sizes());
        if (auto ok = check_node_part(sizes, fds[0]); !ok) return std::unexpected(ok.error());
        return memory(request, backend_.make_table(*sizes, fds[0]));
      }
      case wire::Body::OpenTable: {
        const auto* body = message.body_as_OpenTable();
        auto sizes = sizes_from(body->sizes());
        if (auto ok = check_node_part(sizes, fds[1]); !ok) return std::unexpected(ok.error());
        return plain(request, backend_.open_table(body->table(), *sizes, fds[0], fds[1]));
      }
      case wire::Body::Work:
        return work(request, *message.body_as_Work());
      case wire::Body::ReadWords:
        return read_words(request, *message.body_as_ReadWords(), fds[0]);
      case wire::Body::ForgetTable:
        backend_.forget_table(message.body_as_ForgetTable()->table());
        return Answer{done(request), {}};
      case wire::Body::OpenArena:
        return open_arena(request, *message.body_as_OpenArena(), fds[0]);
      case wire::Body::MapExtents:
        return map_extents(request, *message.body_as_MapExtents(), fds);
      case wire::Body::EnterStep:
        return on_actor(request, *message.body_as_EnterStep(), [](Arena& arena, const auto& body) {
          return arena.enter_step(body.actor());
        });
      case wire::Body::LeaveStep:
        return on_actor(request, *message.body_as_LeaveStep(), [](Arena& arena, const auto& body) {
          return arena.leave_step(body.actor());
        });
      case wire::Body::Resolve:
        return on_items(request, *message.body_as_Resolve(), [](Arena& arena, const auto& body) {
          return arena.resolve(body.actor(), body.items());
        });
      case wire::Body::Forecast:
        return on_items(request, *message.body_as_Forecast(), [](Arena& arena, const auto& body) {
          return arena.forecast(body.actor(), body.items(), body.min_age(), body.budget_bytes());
        });
      case wire::Body::ClaimPins:
        return on_block(request, *message.body_as_ClaimPins(), [](Arena& arena, const auto& body) {
          return arena.claim_pins(body.actor(), body.block());
        });
      case wire::Body::FindPins:
        return find_pins(request, *message.body_as_FindPins());
      case wire::Body::SealPins:
        return on_block(request, *message.body_as_SealPins(), [](Arena& arena, const auto& body) {
          return arena.seal_pins(body.actor(), body.block());
        });
      case wire::Body::CopyBlock:
        return copy_block(request, *message.body_as_CopyBlock());
      default:
        return fail(Errc::peer_violation, std::string("a device worker does not serve ") +
                                              wire::EnumNameBody(message.body_type()));
    }
  }

 private:
  static ipc::Status check_fds(wire::Body type, std::size_t has) {
    if (type == wire::Body::MapExtents) {
      if (has > 0) return {};
      return fail(Errc::peer_violation, "MapExtents without descriptors");
    }
    const std::size_t needs = type == wire::Body::OpenTable ? 2
                              : type == wire::Body::Scrub || type == wire::Body::MakeTable ||
                                      type == wire::Body::ReadWords || type == wire::Body::OpenArena
                                  ? 1
                                  : 0;
    if (has == needs) return {};
    return fail(Errc::peer_violation, std::string(wire::EnumNameBody(type)) + " with " +
                                          std::to_string(has) + " descriptors; expected " +
                                          std::to_string(needs));
  }

  static ipc::Status check_node_part(const ipc::Result<kernels::TableSizes>& sizes,
                                     const ipc::Fd& node) {
    if (!sizes) return std::unexpected(sizes.error());
    return ipc::check_memfd(node.get(), kernels::split_offsets_of(*sizes).host_end,
                            "the node's part of a table");
  }

  static ipc::Result<Answer> plain(std::uint64_t request, ipc::Status status) {
    if (!status) return std::unexpected(std::move(status.error()));
    return Answer{done(request), {}};
  }

  static ipc::Result<Answer> memory(std::uint64_t request, ipc::Result<ipc::Fd> made) {
    if (!made) return std::unexpected(std::move(made.error()));
    auto bytes = make_message(request, [](flatbuffers::FlatBufferBuilder& builder) {
      return wire::CreateMemory(builder);
    });
    return Answer{std::move(bytes), std::move(*made)};
  }

  ipc::Result<Answer> describe(std::uint64_t request) {
    auto facts = backend_.describe();
    if (!facts) return std::unexpected(std::move(facts.error()));
    auto bytes = make_message(request, [&](flatbuffers::FlatBufferBuilder& builder) {
      const auto uuid = builder.CreateVector(facts->uuid.data(), facts->uuid.size());
      const auto name = builder.CreateString(facts->name);
      const auto pci = builder.CreateString(facts->pci_bus_id);
      return wire::CreateDevice(builder, uuid, name, facts->hbm_total_bytes, facts->hbm_free_bytes,
                                facts->granularity_bytes, facts->gpus, pci);
    });
    return Answer{std::move(bytes), {}};
  }

  ipc::Result<Answer> work(std::uint64_t request, const wire::Work& body) {
    auto sizes = backend_.sizes_of(body.table());
    if (!sizes) return std::unexpected(std::move(sizes.error()));
    auto work = work_from(body, *sizes);
    if (!work) return std::unexpected(std::move(work.error()));
    return plain(request, backend_.work(body.table(), *work));
  }

  ipc::Result<Answer> read_words(std::uint64_t request, const wire::ReadWords& body,
                                 const ipc::Fd& into) {
    auto sizes = backend_.sizes_of(body.table());
    if (!sizes) return std::unexpected(std::move(sizes.error()));
    if (body.count() == 0 || body.count() > kMaxWordsPerRead || body.first() >= sizes->slots ||
        body.count() > sizes->slots - body.first()) {
      return fail(Errc::peer_violation, "words " + std::to_string(body.first()) + " and " +
                                            std::to_string(body.count()) + " more of a table of " +
                                            std::to_string(sizes->slots));
    }
    return plain(request, backend_.read_words(body.table(), body.first(), body.count(), into));
  }

  // ---- executor daemon

  ipc::Result<Answer> open_arena(std::uint64_t request, const wire::OpenArena& body,
                                 const ipc::Fd& lists) {
    auto sizes = backend_.sizes_of(body.table());
    if (!sizes) return std::unexpected(std::move(sizes.error()));
    const ArenaShape shape{body.page_bytes(),   body.frame_stride(),       body.slot_extent_bytes(),
                           body.slot_extents(), body.frame_extent_bytes(), body.frames_per_extent(),
                           body.frame_extents()};
    if (auto ok = check_shape(shape, *sizes); !ok) return std::unexpected(std::move(ok.error()));
    if (auto ok = ipc::check_memfd(lists.get(), ListMemory::kBytes, "memory for lists"); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return plain(request, backend_.open_arena(body.table(), shape, lists));
  }

  ipc::Result<Arena*> arena(std::uint64_t table) {
    if (Arena* const found = backend_.arena(table); found != nullptr) return found;
    return fail(Errc::not_found, "no arena of table " + std::to_string(table) + " was opened here");
  }

  ipc::Result<Answer> map_extents(std::uint64_t request, const wire::MapExtents& body,
                                  const std::vector<ipc::Fd>& fds) {
    auto found = arena(body.table());
    if (!found) return std::unexpected(std::move(found.error()));
    const auto tier = static_cast<ipc::Tier>(body.tier());
    if (tier != ipc::Tier::hbm && tier != ipc::Tier::dram) {
      return fail(Errc::peer_violation, "extents of tier " + std::to_string(body.tier()));
    }
    const ArenaShape& shape = (*found)->shape();
    const std::uint32_t most = tier == ipc::Tier::hbm ? shape.slot_extents : shape.frame_extents;
    if (fds.size() > most - (*found)->mapped(tier)) {
      return fail(Errc::peer_violation, std::to_string(fds.size()) + " more extents than " +
                                            std::to_string((*found)->mapped(tier)) + " of " +
                                            std::to_string(most));
    }
    for (const ipc::Fd& extent : fds) {
      if (auto ok = (*found)->map(tier, extent); !ok) return std::unexpected(std::move(ok.error()));
    }
    return Answer{done(request), {}};
  }

  // The arena that a request is about, whose actor is one of its table.
  template <class Body>
  ipc::Result<Arena*> arena_with_actor(const Body& body) {
    auto found = arena(body.table());
    if (!found) return found;
    const auto sizes = backend_.sizes_of(body.table());
    if (!sizes) return std::unexpected(sizes.error());
    if (body.actor() < sizes->actors) return found;
    return fail(Errc::peer_violation, "actor " + std::to_string(body.actor()) + " of a table for " +
                                          std::to_string(sizes->actors));
  }

  template <class Body, class Do>
  ipc::Result<Answer> on_actor(std::uint64_t request, const Body& body, Do&& act) {
    auto found = arena_with_actor(body);
    if (!found) return std::unexpected(std::move(found.error()));
    return plain(request, std::forward<Do>(act)(**found, body));
  }

  template <class Body, class Do>
  ipc::Result<Answer> on_items(std::uint64_t request, const Body& body, Do&& act) {
    if (body.items() == 0 || body.items() > kMaxListItems) {
      return fail(Errc::peer_violation, "a list of " + std::to_string(body.items()) + " items");
    }
    return on_actor(request, body, std::forward<Do>(act));
  }

  ipc::Status check_block(std::uint64_t table, std::uint32_t block) {
    const auto sizes = backend_.sizes_of(table);
    if (!sizes) return std::unexpected(sizes.error());
    if (block < sizes->blocks) return {};
    return fail(Errc::peer_violation, "block " + std::to_string(block) + " of a table for " +
                                          std::to_string(sizes->blocks));
  }

  template <class Body, class Do>
  ipc::Result<Answer> on_block(std::uint64_t request, const Body& body, Do&& act) {
    if (auto ok = check_block(body.table(), body.block()); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return on_actor(request, body, std::forward<Do>(act));
  }

  ipc::Result<Answer> find_pins(std::uint64_t request, const wire::FindPins& body) {
    auto found = arena(body.table());
    if (!found) return std::unexpected(std::move(found.error()));
    if (auto ok = check_block(body.table(), body.block()); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
    return plain(request, (*found)->find_pins(body.block()));
  }

  ipc::Result<Answer> copy_block(std::uint64_t request, const wire::CopyBlock& body) {
    auto found = arena(body.table());
    if (!found) return std::unexpected(std::move(found.error()));
    const std::uint64_t mapped =
        std::uint64_t{(*found)->mapped(ipc::Tier::dram)} * (*found)->shape().frames_per_extent;
    if (body.frame() >= mapped) {
      return fail(Errc::peer_violation, "frame " + std::to_string(body.frame()) + " of " +
                                            std::to_string(mapped) + " that are mapped here");
    }
    return plain(request, (*found)->copy_block(body.frame(), body.to_frame()));
  }

  Backend& backend_;
};

std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

ipc::Result<Arguments> take_arguments(int argc, const char* const* argv) {
  std::map<std::string_view, std::string_view> given;
  for (int i = 1; i + 1 < argc; i += 2) given[argv[i]] = argv[i + 1];
  const auto socket = number(given["--socket"]);
  const auto parent = number(given["--parent"]);
  if (argc != 7 || !socket || !parent || given["--device"].empty()) {
    return fail(Errc::invalid_argument,
                "usage: --socket FD --parent PID --device DEVICE; sluiced starts this program when "
                "its backend is cuda");
  }
  // A hang-up ends it too, but only between two requests.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return ipc::fail_errno("PR_SET_PDEATHSIG");
  if (getppid() != *parent) return fail(Errc::daemon_away, "the daemon is gone");
  return Arguments{ipc::Fd(*socket), std::string(given["--device"])};
}

ipc::Status serve(const ipc::Fd& socket, Backend& backend, const ServeHooks& hooks) {
  ipc::FrameReader reader(ipc::FdPolicy::accept);
  Server server(backend);
  while (true) {
    auto frame = ipc::receive_frame(reader, socket.get(), ipc::kNoDeadline);
    if (!frame) {
      if (frame.error().code == Errc::daemon_away) return {};
      return std::unexpected(std::move(frame.error()));
    }
    const auto message = verify_message(frame->bytes);
    if (!message) return std::unexpected(message.error());
    const wire::Body type = (*message)->body_type();
    if (hooks.before) hooks.before(type);
    auto answer = server.answer(**message, frame->fds);
    if (hooks.after) hooks.after(type);
    const bool leaving = !answer && !backend.usable();
    const auto bytes =
        answer ? std::move(answer->bytes) : failed((*message)->request(), answer.error(), leaving);
    std::vector<int> fds;
    if (answer && answer->fd) fds.push_back(answer->fd.get());
    const auto sent = ipc::send_frame(socket.get(), bytes, fds, ipc::deadline_in(kSendPatience));
    if (leaving) return std::unexpected(std::move(answer.error()));
    if (!sent) return sent;
  }
}

}  // namespace sluice::device_worker
