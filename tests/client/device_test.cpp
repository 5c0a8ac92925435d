// The calls for GPUs where there is none: on a cache of the host backend, and on a machine without
// a device. What they do on a GPU is tested there; see tests/gpu.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <functional>

#include "client/sluice.hpp"
#include "tests/client/fake_daemon.h"
#include "tests/status_of.h"

namespace sluice::client {
namespace {

using internal::FakeDaemon;
using test::status_of;

// A GPU could be opened here.
bool has_device() { return access("/dev/nvidiactl", F_OK) == 0; }

// A plan that a cache on a GPU could have.
sluice_plan_desc plan_desc() {
  static std::uint32_t memory[4];
  sluice_plan_desc desc = SLUICE_PLAN_DESC_INIT;
  desc.max_lists = 4;
  desc.list_capacity = 16;
  desc.lists_per_sequence = 2;
  desc.items = reinterpret_cast<std::int32_t*>(memory);
  desc.sequences = memory;
  desc.slots = reinterpret_cast<std::int32_t*>(memory);
  return desc;
}

class HostCacheTest : public testing::Test {
 protected:
  static Client connect(const FakeDaemon& daemon) {
    sluice_connect_desc desc = SLUICE_CONNECT_DESC_INIT;
    desc.socket_path = daemon.socket().c_str();
    return Client::connect(desc).value();
  }

  sluice_status refused(const std::function<void(sluice_plan_desc&)>& change) {
    sluice_plan_desc desc = plan_desc();
    change(desc);
    return status_of(Plan::create(actor, desc));
  }

  FakeDaemon daemon;
  Client client = connect(daemon);
  Cache cache = client.open_cache(FakeDaemon::cache_desc(SLUICE_EXECUTOR_DAEMON)).value();
  Sequence sequence = cache.open_sequence({}).value().sequence;
  Actor actor = cache.open_actor().value();
};

TEST_F(HostCacheTest, HasNoRowsStreamsOrPlans) {
  EXPECT_EQ(status_of(sequence.row()), SLUICE_NOT_SUPPORTED);
  EXPECT_EQ(status_of(actor.set_stream(nullptr)), SLUICE_NOT_SUPPORTED);
  const auto plan = Plan::create(actor, plan_desc());
  ASSERT_FALSE(plan.has_value());
  EXPECT_EQ(plan.error().code, SLUICE_NOT_SUPPORTED);
  EXPECT_NE(plan.error().text.find("device_type 2"), std::string::npos) << plan.error().text;
}

TEST_F(HostCacheTest, IsAlwaysPinnedAndCostsNoDevice) {
  EXPECT_EQ(status_of(cache.wait_pinned(0)), SLUICE_OK);
  const auto info = cache.info().value();
  EXPECT_EQ(info.pinned_frame_extents, 0u);
  EXPECT_EQ(info.pin_status, static_cast<std::uint32_t>(SLUICE_OK));
  EXPECT_EQ(info.device_bytes, 0u);
  EXPECT_EQ(cache.arena().value().device_type, 1);
}

TEST_F(HostCacheTest, PlansThatCannotBeAreRefusedBeforeAnythingElse) {
  EXPECT_EQ(refused([](auto& d) { d.struct_size = 8; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.kind = 2; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.flags = 4; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.reserved[1] = 1; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.max_lists = 0; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.max_lists = 3; }), SLUICE_INVALID_ARGUMENT)
      << "half of a sequence's lists";
  EXPECT_EQ(refused([](auto& d) { d.list_capacity = 0; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.items = nullptr; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.sequences = nullptr; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.slots = nullptr; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) { d.max_lists = d.list_capacity = 1u << 16; }),
            SLUICE_LIST_TOO_LONG);
  EXPECT_EQ(refused([](auto& d) { d.flags = SLUICE_PLAN_ADVANCE; }), SLUICE_NOT_SUPPORTED)
      << "which a cache on a GPU takes";
}

TEST_F(HostCacheTest, PlansThatCannotWaitAreRefused) {
  std::uint8_t outcomes[64];
  const auto refused_waiting = [&](const std::function<void(sluice_plan_desc&)>& change) {
    return refused([&](auto& d) {
      d.wait_us = 1000;
      d.outcomes = outcomes;
      change(d);
    });
  };
  EXPECT_EQ(refused_waiting([](auto&) {}), SLUICE_NOT_SUPPORTED) << "which a cache on a GPU takes";
  EXPECT_EQ(refused_waiting([](auto& d) { d.outcomes = nullptr; }), SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused_waiting([](auto& d) { d.flags = SLUICE_PLAN_FORECAST; }),
            SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused_waiting([](auto& d) { d.wait_us = SLUICE_MAX_PLAN_WAIT_US; }),
            SLUICE_NOT_SUPPORTED);
  EXPECT_EQ(refused_waiting([](auto& d) { d.wait_us = SLUICE_MAX_PLAN_WAIT_US + 1; }),
            SLUICE_INVALID_ARGUMENT);
}

TEST_F(HostCacheTest, PlansOfForecastsThatCannotBeAreRefused) {
  EXPECT_EQ(refused([](auto& d) { d.confidence = 1; }), SLUICE_INVALID_ARGUMENT)
      << "of no forecast";
  EXPECT_EQ(refused([](auto& d) { d.budget_bytes = 1; }), SLUICE_INVALID_ARGUMENT)
      << "of no forecast";
  EXPECT_EQ(refused([](auto& d) { d.flags = SLUICE_PLAN_FORECAST | SLUICE_PLAN_ADVANCE; }),
            SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) {
              d.flags = SLUICE_PLAN_FORECAST;
              d.confidence = 101;
            }),
            SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) {
              d.flags = SLUICE_PLAN_FORECAST;
              d.items = nullptr;
            }),
            SLUICE_INVALID_ARGUMENT);
  EXPECT_EQ(refused([](auto& d) {
              d.flags = SLUICE_PLAN_FORECAST;
              d.confidence = 100;
              d.budget_bytes = 1;
              d.slots = nullptr;
            }),
            SLUICE_NOT_SUPPORTED)
      << "which a cache on a GPU takes";
}

TEST_F(HostCacheTest, AStreamOfAnUnknownKindIsRefused) {
  const sluice_stream unknown{2, 0, nullptr};
  EXPECT_EQ(status_of(actor.set_stream(&unknown)), SLUICE_INVALID_ARGUMENT);
  const sluice_stream reserved{SLUICE_STREAM_CUDA, 1, nullptr};
  EXPECT_EQ(status_of(actor.set_stream(&reserved)), SLUICE_INVALID_ARGUMENT);
}

TEST_F(HostCacheTest, DevicesThatCannotBeAreRefused) {
  sluice_cache_desc desc = FakeDaemon::cache_desc(SLUICE_EXECUTOR_DAEMON);
  desc.device_type = 1;
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_NOT_SUPPORTED);
  desc.device_type = 0;
  desc.device_id = 1;
  EXPECT_EQ(status_of(client.open_cache(desc)), SLUICE_INVALID_ARGUMENT);
}

TEST_F(HostCacheTest, WithoutADeviceACacheOnOneIsNotSupportedAndSaysWhatToDo) {
  if (has_device()) GTEST_SKIP() << "this machine has a GPU";
  sluice_cache_desc desc = FakeDaemon::cache_desc(SLUICE_EXECUTOR_DAEMON);
  desc.device_type = 2;
  desc.executor = SLUICE_EXECUTOR_DIRECT;
  const auto opened = client.open_cache(desc);
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code, SLUICE_NOT_SUPPORTED);
  EXPECT_NE(opened.error().text.find("CUDA"), std::string::npos) << opened.error().text;
  EXPECT_NE(opened.error().text.find("device_type 0"), std::string::npos) << opened.error().text;
}

}  // namespace
}  // namespace sluice::client
