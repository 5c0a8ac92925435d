// Writes the seeds of the ipc fuzzers: make_corpus FOLDER. To be run again when the schema changes;
// what is in tests/fuzz/corpus was written by it.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "ipc/frame.h"
#include "ipc/message.h"

namespace {

namespace wire = sluice::ipc::wire;
using flatbuffers::FlatBufferBuilder;
using Bytes = std::vector<std::byte>;

bool complete = true;

void save(const std::filesystem::path& folder, const std::string& name, const Bytes& bytes) {
  std::filesystem::create_directories(folder);
  std::ofstream file(folder / name, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
  complete = complete && file.good();
}

std::vector<std::pair<std::string, Bytes>> messages() {
  using sluice::ipc::make_message;
  std::vector<std::pair<std::string, Bytes>> made;
  const auto add = [&](const char* name, auto make) {
    made.emplace_back(name, make_message(made.size() + 1, make));
  };
  add("hello", [](FlatBufferBuilder& b) {
    const auto name = b.CreateString("engine");
    const auto token = b.CreateVector(std::vector<std::uint8_t>(16, 7));
    return wire::CreateHello(b, 1, 0, 3, name, token, false);
  });
  add("welcome", [](FlatBufferBuilder& b) {
    const auto tenant = b.CreateString("prod");
    const auto version = b.CreateString("0.1.0");
    return wire::CreateWelcome(b, 0, 0, 1, tenant, 256, 1 << 20, 1 << 21, version, 3);
  });
  add("open_cache", [](FlatBufferBuilder& b) {
    const auto model = b.CreateString("llama");
    const auto salt = b.CreateString("salt");
    const auto layout = wire::CreateLayoutSpec(b, 32, 8, 128, 16, 2, 2, 1);
    return wire::CreateOpenCache(b, model, salt, 0, 1, wire::CacheKind::latent, layout,
                                 wire::Executor::direct, 1 << 30);
  });
  add("cache_opened", [](FlatBufferBuilder& b) {
    return wire::CreateCacheOpened(b, 1, true, 1000, 1 << 26, 2, 4096, 1 << 26, 32, 8, 1, 4096);
  });
  add("close_cache", [](FlatBufferBuilder& b) { return wire::CreateCloseCache(b, 1); });
  add("fetch_extents", [](FlatBufferBuilder& b) { return wire::CreateFetchExtents(b, 1, 1, 4); });
  add("extent_fds", [](FlatBufferBuilder& b) { return wire::CreateExtentFds(b, 1, 4, 2, 6); });
  add("open_actor", [](FlatBufferBuilder& b) { return wire::CreateOpenActor(b, 1); });
  add("actor_opened", [](FlatBufferBuilder& b) { return wire::CreateActorOpened(b, 5); });
  add("close_actor", [](FlatBufferBuilder& b) { return wire::CreateCloseActor(b, 1, 5); });
  add("admin_request", [](FlatBufferBuilder& b) {
    const auto verb = b.CreateString("status");
    const auto arguments = b.CreateString("{}");
    return wire::CreateAdminRequest(b, verb, arguments);
  });
  add("admin_reply", [](FlatBufferBuilder& b) {
    return wire::CreateAdminReply(b, b.CreateString("{\"schema\":\"status\"}"));
  });
  add("failed",
      [](FlatBufferBuilder& b) { return wire::CreateFailed(b, 5, b.CreateString("quota")); });
  add("bye", [](FlatBufferBuilder& b) { return wire::CreateBye(b); });
  add("closing",
      [](FlatBufferBuilder& b) { return wire::CreateClosing(b, 19, b.CreateString("cursor")); });
  add("done", [](FlatBufferBuilder& b) { return wire::CreateDone(b); });
  return made;
}

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

// See fuzz_frame_reader.cpp: policy, then {what, [descriptors], bytes}.
void frame_seeds(const std::filesystem::path& folder) {
  save(folder, "two_frames", bytes_of({0, 0x4B, 3, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 9, 9, 9, 9}));
  save(folder, "cut_header", bytes_of({0, 0x41, 2, 0, 0x43, 0, 0, 7, 8}));
  save(folder, "with_descriptors", bytes_of({1, 0xC5, 1, 2, 0, 0, 0, 5, 6}));
  save(folder, "refused_descriptors", bytes_of({0, 0xC5, 1, 2, 0, 0, 0, 5, 6}));
  save(folder, "too_many_descriptors", bytes_of({1, 0xC5, 79, 2, 0, 0, 0, 5, 6}));
  save(folder, "too_long", bytes_of({0, 0x43, 1, 0, 0x10, 0}));
  save(folder, "empty_frame", bytes_of({0, 0x43, 0, 0, 0, 0}));
}

// See fuzz_ring.cpp: who is honest, then steps.
void ring_seeds(const std::filesystem::path& folder) {
  Bytes request = bytes_of({0, 0, 5, 0});  // the first slot of the submission ring
  wire::Submission submission(1, 2, 3, 7, 0, 0, 1, 0, 24, 64, 32, 0);
  const auto* words = reinterpret_cast<const std::byte*>(&submission);
  request.insert(request.end(), words, words + sizeof(submission));
  request.resize(request.size() + 8);  // a slot has 64 bytes
  for (const int step : {0, 3, 0, 7}) request.push_back(static_cast<std::byte>(step));
  save(folder, "one_request", request);
  save(folder, "daemon_sees_impossible_tail", bytes_of({0, 0, 0, 9, 0, 0, 0, 7, 7}));
  save(folder, "daemon_sees_impossible_head", bytes_of({0, 0, 3, 0, 1, 1, 9, 0, 0, 0, 7, 7}));
  save(folder, "client_pushes_and_takes", bytes_of({1, 11, 11, 0, 4, 0, 1, 3, 0, 3, 7, 3}));
  save(folder, "client_sees_impossible_head", bytes_of({1, 11, 0, 1, 255, 0, 0, 0, 11}));
  save(folder, "client_sees_impossible_tail", bytes_of({1, 1, 0, 255, 255, 0, 0, 3, 3}));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: make_corpus FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  for (const auto& [name, bytes] : messages()) save(folder / "fuzz_message", name, bytes);
  frame_seeds(folder / "fuzz_frame_reader");
  ring_seeds(folder / "fuzz_ring");
  return complete ? 0 : 1;
}
