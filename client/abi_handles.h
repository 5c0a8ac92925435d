// What is behind the handles of the C ABI.
#pragma once

#include <memory>

#include "client/actor.h"
#include "client/cache.h"
#include "client/client.h"
#include "client/plan.h"
#include "client/sequence.h"
#include "client/sluice.h"

struct sluice_client {
  std::unique_ptr<sluice::client::internal::Client> impl;
};
struct sluice_cache {
  sluice_client* client;
  std::unique_ptr<sluice::client::internal::Cache> impl;
};
struct sluice_sequence {
  std::unique_ptr<sluice::client::internal::Sequence> impl;
};
struct sluice_actor {
  std::unique_ptr<sluice::client::internal::Actor> impl;
};
struct sluice_plan {
  std::unique_ptr<sluice::client::internal::Plan> impl;
};
struct sluice_op {
  sluice::client::internal::Actor* actor;
  std::unique_ptr<sluice::client::internal::Operation> impl;
};
