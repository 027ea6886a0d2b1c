#include "core/session/dequantize_session.h"

#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using ::testing::HasSubstr;
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
    return *DequantizeSession::Create(tensor.plan, DType::kF32, bench_.context());
  }

  Bench bench_{1};
  MemorySink sink_{{int64_t{1} << 20}};
  CancelToken cancel_;
};

TEST_F(DequantizeSessionTest, RefusesOtherTypes) {
  const QuantizedTensor tensor = Quantize("int8", {8});
  for (const DType dtype : AllDTypes()) {
    const auto session = DequantizeSession::Create(tensor.plan, dtype, bench_.context());
    EXPECT_EQ(session.ok(), IsDequantizeTarget(dtype)) << NameOf(dtype);
    if (session.ok()) continue;
    EXPECT_EQ(session.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(session.status().message()), HasSubstr("f64, f32, f16 or bf16"));
  }
}

TEST_F(DequantizeSessionTest, RefusesWhatTheBudgetDoesNotHold) {
  const QuantizedTensor tensor = Quantize("int8:group=1", {1000});
  Bench small(0, 3999);  // the scales alone take 4000
  const auto session = DequantizeSession::Create(tensor.plan, DType::kF32, small.context());
  EXPECT_EQ(session.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(small.budget.used_bytes(), 0);
}

TEST_F(DequantizeSessionTest, CodesWaitForTheirParameters) {
  const QuantizedTensor tensor = Quantize("int8:axis=0", {4, 8});
  const auto session = Create(tensor);
  ASSERT_TRUE(session->Step(1, std::span(tensor.planes[1]).first(12), sink_, cancel_).ok());
  const absl::Status status = session->Step(0, tensor.planes[0], sink_, cancel_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(),
            "codes came before their parameters: plane \"scale\" needs 16 bytes by now and has 12");
}

TEST_F(DequantizeSessionTest, CodesFollowTheParametersOfTheirWindow) {
  // Two windows; the second one's scales come after the first one's codes.
  const QuantizedTensor tensor = Quantize("nf4", {300'032});
  const auto session = Create(tensor);
  MemorySink values({300'032 * 4});
  const size_t scales = (256 << 10) / 64 * 4, codes = (256 << 10) / 2;
  const auto part = [&](int plane, size_t from, size_t count) {
    return session->Step(plane,
                         std::span(tensor.planes[static_cast<size_t>(plane)]).subspan(from, count),
                         values, cancel_);
  };
  const size_t all_scales = tensor.planes[1].size(), all_codes = tensor.planes[0].size();
  ASSERT_LT(scales, all_scales);
  ASSERT_TRUE(part(2, 0, tensor.planes[2].size()).ok());
  ASSERT_TRUE(part(1, 0, scales).ok());
  ASSERT_TRUE(part(0, 0, codes).ok());
  ASSERT_TRUE(part(0, codes, all_codes - codes - 1).ok());  // held until the window is whole
  EXPECT_EQ(part(0, all_codes - 1, 1).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(DequantizeSessionTest, RefusesBytesPastTheEndOfAPlane) {
  const QuantizedTensor tensor = Quantize("uint8:axis=0", {4, 8});
  const auto session = Create(tensor);
  const std::vector<std::byte> many(100);
  for (int plane = 0; plane < 3; ++plane) {
    const absl::Status status = session->Step(plane, many, sink_, cancel_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(tensor.plan.resolved.layout.planes[static_cast<size_t>(plane)].name));
  }
  for (const int plane : {-1, 3, std::numeric_limits<int>::max()}) {
    EXPECT_EQ(session->Step(plane, many, sink_, cancel_).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(DequantizeSessionTest, SaysWhichPlaneIsShort) {
  const QuantizedTensor tensor = Quantize("int8:axis=0", {4, 8});
  const auto session = Create(tensor);
  ASSERT_TRUE(session->Step(1, tensor.planes[1], sink_, cancel_).ok());
  ASSERT_TRUE(session->Step(0, std::span(tensor.planes[0]).first(31), sink_, cancel_).ok());
  const absl::Status status = session->Finish().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "plane \"codes\" has 32 bytes; 1 of them are missing");
  EXPECT_EQ(session->consumed_bytes(0), 31);
  EXPECT_EQ(session->consumed_bytes(1), 16);
}

TEST_F(DequantizeSessionTest, StopsWhenCancelled) {
  const QuantizedTensor tensor = Quantize("int8", {4, 8});
  const auto session = Create(tensor);
  cancel_.Cancel();
  EXPECT_EQ(session->Step(1, tensor.planes[1], sink_, cancel_).status().code(),
            absl::StatusCode::kCancelled);
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
      const auto session = DequantizeSession::Create(tensor.plan, dtype, bench_.context());
      ASSERT_TRUE(session.ok());
      for (size_t plane = tensor.planes.size(); plane-- > 0;) {
        EXPECT_TRUE(
            (*session)->Step(static_cast<int>(plane), tensor.planes[plane], sink_, cancel_).ok());
      }
      EXPECT_TRUE((*session)->Finish().ok()) << spec;
      sink_ = MemorySink({int64_t{1} << 20});
    }
  }
}

}  // namespace
}  // namespace quantd
