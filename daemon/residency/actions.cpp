#include "daemon/residency/actions.h"

#include <string_view>

namespace sluice::residency {
namespace {

std::string field(std::string_view name, std::uint64_t value) {
  return " " + std::string(name) + "=" + std::to_string(value);
}

std::string ids_of(const std::vector<ipc::BlockId>& ids) {
  std::string text = " ids=";
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if (i > 0) text += ',';
    text += std::to_string(ids[i].value);
  }
  return text;
}

struct Writer {
  std::string operator()(const CreateArena& a) const {
    return "create_arena" + field("cache", a.cache.value) + field("device", a.device.value) +
           field("hbm_extents", a.hbm_extents) + field("hbm_extent_bytes", a.hbm_extent_bytes);
  }
  std::string operator()(const GrantDram& a) const {
    return "grant_dram" + field("cache", a.cache.value) + field("extent", a.extent) +
           field("bytes", a.bytes) + field("device", a.device.value);
  }
  std::string operator()(const ReleaseExtent& a) const {
    return "release_extent" + field("cache", a.cache.value) + field("extent", a.extent);
  }
  std::string operator()(const SetFrame& a) const {
    return "set_frame" + field("cache", a.cache.value) + field("id", a.id.value) +
           field("frame", a.frame.value);
  }
  std::string operator()(const Retire& a) const {
    return "retire" + field("cache", a.cache.value) + field("batch", a.batch) + ids_of(a.ids);
  }
  std::string operator()(const Withdraw& a) const {
    return "withdraw" + field("cache", a.cache.value) + field("batch", a.batch) + ids_of(a.ids);
  }
  std::string operator()(const WriteBlock& a) const {
    return "write_block" + field("cache", a.cache.value) + field("id", a.id.value) +
           field("frame", a.frame.value) + field("valid_bytes", a.valid_bytes) +
           field("likely", a.reuse == Reuse::likely ? 1 : 0) + field("hold", a.hold ? 1 : 0);
  }
  std::string operator()(const ReadBlock& a) const {
    return "read_block" + field("cache", a.cache.value) + field("id", a.id.value) +
           field("frame", a.frame.value) + field("valid_bytes", a.valid_bytes) +
           field("urgent", a.urgency == Urgency::now ? 1 : 0);
  }
  std::string operator()(const HurryRead& a) const {
    return "hurry_read" + field("cache", a.cache.value) + field("id", a.id.value);
  }
  std::string operator()(const HoldStored& a) const {
    return "hold_stored" + field("cache", a.cache.value) + field("id", a.id.value) +
           field("hold", a.hold ? 1 : 0);
  }
  std::string operator()(const DropPins& a) const {
    return "drop_pins" + field("cache", a.cache.value) + field("sealed", a.sealed ? 1 : 0) +
           ids_of(a.ids);
  }
  std::string operator()(const ActorsIdle& a) const {
    return "actors_idle" + field("session", a.session.value);
  }
  std::string operator()(const DestroyArena& a) const {
    return "destroy_arena" + field("cache", a.cache.value) + field("device", a.device.value);
  }
  std::string operator()(const DestroyCache& a) const {
    return "destroy_cache" + field("cache", a.cache.value);
  }
};

}  // namespace

std::string to_string(const Action& action) { return std::visit(Writer{}, action); }

}  // namespace sluice::residency
