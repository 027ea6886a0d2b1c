#include "core/session/dequantize_session.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/stripes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using ::testing::HasSubstr;
using testing::LendCopy;
using testing::MakeTensor;
using testing::MakeValues;
using testing::MemorySink;
using testing::ValueKind;

class DequantizeSessionTest : public ::testing::Test {
 protected:
  QuantizedTensor Quantize(absl::string_view spec, std::vector<int64_t> dims) {
    const TensorDesc tensor = MakeTensor("w", DType::kF32, std::move(dims));
    auto result = QuantizeAll(*ParseSpec(spec), tensor, MakeValues(tensor, ValueKind::kNormal, 4),
                              {}, bench_.context());
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : QuantizedTensor{};
  }
  std::unique_ptr<DequantizeSession> Create(const QuantizedTensor& tensor) {
    return *DequantizeSession::Create(tensor.plan, DType::kF32, sink_, bench_.context());
  }
  // Hands over a copy that is gone when it is let go, and has all done that can be.
  absl::Status Push(DequantizeSession& session, int plane, std::span<const std::byte> bytes) {
    session.Push(plane, LendCopy(bytes));
    session.Await();
    return session.status();
  }
  absl::Status Finish(DequantizeSession& session) {
    session.EndInput();
    session.Await();
    EXPECT_TRUE(session.ended());
    return session.Finish().status();
  }

  Bench bench_{1};
  MemorySink sink_{{int64_t{2} << 20}};
};

TEST_F(DequantizeSessionTest, RefusesOtherTypes) {
  const QuantizedTensor tensor = Quantize("int8", {8});
  for (const DType dtype : AllDTypes()) {
    const auto session = DequantizeSession::Create(tensor.plan, dtype, sink_, bench_.context());
    EXPECT_EQ(session.ok(), IsDequantizeTarget(dtype)) << NameOf(dtype);
    if (session.ok()) continue;
    EXPECT_EQ(session.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(session.status().message()), HasSubstr("f64, f32, f16 or bf16"));
  }
}

TEST_F(DequantizeSessionTest, RefusesWhatTheBudgetDoesNotHold) {
  const QuantizedTensor tensor = Quantize("int8:group=1", {1000});
  Bench small(0, 3999);  // the scales alone take 4000
  const auto session = DequantizeSession::Create(tensor.plan, DType::kF32, sink_, small.context());
  EXPECT_EQ(session.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(small.budget.used_bytes(), 0);
}

TEST_F(DequantizeSessionTest, CodesWaitForTheirParameters) {
  const QuantizedTensor tensor = Quantize("int8:axis=0", {4, 8});
  const auto session = Create(tensor);
  ASSERT_TRUE(Push(*session, 1, std::span(tensor.planes[1]).first(12)).ok());
  const absl::Status status = Push(*session, 0, tensor.planes[0]);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "codes came before their parameters: plane \"scale\" needs 16 bytes by now and has 12");
}

TEST_F(DequantizeSessionTest, CodesFollowTheParametersOfTheirStripe) {
  // Five stripes; the last one's scales come after the codes of those before it.
  constexpr size_t kElems = 300'032, kBefore = 4 * kStripeElems;
  const QuantizedTensor tensor = Quantize("nf4", {kElems});
  const auto session = Create(tensor);
  const auto part = [&](int plane, size_t from, size_t count) {
    return Push(*session, plane,
                std::span(tensor.planes[static_cast<size_t>(plane)]).subspan(from, count));
  };
  const size_t scales = kBefore / 64 * 4, codes = kBefore / 2;
  const size_t all_scales = tensor.planes[1].size(), all_codes = tensor.planes[0].size();
  ASSERT_LT(scales, all_scales);
  ASSERT_TRUE(part(2, 0, tensor.planes[2].size()).ok());
  ASSERT_TRUE(part(1, 0, scales).ok());
  ASSERT_TRUE(part(0, 0, codes).ok());
  ASSERT_EQ(session->work().stripes, 4);
  ASSERT_TRUE(part(0, codes, all_codes - codes - 1).ok());  // held until the stripe is whole
  const absl::Status status = part(0, all_codes - 1, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            absl::StrCat("codes came before their parameters: plane \"scale\" needs ", all_scales,
                         " bytes by now and has ", scales));
  EXPECT_EQ(session->work().stripes, 4);
}

// All parameters of a tensor in one, and of each stripe just in time.
TEST_F(DequantizeSessionTest, ParametersMayComeStripeByStripe) {
  const QuantizedTensor tensor = Quantize("int8:axis=0", {300, 1000});
  const auto session = Create(tensor);
  constexpr size_t kRows = kStripeElems / 1000;
  for (size_t row = 0; row < 300; row += kRows) {
    const size_t rows = std::min(kRows, 300 - row);
    const std::span<const std::byte> codes = tensor.planes[0], scales = tensor.planes[1];
    ASSERT_TRUE(Push(*session, 1, scales.subspan(row * 4, rows * 4)).ok());
    ASSERT_TRUE(Push(*session, 0, codes.subspan(row * 1000, rows * 1000)).ok());
  }
  EXPECT_TRUE(Finish(*session).ok());
  const auto whole = DequantizeCut(tensor, DType::kF32, Cut::kWhole, bench_.context());
  ASSERT_TRUE(whole.ok());
  EXPECT_TRUE(std::equal(whole->begin(), whole->end(), sink_.planes[0].begin()));
}

TEST_F(DequantizeSessionTest, RefusesBytesPastTheEndOfAPlane) {
  const QuantizedTensor tensor = Quantize("uint8:axis=0", {4, 8});
  const std::vector<std::byte> many(100);
  for (int plane = 0; plane < 3; ++plane) {
    const auto session = Create(tensor);
    for (int before = 2; before > plane; --before) {  // codes come last
      ASSERT_TRUE(Push(*session, before, tensor.planes[static_cast<size_t>(before)]).ok());
    }
    const absl::Status status = Push(*session, plane, many);
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(tensor.plan.resolved.layout.planes[static_cast<size_t>(plane)].name));
  }
  for (const int plane : {-1, 3, std::numeric_limits<int>::max()}) {
    const auto session = Create(tensor);
    EXPECT_EQ(Push(*session, plane, many).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(DequantizeSessionTest, SaysWhichPlaneIsShort) {
  const QuantizedTensor tensor = Quantize("int8:axis=0", {4, 8});
  const auto session = Create(tensor);
  ASSERT_TRUE(Push(*session, 1, tensor.planes[1]).ok());
  ASSERT_TRUE(Push(*session, 0, std::span(tensor.planes[0]).first(31)).ok());
  EXPECT_EQ(session->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
  const absl::Status status = Finish(*session);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "plane \"codes\" has 32 bytes; 1 of them are missing");
}

TEST_F(DequantizeSessionTest, SaysThatParametersAreShort) {
  const QuantizedTensor tensor = Quantize("int8:axis=0", {4, 8});
  const auto session = Create(tensor);
  ASSERT_TRUE(Push(*session, 1, std::span(tensor.planes[1]).first(15)).ok());
  ASSERT_TRUE(Push(*session, 0, std::span(tensor.planes[0]).first(31)).ok());
  const absl::Status status = Finish(*session);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(DequantizeSessionTest, StopsWhenCancelled) {
  const QuantizedTensor tensor = Quantize("int8", {4, 8});
  const auto session = Create(tensor);
  session->Cancel(absl::CancelledError("enough"));
  EXPECT_EQ(Push(*session, 1, tensor.planes[1]), absl::CancelledError("enough"));
  EXPECT_EQ(Push(*session, 0, tensor.planes[0]), absl::CancelledError("enough"));
  EXPECT_TRUE(session->ended());
}

// A scale that another program has stored: 127 and 64 of it are beyond f32, 32 are not.
TEST_F(DequantizeSessionTest, CountsWhatTheTypeDoesNotHold) {
  QuantizedTensor tensor = Quantize("int8", {8});
  const float scale = 0x1p122f;
  std::memcpy(tensor.planes[1].data(), &scale, sizeof(scale));
  const int8_t codes[8] = {127, -127, 64, -64, 32, 0, 1, -1};
  std::memcpy(tensor.planes[0].data(), codes, sizeof(codes));
  const auto saturated = [&](DType dtype, std::vector<std::byte>& values) {
    MemorySink sink({8 * SizeOf(dtype)});
    const auto session = *DequantizeSession::Create(tensor.plan, dtype, sink, bench_.context());
    EXPECT_TRUE(Push(*session, 1, tensor.planes[1]).ok());
    EXPECT_TRUE(Push(*session, 0, tensor.planes[0]).ok());
    session->EndInput();
    session->Await();
    values = sink.planes[0];
    return session->Finish()->saturated;
  };
  std::vector<std::byte> values;
  EXPECT_EQ(saturated(DType::kF64, values), 0);
  EXPECT_EQ(saturated(DType::kF32, values), 4);
  float floats[8];
  std::memcpy(floats, values.data(), sizeof(floats));
  constexpr float kMax = std::numeric_limits<float>::max();
  EXPECT_THAT(floats, ::testing::ElementsAre(kMax, -kMax, kMax, -kMax, 0x1p127f, 0, scale, -scale));
  EXPECT_EQ(saturated(DType::kF16, values), 7);
  EXPECT_EQ(saturated(DType::kBf16, values), 4);
}

// Planes from a damaged or hostile file: any bytes decode to something, and nothing else happens.
TEST_F(DequantizeSessionTest, SurvivesAnyBytes) {
  for (const char* spec : {"int8:axis=0", "uint4", "uint8:group=8", "int16:mode=asymmetric", "fp16",
                           "bf16", "q8_0", "nf4", "nvfp4", "int8:block=3x5,tail=short"}) {
    QuantizedTensor tensor = Quantize(spec, {6, 64});
    std::mt19937 rng(8);
    for (size_t i = 0; i < tensor.planes.size(); ++i) {
      for (std::byte& byte : tensor.planes[i]) byte = static_cast<std::byte>(rng());
    }
    for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBf16}) {
      MemorySink sink({int64_t{1} << 20});
      const auto session = DequantizeSession::Create(tensor.plan, dtype, sink, bench_.context());
      ASSERT_TRUE(session.ok());
      for (size_t plane = tensor.planes.size(); plane-- > 0;) {
        EXPECT_TRUE(Push(**session, static_cast<int>(plane), tensor.planes[plane]).ok());
      }
      EXPECT_TRUE(Finish(**session).ok()) << spec;
    }
  }
}

}  // namespace
}  // namespace quantd
