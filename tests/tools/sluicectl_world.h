// A daemon made of recorded documents, and a world around sluicectl whose clock moves only when it
// sleeps.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tools/sluicectl/commands.h"
#include "tools/sluicectl/exit_codes.h"
#include "tools/sluicectl/options.h"

namespace sluice::tools {

inline constexpr const char* kSampleStatus = R"({
  "schema": "sluice.status", "version": 1,
  "daemon": {"version": "0.1.0", "pid": 77, "uptime_seconds": 100.0, "draining": false, "backend": "host"},
  "tiers": [
    {"tier": "hbm", "capacity_bytes": 1073741824, "used_bytes": 268435456, "free_bytes": 805306368,
     "guaranteed_bytes": 0, "lent_bytes": 268435456},
    {"tier": "dram", "capacity_bytes": 4294967296, "used_bytes": 2147483648, "free_bytes": 2147483648,
     "guaranteed_bytes": 1073741824, "lent_bytes": 1073741824}],
  "tenants": [
    {"tenant": "prod", "sessions": 2, "caches": 1, "sequences": 3,
     "hbm": {"used_bytes": 268435456, "guaranteed_bytes": 0, "limit_bytes": 1073741824, "weight": 1.0,
             "over_limit_bytes": 0, "wanting": false},
     "dram": {"used_bytes": 2147483648, "guaranteed_bytes": 1073741824, "limit_bytes": 4294967296,
              "weight": 1.0, "over_limit_bytes": 0, "wanting": false},
     "blocks": {"private": 8, "sealed": 1200, "shared": 96, "unreferenced": 40, "retiring": 0},
     "sharing": {"saved_bytes": 201326592, "matched_blocks": 10, "matched_bytes": 20971520,
                 "deduplicated_blocks": 1, "deduplicated_bytes": 2097152},
     "forecasts": {"issued_pages": 0, "used_pages": 0, "late_pages": 0, "wasted_pages": 0,
                   "dropped_pages": 0, "wasted_bytes": 0},
     "resolve": {"hits": 9000, "misses": 1000, "no_slot": 2, "absent": 1, "bytes_filled": 65536000,
                 "hit_ratio": 0.9},
     "evicted_bytes": 0, "session_deaths": 1, "violations": 0, "last_reclaim_seconds": 0.04}],
  "resolve": {"hits": 9000, "misses": 1000, "no_slot": 2, "absent": 1, "bytes_filled": 65536000,
              "hit_ratio": 0.9},
  "health": [], "sessions": 2, "caches": 1, "sequences": 3,
  "blocks": {"private": 8, "sealed": 1200, "shared": 96, "unreferenced": 40, "retiring": 0},
  "sharing": {"saved_bytes": 201326592},
  "pending_work": false})";

inline constexpr const char* kSampleSessions = R"({
  "schema": "sluice.sessions", "version": 1,
  "sessions": [
    {"session": 3, "tenant": "prod", "client": "engine-a", "pid": 4411, "state": "open", "reason": "",
     "requests": 12345, "failures": 0, "caches": 1, "sequences": 2, "blocks": 640},
    {"session": 4, "tenant": "prod", "client": "engine-b", "pid": 4412, "state": "quarantined",
     "reason": "an impossible cursor", "requests": 7, "failures": 1, "caches": 1}]})";

inline constexpr const char* kSampleCaches = R"({
  "schema": "sluice.caches", "version": 1,
  "caches": [
    {"cache": 0, "tenant": "prod", "model": "llama8b", "salt": "", "shard_index": 0, "shard_count": 2,
     "arenas": [{"device": 0}, {"device": 2}], "state": "open", "page_bytes": 65536, "pages_per_block": 32, "block_bytes": 2097152,
     "frame_stride_bytes": 2097152, "slots": 4096, "max_blocks": 2048, "sessions": 2, "sequences": 3,
     "hbm_bytes": 268435456, "dram_bytes": 2147483648, "free_frames": 16,
     "blocks": {"private": 8, "sealed": 1000, "shared": 96, "unreferenced": 40, "retiring": 0},
     "sharing": {"saved_bytes": 201326592}, "forecasts": {}, "evicted_bytes": 4194304,
     "resolve": {"hits": 9000, "misses": 1000, "no_slot": 2, "absent": 1, "bytes_filled": 65536000},
     "hbm_pages": {"cached": 2048, "pinned": 256, "free": 1792}, "hbm_used_bytes": 150994944}]})";

inline constexpr const char* kSamplePlan = R"({
  "schema": "sluice.evict_plan", "version": 1,
  "evictable_blocks": 40, "evictable_bytes": 83886080, "wanted_bytes": null,
  "blocks": 40, "bytes": 83886080, "caches_dropped": 0, "exact": true,
  "caches": [
    {"cache": 0, "tenant": "prod", "evictable_blocks": 40, "evictable_bytes": 83886080,
     "retiring_blocks": 0, "blocks": 40, "bytes": 83886080, "would_be_dropped": false}]})";

inline constexpr const char* kSampleResidency = R"({
  "schema": "sluice.residency", "version": 1, "shared_blocks": 96, "saved_bytes": 201326592,
  "tenants": [
    {"tenant": "prod", "caches": 1, "blocks": {"private": 8, "sealed": 1000, "shared": 96},
     "sharing": {"saved_bytes": 201326592}}],
  "caches": [
    {"cache": 0, "tenant": "prod", "model": "llama8b", "shard_index": 0, "shard_count": 2,
     "page_bytes": 65536, "pages_per_block": 32, "block_bytes": 2097152, "frame_stride_bytes": 2097152,
     "hbm_bytes": 268435456, "dram_bytes": 2147483648,
     "blocks": {"private": 8, "sealed": 1000, "shared": 96, "unreferenced": 40, "retiring": 0},
     "sharing": {"saved_bytes": 201326592},
     "hbm_pages": {"cached": 2048, "pinned": 256, "free": 1792}}],
  "maps": [
    {"cache": 0, "blocks_per_cell": 4,
     "cells": "bbbbddddPPww....bbbbddddPPww....bbbbddddPPww....bbbbddddPPww....bbbbdddd",
     "legend": {".": "free", "d": "DRAM only", "b": "HBM and DRAM", "w": "private, in DRAM",
                "P": "pinned in HBM"}}]})";

class World {
 public:
  struct Asked {
    std::string verb;
    Json arguments;
    Timeout timeout;
  };
  using Answer = ipc::Result<std::string>;

  World() {
    around.ask = [this](const std::string& verb, const Json& arguments, Timeout timeout) -> Answer {
      asked.push_back({verb, arguments, timeout});
      auto& answers = answers_[verb];
      if (answers.empty()) return ipc::fail(ipc::Errc::daemon_away, "nobody answers " + verb);
      Answer answer = answers.front();
      if (answers.size() > 1) answers.erase(answers.begin());  // the last one stays
      return answer;
    };
    around.check_config = [this](const std::string& file) {
      checked_file = file;
      return check_result;
    };
    around.out = [this](std::string_view text) {
      if (reader_is_gone) return false;
      out += text;
      return true;
    };
    around.err = [this](std::string_view text) { err += text; };
    around.read_line = [this] { return typed; };
    around.now = [this] { return clock; };
    around.sleep_for = [this](std::chrono::milliseconds time) { clock += time; };
    around.wall_clock = [] { return std::string("14:03:07"); };
    around.socket = "/run/sluice/sluice.sock";
    around.client_version = "0.1.0";
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  // Answers to a verb, in order; the last one is given again and again.
  void answer(const std::string& verb, const std::string& document) {
    answers_[verb].emplace_back(document);
  }
  void refuse(const std::string& verb, ipc::Errc code) { refuse_with(verb, {code, "because"}); }
  void refuse_with(const std::string& verb, const ipc::Error& error) {
    answers_[verb].emplace_back(std::unexpected(error));
  }

  // The whole program but main.
  int sluicectl(std::vector<std::string> arguments) {
    out.clear();
    err.clear();
    asked.clear();
    const Parsed parsed = parse_options(std::move(arguments), "0.1.0");
    if (parsed.options) return run(*parsed.options, around);
    out = parsed.out;
    err = parsed.err;
    return parsed.exit_code;
  }
  Json document() const { return Json::parse(out, nullptr, false); }

  Surroundings around;
  ipc::Result<ProgramResult> check_result{ProgramResult{}};
  std::string checked_file;
  std::string typed;
  bool reader_is_gone = false;
  std::string out;
  std::string err;
  std::vector<Asked> asked;
  TimePoint clock;

 private:
  std::map<std::string, std::vector<Answer>> answers_;
};

}  // namespace sluice::tools
