#include "core/session/quantize_session.h"

#include <atomic>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status_macros.h"
#include "core/session/calibration.h"
#include "core/session/stripes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::CalibrateCut;
using testing::Cut;
using ::testing::ElementsAre;
using testing::Fingerprint;
using ::testing::HasSubstr;
using testing::LendCopy;
using testing::MakeTensor;
using testing::MakeValues;
using testing::MemorySink;
using testing::PlaneBytes;
using testing::QuantizeCut;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<std::byte> ToBytes(std::span<const float> values) {
  const auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

class QuantizeSessionTest : public ::testing::Test {
 protected:
  // Makes a session of f32 values.
  absl::StatusOr<std::unique_ptr<QuantizeSession>> Create(absl::string_view spec,
                                                          std::vector<int64_t> dims,
                                                          QuantizeOptions options = {},
                                                          bool has_ranges = false) {
    QUANTD_ASSIGN_OR_RETURN(
        Plan plan, MakePlan(*ParseSpec(spec), MakeTensor("w", DType::kF32, std::move(dims)),
                            kPlenty, {.has_ranges = has_ranges, .threads = 2}));
    sink_.emplace(PlaneBytes(plan.resolved.layout));
    return QuantizeSession::Create(std::move(plan), std::move(options), *sink_, bench_.context());
  }

  Bench bench_{1};
  std::optional<MemorySink> sink_;
};

TEST_F(QuantizeSessionTest, RefusesBytesPastTheEnd) {
  for (const char* spec : {"int8", "int8:axis=0", "fp16"}) {
    auto session = Create(spec, {2, 4});
    ASSERT_TRUE(session.ok()) << session.status();
    (*session)->Push(LendCopy(std::vector<std::byte>(33)));
    (*session)->Await();
    EXPECT_TRUE((*session)->ended());
    for (const absl::Status& status : {(*session)->status(), (*session)->Finish().status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << spec;
      EXPECT_EQ(status.message(), "tensor \"w\" has 32 bytes; 1 more were sent");
    }
  }
}

// Also when all stripes have been given, and in a piece of its own.
TEST_F(QuantizeSessionTest, RefusesBytesAfterTheEnd) {
  for (const char* spec : {"int8", "int8:axis=0", "fp16"}) {
    auto session = Create(spec, {2, 4});
    ASSERT_TRUE(session.ok()) << session.status();
    (*session)->Push(LendCopy(std::vector<std::byte>(32)));
    (*session)->Await();
    EXPECT_FALSE((*session)->WantsInput());
    (*session)->Push(LendCopy(std::vector<std::byte>(2)));
    (*session)->Await();
    const absl::Status status = (*session)->Finish().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << spec;
    EXPECT_EQ(status.message(), "tensor \"w\" has 32 bytes; 2 more were sent");
  }
}

TEST_F(QuantizeSessionTest, SaysHowMuchIsMissing) {
  for (const char* spec : {"int8", "int8:axis=0", "fp16"}) {
    auto session = Create(spec, {2, 4});
    ASSERT_TRUE(session.ok()) << session.status();
    (*session)->Push(LendCopy(std::vector<std::byte>(13)));
    (*session)->Await();
    EXPECT_FALSE((*session)->ended());
    EXPECT_TRUE((*session)->WantsInput());
    (*session)->EndInput();
    (*session)->Await();
    EXPECT_TRUE((*session)->ended());
    const absl::Status status = (*session)->Finish().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << spec;
    EXPECT_EQ(status.message(), "tensor \"w\" has 32 bytes; 19 of them are missing");
  }
}

TEST_F(QuantizeSessionTest, FinishWantsAllOutputGiven) {
  Bench alone(0);
  const Plan plan = *MakePlan(*ParseSpec("int8"), MakeTensor("w", DType::kF32, {2, 4}), kPlenty);
  MemorySink sink(PlaneBytes(plan.resolved.layout));
  auto session = QuantizeSession::Create(plan, {}, sink, alone.context());
  ASSERT_TRUE(session.ok());
  (*session)->Push(LendCopy(std::vector<std::byte>(32)));
  ASSERT_FALSE((*session)->ended());
  EXPECT_EQ((*session)->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE((*session)->Help());
  EXPECT_TRUE((*session)->Finish().ok());
}

TEST_F(QuantizeSessionTest, CallsBeyondTheEndDoNothing) {
  for (const char* spec : {"int8", "fp16"}) {
    auto session = Create(spec, {2, 4});
    (*session)->Push(LendCopy(std::vector<std::byte>(32)));
    (*session)->EndInput();
    (*session)->Await();
    ASSERT_TRUE((*session)->ended());
    const std::vector<std::vector<std::byte>> planes = sink_->planes;
    (*session)->Push({});
    (*session)->EndInput();
    (*session)->Ready();
    EXPECT_FALSE((*session)->Help());
    (*session)->Await();
    (*session)->Cancel(absl::CancelledError("late"));
    EXPECT_TRUE((*session)->ended());
    EXPECT_TRUE((*session)->Finish().ok());
    EXPECT_TRUE((*session)->Finish().ok());
    EXPECT_TRUE(sink_->in_order);
    EXPECT_EQ(sink_->planes, planes);
  }
}

TEST_F(QuantizeSessionTest, StopsWhenCancelled) {
  auto session = Create("fp16", {2, 4});
  (*session)->Push(LendCopy(std::vector<std::byte>(8)));
  (*session)->Cancel(absl::CancelledError("enough"));
  (*session)->Push(LendCopy(std::vector<std::byte>(24)));
  (*session)->EndInput();
  (*session)->Await();
  EXPECT_TRUE((*session)->ended());
  EXPECT_EQ((*session)->status(), absl::CancelledError("enough"));
  EXPECT_EQ((*session)->Finish().status(), absl::CancelledError("enough"));
}

// Counts the stripes that are begun, and cancels when the first of them is written.
class CancellingSink final : public PayloadSink {
 public:
  SinkMemory Acquire(int64_t offset, int64_t size_bytes) override {
    ++begun;
    return std::span(memory_).subspan(static_cast<size_t>(offset), static_cast<size_t>(size_bytes));
  }
  void Commit(int64_t, int64_t, uint32_t) override {
    session->Cancel(absl::CancelledError("enough"));
  }
  void Put(int, int64_t, std::span<const std::byte>) override {}

  QuantizeSession* session = nullptr;
  std::atomic<int64_t> begun = 0;

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(size_t{16} << 20);
};

// Whatever else there is to do: no stripes but those in flight are encoded.
TEST_F(QuantizeSessionTest, StopsWithTheStripesInFlight) {
  const std::vector<std::byte> values(size_t{16} << 20);
  for (const char* spec : {"int8", "int8:axis=0", "fp16", "q8_0"}) {
    const Plan plan = *MakePlan(
        *ParseSpec(spec), MakeTensor("w", DType::kF32, {1024, 4096}), kPlenty, {.threads = 2});
    ASSERT_LT(plan.stripes_in_flight, plan.resolved.tensor.shape.num_elems() / kStripeElems / 2);
    CancellingSink sink;
    auto session = QuantizeSession::Create(plan, {}, sink, bench_.context());
    ASSERT_TRUE(session.ok()) << session.status();
    sink.session = session->get();
    (*session)->Push({values, nullptr});
    (*session)->Await();
    EXPECT_EQ((*session)->status().code(), absl::StatusCode::kCancelled) << spec;
    EXPECT_TRUE((*session)->ended());
    EXPECT_EQ((*session)->work().stripes, 1) << spec;  // of which anybody hears
    EXPECT_LE(sink.begun, plan.stripes_in_flight) << spec;
  }
}

TEST_F(QuantizeSessionTest, GivesItsReservationBack) {
  {
    auto session = Create("int8", {1000, 4});
    ASSERT_TRUE(session.ok());
    EXPECT_EQ(bench_.budget.used_bytes(), (*session)->plan().resident_bytes);
  }
  EXPECT_EQ(bench_.budget.used_bytes(), 0);
}

TEST_F(QuantizeSessionTest, RefusesWhatTheBudgetDoesNotHold) {
  const Plan plan = *MakePlan(*ParseSpec("int8"), MakeTensor("w", DType::kF32, {1000}), kPlenty);
  Bench small(0, plan.resident_bytes - 1);
  MemorySink sink(PlaneBytes(plan.resolved.layout));
  const absl::Status status = QuantizeSession::Create(plan, {}, sink, small.context()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr(std::to_string(plan.resident_bytes)));
}

TEST_F(QuantizeSessionTest, TwoPassPlansNeedRanges) {
  const Plan plan =
      *MakePlan(*ParseSpec("int8"), MakeTensor("w", DType::kF32, {4096, 4096}), 8 << 20);
  ASSERT_EQ(plan.pass, Pass::kTwoPass);
  MemorySink sink({});
  const absl::Status status = QuantizeSession::Create(plan, {}, sink, bench_.context()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"w\""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("67108864 bytes"));
  for (const char* way_out : {"Calibrate", "group=", "axis=0", "scale="}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(way_out));
  }
}

TEST_F(QuantizeSessionTest, CountsTheRanges) {
  const auto refusal = [&](absl::string_view spec, std::vector<int64_t> dims, size_t num_ranges) {
    QuantizeOptions options;
    options.ranges.resize(num_ranges);
    const absl::Status status = Create(spec, std::move(dims), options, true).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal("int8:axis=1", {2, 4}, 3), "ranges hold 3 groups; the tensor has 4");
  EXPECT_EQ(refusal("int8:axis=1", {2, 4}, 5), "ranges hold 5 groups; the tensor has 4");
  EXPECT_THAT(refusal("int8:axis=1", {2, 4}, 0), HasSubstr("none are given"));
  EXPECT_THAT(refusal("nvfp4", {2, 16}, 0), HasSubstr("range of the whole tensor"));
}

TEST_F(QuantizeSessionTest, RejectNamesTheFirstPlace) {
  for (const float stray : {kNan, kInf, -kInf}) {
    for (const char* spec : {"int8", "int8:axis=0", "fp16", "q8_0", "nf4", "nvfp4"}) {
      std::vector<float> values(5 * 3 * 32, 1);
      values[(2 * 3 + 1) * 32 + 30] = stray;
      values[(4 * 3 + 1) * 32 + 2] = stray;
      auto result = QuantizeCut(*ParseSpec(spec), MakeTensor("w", DType::kF32, {5, 3, 32}),
                                ToBytes(values), Cut::kWhole, {}, kPlenty, bench_.context());
      EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << spec;
      EXPECT_EQ(result.status().message(),
                "tensor \"w\" has a value that is not finite at [2, 1, 30]; to accept it use "
                "nonfinite=saturate");
    }
  }
}

TEST_F(QuantizeSessionTest, SaturateCountsAndListsThem) {
  std::vector<float> values(9000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7) - 3;
  std::vector<int64_t> strays;
  for (const size_t at : {5, 17, 4095, 4096, 5000, 5001, 5002, 8998, 8999}) {
    values[at] = at % 2 == 0 ? kNan : kInf;
    strays.push_back(static_cast<int64_t>(at));
  }
  auto result =
      QuantizeCut(*ParseSpec("int8:nonfinite=saturate"), MakeTensor("w", DType::kF32, {9000}),
                  ToBytes(values), Cut::kPrimes, {}, kPlenty, bench_.context());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.non_finite, 9);
  strays.pop_back();  // eight are listed
  EXPECT_EQ(result->report.first_non_finite_elems, strays);
  EXPECT_EQ(result->report.figures.count, 9000 - 9);
  EXPECT_EQ(result->report.clipped, 5);  // infinities lie beyond the outermost code
  EXPECT_EQ(std::to_integer<int>(result->planes[0][5]), 127);
  EXPECT_EQ(std::to_integer<int>(result->planes[0][4096]), 0);
}

TEST_F(QuantizeSessionTest, PropagateKeepsThem) {
  const std::vector<float> values = {1, kNan, kInf, -kInf, 1e30f, 70000};
  auto result =
      QuantizeCut(*ParseSpec("fp16:nonfinite=propagate"), MakeTensor("w", DType::kF32, {6}),
                  ToBytes(values), Cut::kWhole, {}, kPlenty, bench_.context());
  ASSERT_TRUE(result.ok()) << result.status();
  std::vector<uint16_t> codes(6);
  std::memcpy(codes.data(), result->planes[0].data(), 12);
  EXPECT_THAT(codes, ElementsAre(0x3C00, 0x7E00, 0x7C00, 0xFC00, 0x7C00, 0x7C00));
  EXPECT_EQ(result->report.non_finite, 3);
  EXPECT_EQ(result->report.clipped, 2);
}

// Groups without elements still have parameters.
TEST_F(QuantizeSessionTest, AnEmptyTensorHasAllItsParameters) {
  const std::pair<const char*, std::vector<int64_t>> cases[] = {{"int8:axis=1", {0, 5}},
                                                                {"int8:axis=0", {5, 0}},
                                                                {"uint4", {0}},
                                                                {"uint8:axis=-1", {3, 0, 2}}};
  for (const auto& [spec, dims] : cases) {
    auto result = QuantizeCut(*ParseSpec(spec), MakeTensor("w", DType::kF32, dims), {}, Cut::kWhole,
                              {}, kPlenty, bench_.context());
    ASSERT_TRUE(result.ok()) << spec << result.status();
    ASSERT_GE(result->planes.size(), 2u);
    ASSERT_FALSE(result->planes[1].empty());
    for (size_t at = 0; at < result->planes[1].size(); at += sizeof(float)) {
      float scale;
      std::memcpy(&scale, &result->planes[1][at], sizeof(scale));
      EXPECT_EQ(scale, 1) << spec;
    }
  }
}

// What Calibrate found gives the bytes that a session finds by itself, for the smallest tensors
// too.
TEST_F(QuantizeSessionTest, GivenRangesGiveTheSameBytes) {
  const std::pair<const char*, std::vector<int64_t>> cases[] = {
      {"nvfp4", {1, 16}},          {"nvfp4:tail=pad", {1, 3}},
      {"nvfp4", {4, 64}},          {"int8", {7}},
      {"int8:axis=0", {1, 9}},     {"uint4:axis=-1", {9, 5}},
      {"int8:group=8", {3, 8}},    {"nf4", {70}},
      {"int8:range=2sigma", {100}}, {"nvfp4:tail=pad", {130, 0}},
      {"uint8:range=p90", {100}},  {"uint4:range=p99", {700, 100}},
      {"int4:range=mse", {100}},   {"uint4:range=mse", {700, 100}},
      {"int8:range=entropy", {100}}, {"int8:range=entropy", {700, 100}},
      {"int8:range=mse", {0, 5}},  {"int4:axis=0,range=mse", {1, 9}},
      {"nvfp4", {0, 16}},          {"int8:axis=1", {0, 5}},
      {"int8:axis=0", {5, 0}},     {"binary", {70'000}},
      {"binary:axis=-1", {9, 5}},  {"binary:axis=1", {300, 90, 3}},
      {"binary:axis=0", {0, 5}},   {"int8:group=8,range=absmean", {3, 8}},
      {"ternary", {70'000}},       {"ternary", {0}},
      {"pow2:axis=-1", {9, 5}}};
  for (const auto& [text, dims] : cases) {
    const QuantSpec spec = *ParseSpec(text);
    const TensorDesc tensor = MakeTensor("w", DType::kF32, dims);
    const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 1);
    const auto alone =
        QuantizeCut(spec, tensor, values, Cut::kWhole, {}, kPlenty, bench_.context());
    ASSERT_TRUE(alone.ok()) << alone.status();
    const auto state = CalibrateCut(alone->plan, values, Cut::kWhole, {}, bench_.context());
    ASSERT_TRUE(state.ok()) << state.status();
    const CalibratedRanges ranges = *RangesOf(alone->plan, *state);
    const auto given = QuantizeCut(spec, tensor, values, Cut::kWhole,
                                   {true, ranges.groups, ranges.tensor, ranges.histogram}, kPlenty,
                                   bench_.context());
    ASSERT_TRUE(given.ok()) << given.status();
    EXPECT_EQ(Fingerprint(*given), Fingerprint(*alone)) << text;
  }
}

// Each value a channel of its own, and more of them than a stripe holds: each is its own range.
TEST_F(QuantizeSessionTest, ChannelsOfOneElementSpanStripes) {
  constexpr int64_t kCount = 2 * kStripeElems - 1000;  // 127 times as much is exact
  const std::vector<int64_t> shapes[] = {{kCount}, {kCount, 1}, {1, kCount}};
  for (const std::vector<int64_t>& dims : shapes) {
    const std::string text = dims[0] == 1 ? "int8:axis=-1" : "int8:axis=0";
    const TensorDesc tensor = MakeTensor("w", DType::kF32, dims);
    std::vector<float> values(kCount), scales(kCount);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(127 * (i + 1));
      scales[i] = static_cast<float>(i + 1);
    }
    const auto result = QuantizeAll(*ParseSpec(text), tensor, std::as_bytes(std::span(values)), {},
                                    bench_.context());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->planes[0], std::vector<std::byte>(kCount, std::byte{127}))
        << tensor.shape.Text();
    EXPECT_EQ(result->planes[1], ToBytes(scales)) << tensor.shape.Text();
  }
}

TEST_F(QuantizeSessionTest, WithoutFiguresTheBytesAreTheSame) {
  const TensorDesc tensor = MakeTensor("w", DType::kF32, {300, 1001});
  const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 2);
  const QuantSpec spec = *ParseSpec("int8:axis=0");
  const auto with = QuantizeAll(spec, tensor, values, {}, bench_.context());
  const auto without = QuantizeAll(spec, tensor, values, {.figures = false}, bench_.context());
  ASSERT_TRUE(with.ok() && without.ok());
  EXPECT_EQ(with->planes, without->planes);
  EXPECT_EQ(with->report.clipped, without->report.clipped);
  EXPECT_TRUE(with->report.has_figures);
  EXPECT_FALSE(without->report.has_figures);
  EXPECT_EQ(without->report.figures.count, 0);
}

TEST_F(QuantizeSessionTest, CountsIntegersThatADoubleDoesNotHold) {
  const std::vector<int64_t> values = {1, (int64_t{1} << 53) + 1, -(int64_t{1} << 53) - 1, 7};
  const auto bytes = std::as_bytes(std::span(values));
  const auto result = QuantizeAll(*ParseSpec("int16"), MakeTensor("w", DType::kInt64, {4}), bytes,
                                  {}, bench_.context());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->report.inexact_inputs, 2);
}

}  // namespace
}  // namespace quantd
