// Reads every byte that the accessors of an envelope can reach, as the most curious receiver would.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ipc/message.h"

namespace sluice::ipc {

// A checksum, so that no read can be optimized away.
class EnvelopeWalk {
 public:
  std::uint64_t walk(const wire::Envelope& envelope) {
    add(envelope.request());
    add(static_cast<std::uint64_t>(envelope.body_type()));
    visit(envelope.body_as_Hello(), [&](const wire::Hello& m) {
      add_all(m.protocol_major(), m.protocol_minor(), m.features(), m.admin());
      add(text_of(m.client_name()));
      add(bytes_of(m.engine_token()));
    });
    visit(envelope.body_as_Welcome(), [&](const wire::Welcome& m) {
      add_all(m.protocol_minor(), m.features(), m.session(), m.ring_capacity(), m.request_bytes(),
              m.memory_bytes(), m.executors());
      add(text_of(m.tenant()));
      add(text_of(m.daemon_version()));
    });
    visit(envelope.body_as_OpenCache(), [&](const wire::OpenCache& m) {
      add(text_of(m.model()));
      add(text_of(m.salt()));
      add_all(m.shard_index(), m.shard_count(), m.hbm_bytes(), m.role_metadata(), m.kind(),
              m.executor(), m.device_type(), m.device_id());
      visit(m.layout(), [&](const wire::LayoutSpec& l) {
        add_all(l.layers(), l.kv_heads(), l.head_dim(), l.block_tokens(), l.dtype_bytes(),
                l.planes(), l.page_kind());
      });
    });
    visit(envelope.body_as_CacheOpened(), [&](const wire::CacheOpened& m) {
      add_all(m.cache(), m.created(), m.slots(), m.slot_extent_bytes(), m.slot_extents(),
              m.max_blocks(), m.frame_extent_bytes(), m.frames_per_extent(), m.max_frame_extents(),
              m.frame_extents(), m.table_bytes(), m.table_actors(), m.table_log_capacity(),
              m.table_hint_capacity(), m.executor());
    });
    visit(envelope.body_as_CloseCache(), [&](const wire::CloseCache& m) { add(m.cache()); });
    visit(envelope.body_as_FetchExtents(),
          [&](const wire::FetchExtents& m) { add_all(m.cache(), m.tier(), m.first()); });
    visit(envelope.body_as_ExtentFds(),
          [&](const wire::ExtentFds& m) { add_all(m.tier(), m.first(), m.count(), m.total()); });
    visit(envelope.body_as_OpenActor(), [&](const wire::OpenActor& m) { add(m.cache()); });
    visit(envelope.body_as_ActorOpened(), [&](const wire::ActorOpened& m) { add(m.actor()); });
    visit(envelope.body_as_CloseActor(),
          [&](const wire::CloseActor& m) { add_all(m.cache(), m.actor()); });
    visit(envelope.body_as_AdminRequest(), [&](const wire::AdminRequest& m) {
      add(text_of(m.verb()));
      add(text_of(m.arguments()));
    });
    visit(envelope.body_as_AdminReply(),
          [&](const wire::AdminReply& m) { add(text_of(m.json())); });
    visit(envelope.body_as_Failed(),
          [&](const wire::Failed& m) { add(error_from_wire(m.code(), text_of(m.text())).text); });
    visit(envelope.body_as_Closing(),
          [&](const wire::Closing& m) { add(error_from_wire(m.code(), text_of(m.text())).text); });
    return sum_;
  }

 private:
  template <class Table, class Visit>
  static void visit(const Table* table, Visit&& visit) {
    if (table != nullptr) visit(*table);
  }
  template <class... Numbers>
  void add_all(Numbers... numbers) {
    (add(static_cast<std::uint64_t>(numbers)), ...);
  }
  void add(std::uint64_t number) { sum_ = sum_ * 31 + number; }
  void add(std::string_view text) {
    for (const char c : text) add(static_cast<std::uint64_t>(static_cast<unsigned char>(c)));
  }
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) add(std::to_integer<std::uint64_t>(b));
  }

  std::uint64_t sum_ = 0;
};

}  // namespace sluice::ipc
