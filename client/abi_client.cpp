// The C ABI: clients, and requests of operators.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <utility>

#include "client/abi_checks.h"
#include "client/abi_handles.h"

namespace ipc = sluice::ipc;
namespace wire = sluice::ipc::wire;
using ipc::Errc;
using ipc::fail;
using namespace sluice::client::internal;  // NOLINT(google-build-using-namespace): this file is its
                                           // C face

namespace {

ipc::Result<ConnectOptions> connect_options(const sluice_connect_desc* desc) {
  ConnectOptions options;
  if (desc == nullptr) return options;
  if (auto ok = check_struct(desc, "connect_desc"); !ok) return std::unexpected(ok.error());
  if (auto ok = check_zero(desc->reserved, desc->flags, "connect_desc"); !ok) {
    return std::unexpected(ok.error());
  }
  if (desc->spin_us != 0) {
    return fail(Errc::invalid_argument, "connect_desc.spin_us is reserved and must be zero");
  }
  options.socket_path = text_or_empty(desc->socket_path);
  options.client_name = text_or_empty(desc->client_name);
  options.timeout = std::chrono::microseconds(std::min(desc->timeout_us, kMostTimeoutUs));
  return options;
}

}  // namespace

extern "C" {

sluice_status sluice_connect(const sluice_connect_desc* desc, sluice_client** out,
                             sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (out == nullptr) return null_argument("out");
    *out = nullptr;
    auto options = connect_options(desc);
    if (!options) return std::unexpected(options.error());
    auto client = Client::connect(*options);
    if (!client) return std::unexpected(client.error());
    *out = new sluice_client{std::move(*client)};
    return {};
  });
}

void sluice_disconnect(sluice_client* client) { delete client; }

sluice_status sluice_client_get_info(sluice_client* client, sluice_client_info* out,
                                     sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (client == nullptr) return null_argument("client");
    if (auto ok = check_struct(out, "client_info"); !ok) return ok;
    Client& impl = *client->impl;
    if (auto ok = impl.check(); !ok) return ok;
    const ipc::Status alive = impl.look();
    const std::shared_ptr<Link> link = impl.gate().link();
    const Errc ended = alive ? link->channel().end_code() : alive.error().code;
    out->session = impl.session();
    out->connected = ended == Errc::ok ? 1 : 0;
    out->end_reason = static_cast<uint32_t>(ended);
    out->request_bytes = link->channel().request_bytes();
    std::snprintf(out->tenant, sizeof(out->tenant), "%s", impl.tenant().c_str());
    std::snprintf(out->daemon_version, sizeof(out->daemon_version), "%s",
                  link->welcome().daemon_version.c_str());
    const Gate::State state = impl.gate().state();
    out->resumes = impl.gate().resumes();
    out->away = state == Gate::State::away || state == Gate::State::resuming ? 1 : 0;
    return {};
  });
}

sluice_status sluice_ping(sluice_client* client, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (client == nullptr) return null_argument("client");
    Client& impl = *client->impl;
    if (auto ok = impl.check(); !ok) return ok;
    return impl.ask(impl.deadline(), [&](Link& link) -> ipc::Status {
      auto answer = link.channel().call({}, ipc::RequestPiece(), impl.deadline());
      if (!answer) return std::unexpected(answer.error());
      return {};
    });
  });
}

sluice_status sluice_admin(const sluice_connect_desc* desc, const char* verb,
                           const char* arguments_json, char** reply_json, sluice_error* error) {
  return guarded(error, [&]() -> ipc::Status {
    if (verb == nullptr) return null_argument("verb");
    if (reply_json == nullptr) return null_argument("reply_json");
    *reply_json = nullptr;
    auto options = connect_options(desc);
    if (!options) return std::unexpected(options.error());
    options->admin = true;
    auto client = Client::connect(*options);
    if (!client) return std::unexpected(client.error());
    auto reply = (*client)->gate().link()->control().call(
        [&](auto& builder) {
          return wire::CreateAdminRequestDirect(builder, verb,
                                                arguments_json == nullptr ? "" : arguments_json);
        },
        (*client)->deadline());
    if (!reply) return std::unexpected(reply.error());
    auto body = reply->as<wire::AdminReply>();
    if (!body) return std::unexpected(body.error());
    const std::string json(ipc::text_of((*body)->json()));
    *reply_json = new char[json.size() + 1];
    std::memcpy(*reply_json, json.c_str(), json.size() + 1);
    return {};
  });
}

void sluice_admin_free(char* reply_json) { delete[] reply_json; }

}  // extern "C"
