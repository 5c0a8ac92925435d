#include "ipc/message.h"

#include <gtest/gtest.h>

#include <random>

#include "ipc/frame.h"
#include "tests/fuzz/walk_envelope.h"
#include "tests/ipc/support.h"

namespace sluice::ipc {
namespace {

using flatbuffers::FlatBufferBuilder;

std::vector<std::byte> open_cache() {
  return make_message(7, [](FlatBufferBuilder& builder) {
    const auto model = builder.CreateString("llama");
    const auto salt = builder.CreateString("salt");
    const auto layout = wire::CreateLayoutSpec(builder, 32, 8, 128, 16, 2, 2, 0);
    return wire::CreateOpenCache(builder, model, salt, 0, 1, wire::CacheKind::attention, layout);
  });
}

TEST(Message, SurvivesItsBytes) {
  const auto bytes = open_cache();
  const auto envelope = verify_envelope(bytes);
  ASSERT_OK(envelope);
  EXPECT_EQ((*envelope)->request(), 7u);
  const auto* body = (*envelope)->body_as_OpenCache();
  ASSERT_NE(body, nullptr);
  EXPECT_EQ(text_of(body->model()), "llama");
  EXPECT_EQ(body->layout()->head_dim(), 128u);
  EXPECT_EQ((*envelope)->body_as_Hello(), nullptr);
}

TEST(Message, MissingStringsAndVectorsReadAsEmpty) {
  const auto bytes =
      make_message(1, [](FlatBufferBuilder& builder) { return wire::CreateHello(builder); });
  const auto envelope = verify_envelope(bytes);
  ASSERT_OK(envelope);
  EXPECT_EQ(text_of((*envelope)->body_as_Hello()->client_name()), "");
  EXPECT_TRUE(bytes_of((*envelope)->body_as_Hello()->engine_token()).empty());
}

TEST(Message, ATruncatedMessageIsRefusedUnlessOnlyPaddingIsCut) {
  constexpr std::size_t kMostPadding = 7;
  const auto bytes = open_cache();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    cut.shrink_to_fit();  // so that asan sees every byte beyond
    const auto envelope = verify_envelope(cut);
    if (envelope) EnvelopeWalk().walk(**envelope);
    if (size + kMostPadding < bytes.size()) EXPECT_ERROR(envelope, Errc::peer_violation);
  }
}

TEST(Message, AMutatedMessageIsRefusedOrHarmless) {
  std::mt19937 random(11);
  const auto original = open_cache();
  int refused = 0;
  for (int round = 0; round < 50'000; ++round) {
    auto bytes = original;
    for (auto changes = 1 + random() % 3; changes > 0; --changes) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    const auto envelope = verify_envelope(bytes);
    if (envelope) {
      EnvelopeWalk().walk(**envelope);
    } else {
      ++refused;
    }
  }
  EXPECT_GT(refused, 1'000);
}

TEST(Message, AnEnvelopeWithoutABodyIsRefused) {
  for (const wire::Body type : {wire::Body::NONE, wire::Body::Hello, wire::Body::OpenCache}) {
    FlatBufferBuilder builder;
    builder.Finish(wire::CreateEnvelope(builder, 1, type, 0), wire::EnvelopeIdentifier());
    const auto* first = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
    EXPECT_ERROR(verify_envelope(std::vector(first, first + builder.GetSize())),
                 Errc::peer_violation);
  }
}

TEST(Message, ABodyOfANewerPeerPassesAndIsNoneOfOurs) {
  FlatBufferBuilder builder;
  const auto body = wire::CreateDone(builder);
  builder.Finish(wire::CreateEnvelope(builder, 9, static_cast<wire::Body>(200), body.Union()),
                 wire::EnvelopeIdentifier());
  const auto* first = reinterpret_cast<const std::byte*>(builder.GetBufferPointer());
  const std::vector bytes(first, first + builder.GetSize());
  const auto envelope = verify_envelope(bytes);
  ASSERT_OK(envelope);
  EXPECT_EQ((*envelope)->request(), 9u);
  EXPECT_EQ((*envelope)->body_as_Done(), nullptr);
}

TEST(Message, ABufferOfAnotherKindIsRefused) {
  auto bytes = open_cache();
  bytes[4] = std::byte{'X'};
  EXPECT_ERROR(verify_envelope(bytes), Errc::peer_violation);
  EXPECT_ERROR(verify_envelope(std::vector<std::byte>(kMaxFrameBytes + 1)), Errc::peer_violation);
}

TEST(Message, ErrorsKeepTheirCodeAndText) {
  const auto bytes = make_failed(3, {Errc::quota_exceeded, "no"});
  const auto envelope = verify_envelope(bytes);
  ASSERT_OK(envelope);
  const auto* failed = (*envelope)->body_as_Failed();
  ASSERT_NE(failed, nullptr);
  const Error error = error_from_wire(failed->code(), text_of(failed->text()));
  EXPECT_EQ(error.code, Errc::quota_exceeded);
  EXPECT_EQ(error.text, "no");
}

TEST(Message, ACodeThatWeDoNotKnowIsInternalAndSaysItsNumber) {
  for (const std::uint16_t code :
       std::initializer_list<std::uint16_t>{0, static_cast<std::uint16_t>(kLastErrc) + 1, 65535}) {
    const Error error = error_from_wire(code, "text");
    EXPECT_EQ(error.code, Errc::internal);
    EXPECT_NE(error.text.find(std::to_string(code)), std::string::npos);
  }
}

TEST(Message, TheTextOfAnErrorIsBounded) {
  const auto bytes = make_failed(3, {Errc::internal, std::string(1 << 21, 'x')});
  EXPECT_LT(bytes.size(), kMaxErrorText + 200);
  EXPECT_TRUE(verify_envelope(bytes).has_value());
}

}  // namespace
}  // namespace sluice::ipc
