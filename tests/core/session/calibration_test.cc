#include "core/session/calibration.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::CalibrateCut;
using testing::Cut;
using ::testing::HasSubstr;
using testing::MakeTensor;
using testing::MakeValues;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;
constexpr CalibrationOptions kAll = {.histogram = true, .column_moments = true, .gram = true};

class CalibrationTest : public ::testing::Test {
 protected:
  Plan PlanOf(absl::string_view spec, std::vector<int64_t> dims, DType dtype = DType::kF32) {
    return *MakePlan(*ParseSpec(spec), MakeTensor("x", dtype, std::move(dims)), kPlenty);
  }
  CalibrationState Calibrate(const Plan& plan, std::span<const std::byte> values,
                             const CalibrationOptions& options = kAll, Cut cut = Cut::kWhole) {
    auto state = CalibrateCut(plan, values, cut, options, bench_.context());
    EXPECT_TRUE(state.ok()) << state.status();
    return state.ok() ? *std::move(state) : CalibrationState{};
  }

  Bench bench_{2};
};

void ExpectSameStats(const GroupStats& got, const GroupStats& want) {
  EXPECT_EQ(got.count, want.count);
  EXPECT_EQ(got.min, want.min);
  EXPECT_EQ(got.max, want.max);
  EXPECT_NEAR(got.mean, want.mean, 1e-12 * (std::fabs(want.mean) + std::sqrt(want.m2)));
  EXPECT_NEAR(got.m2, want.m2, 1e-12 * want.m2);
}

TEST_F(CalibrationTest, StatisticsEqualTheNaiveOnes) {
  constexpr int64_t kRows = 501, kCols = 37;
  for (const ValueKind kind : {ValueKind::kNormal, ValueKind::kNonFinite}) {
    const Plan plan = PlanOf("int8:axis=-1", {kRows, kCols});
    const std::vector<std::byte> bytes = MakeValues(plan.resolved.tensor, kind, 6);
    const CalibrationState state = Calibrate(plan, bytes);
    std::vector<float> values(kRows * kCols);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    std::vector<int64_t> histogram(65536);
    std::vector<long double> moments(kCols), gram(kCols * kCols);
    int64_t non_finite = 0;
    for (float& value : values) {
      if (std::isfinite(value)) {
        ++histogram[std::bit_cast<uint32_t>(value) >> 16];
        continue;
      }
      ++non_finite;
      value = 0;  // as moments and Gram matrix take it
    }
    for (size_t row = 0; row < kRows; ++row) {
      const float* x = &values[row * kCols];
      for (size_t i = 0; i < kCols; ++i) {
        moments[i] += static_cast<long double>(x[i]) * x[i];
        for (size_t j = 0; j < kCols; ++j)
          gram[i * kCols + j] += static_cast<long double>(x[i]) * x[j];
      }
    }
    EXPECT_EQ(state.non_finite, non_finite);
    EXPECT_EQ(state.histogram, histogram);
    EXPECT_EQ(state.rows, kRows);
    ASSERT_EQ(state.column_second_moments.size(), moments.size());
    ASSERT_EQ(state.gram.size(), gram.size());
    for (size_t i = 0; i < kCols; ++i) {
      EXPECT_NEAR(state.column_second_moments[i], static_cast<double>(moments[i]),
                  1e-12 * static_cast<double>(moments[i]));
      for (size_t j = 0; j < kCols; ++j) {
        const long double scale = std::sqrt(moments[i] * moments[j]);
        EXPECT_NEAR(state.gram[i * kCols + j], static_cast<double>(gram[i * kCols + j]),
                    static_cast<double>(1e-5L * scale));  // f32 products within blocks
      }
    }
  }
}

TEST_F(CalibrationTest, GroupsEqualTheNaiveOnes) {
  for (const char* spec : {"int8", "int8:axis=0", "int8:axis=1", "int8:axis=2",
                           "int8:group=7,tail=short", "int8:block=3x40,tail=short"}) {
    SCOPED_TRACE(spec);
    const Plan plan = PlanOf(spec, {5, 11, 93});
    const std::vector<std::byte> bytes = MakeValues(plan.resolved.tensor, ValueKind::kNonFinite, 6);
    const CalibrationState state = Calibrate(plan, bytes, {}, Cut::kPrimes);
    const GroupMap& map = plan.resolved.layout.groups;
    std::vector<std::vector<double>> members(static_cast<size_t>(map.num_groups));
    for (int64_t elem = 0; elem < plan.resolved.tensor.shape.num_elems(); ++elem) {
      float value;
      std::memcpy(&value, &bytes[static_cast<size_t>(elem) * 4], 4);
      if (std::isfinite(value))
        members[static_cast<size_t>(map.RunAt(elem).group)].push_back(value);
    }
    ASSERT_EQ(state.groups.size(), members.size());
    int64_t total = 0;
    for (size_t i = 0; i < members.size(); ++i) {
      if (members[i].empty()) {
        EXPECT_EQ(state.groups[i].count, 0);
        continue;
      }
      long double sum = 0, m2 = 0;
      for (const double value : members[i]) sum += value;
      const long double mean = sum / static_cast<long double>(members[i].size());
      for (const double value : members[i]) m2 += (value - mean) * (value - mean);
      EXPECT_EQ(state.groups[i].count, static_cast<int64_t>(members[i].size()));
      EXPECT_EQ(state.groups[i].min, *std::min_element(members[i].begin(), members[i].end()));
      EXPECT_EQ(state.groups[i].max, *std::max_element(members[i].begin(), members[i].end()));
      EXPECT_NEAR(state.groups[i].mean, static_cast<double>(mean), 1e-6);
      EXPECT_NEAR(state.groups[i].m2, static_cast<double>(m2), 2e-6 * static_cast<double>(m2));
      total += state.groups[i].count;
    }
    EXPECT_EQ(state.tensor.count, total);
  }
}

TEST_F(CalibrationTest, DoesNotDependOnTheCuts) {
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kBf16, DType::kInt16}) {
    const Plan plan = PlanOf("int8:axis=-1", {301, 41}, dtype);
    const std::vector<std::byte> values = MakeValues(plan.resolved.tensor, ValueKind::kNormal, 7);
    const CalibrationState whole = Calibrate(plan, values);
    for (const Cut cut : testing::kAllCuts) {
      EXPECT_EQ(Calibrate(plan, values, kAll, cut), whole) << NameOf(dtype);
    }
  }
}

// Two streams merged equal one stream.
TEST_F(CalibrationTest, Merges) {
  for (const char* spec : {"int8", "int8:axis=-1", "nvfp4"}) {
    SCOPED_TRACE(spec);
    const Plan whole_plan = PlanOf(spec, {600, 48});
    const std::vector<std::byte> values =
        MakeValues(whole_plan.resolved.tensor, ValueKind::kNonFinite, 8);
    const CalibrationState whole = Calibrate(whole_plan, values);
    const size_t cut = 217 * 48 * 4;
    CalibrationState merged = Calibrate(PlanOf(spec, {217, 48}), std::span(values).first(cut));
    const CalibrationState rest =
        Calibrate(PlanOf(spec, {383, 48}), std::span(values).subspan(cut));
    ASSERT_TRUE(MergeCalibration(rest, merged).ok());
    EXPECT_EQ(merged.histogram, whole.histogram);
    EXPECT_EQ(merged.non_finite, whole.non_finite);
    EXPECT_EQ(merged.rows, whole.rows);
    ASSERT_EQ(merged.groups.size(), whole.groups.size());
    EXPECT_EQ(merged.tensor.count, whole.tensor.count);
    EXPECT_EQ(merged.tensor.min, whole.tensor.min);
    EXPECT_EQ(merged.tensor.max, whole.tensor.max);
    const bool columns = whole.groups.size() > 1;  // summed in double, one by one
    for (size_t i = 0; columns && i < whole.groups.size(); ++i) {
      ExpectSameStats(merged.groups[i], whole.groups[i]);
    }
    EXPECT_NEAR(merged.tensor.m2, whole.tensor.m2, 1e-5 * whole.tensor.m2);
    for (size_t i = 0; i < whole.column_second_moments.size(); ++i) {
      EXPECT_NEAR(merged.column_second_moments[i], whole.column_second_moments[i],
                  1e-12 * whole.column_second_moments[i]);
    }
    for (size_t i = 0; i < whole.gram.size(); ++i) {
      EXPECT_NEAR(merged.gram[i], whole.gram[i], 1e-5 * whole.gram[0]);  // f32 within blocks
    }
  }
}

TEST_F(CalibrationTest, RefusesToMergeOtherForms) {
  const auto state = [&](absl::string_view spec, std::vector<int64_t> dims,
                         const CalibrationOptions& options) {
    const Plan plan = PlanOf(spec, std::move(dims));
    return Calibrate(plan, MakeValues(plan.resolved.tensor, ValueKind::kNormal, 1), options);
  };
  const CalibrationState base = state("int8:axis=-1", {3, 4}, {});
  const std::pair<CalibrationState, const char*> others[] = {
      {state("int8:axis=-1", {3, 5}, {}), "5 and 4 groups"},
      {state("int8:axis=-1", {3, 4}, {.histogram = true}), "65536 and 0 histogram buckets"},
      {state("int8:axis=-1", {3, 4}, {.column_moments = true}), "4 and 0 column moments"},
      {state("int8:axis=-1", {3, 4}, {.gram = true}), "16 and 0 elements of the Gram matrix"}};
  for (const auto& [other, message] : others) {
    CalibrationState into = base;
    const absl::Status status = MergeCalibration(other, into);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_EQ(into, base);
  }
}

TEST_F(CalibrationTest, CountsFromOutsideDoNotOverflow) {
  CalibrationState many;
  many.groups.resize(1);
  many.histogram.resize(65536);
  for (int64_t* count : {&many.groups[0].count, &many.histogram[9], &many.non_finite, &many.rows,
                         &many.tensor.count}) {
    *count = std::numeric_limits<int64_t>::max();
    CalibrationState into = many;
    EXPECT_EQ(MergeCalibration(many, into).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(into, many);
    *count = 0;
  }
}

TEST_F(CalibrationTest, RefusesWhatTheBudgetDoesNotHold) {
  Bench small(0, int64_t{8} << 20);
  const auto refusal = [&](const Plan& plan, const CalibrationOptions& options) {
    const absl::Status status = CalibrationSession::Create(plan, options, small.context()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(small.budget.used_bytes(), 0);
    return std::string(status.message());
  };
  // 2000 x 2000 doubles alone take 32 MB.
  EXPECT_THAT(refusal(PlanOf("int8", {10, 2000}), {.gram = true}),
              HasSubstr("calibration of \"x\""));
  EXPECT_THAT(refusal(PlanOf("int8:axis=-1", {2, 1'000'000}), {}), HasSubstr("8388608"));
  refusal(PlanOf("int8", {2, 4'000'000}), {.column_moments = true});
  const Plan huge = PlanOf("int8:scale=1", {int64_t{1} << 60}, DType::kUint8);
  refusal(huge, {.column_moments = true});
  Bench large(0, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(CalibrationSession::Create(huge, {.gram = true}, large.context()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CalibrationSession::Create(PlanOf("int8", {}), {.gram = true}, large.context())
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CalibrationTest, InputErrors) {
  const Plan plan = PlanOf("int8", {2, 4});
  const auto create = [&] { return *CalibrationSession::Create(plan, {}, bench_.context()); };
  const auto push = [](CalibrationSession& session, size_t size_bytes) {
    session.Push(testing::LendCopy(std::vector<std::byte>(size_bytes)));
    session.Await();
    return session.status();
  };
  auto session = create();
  const absl::Status more = push(*session, 33);
  EXPECT_EQ(more.code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(more.message(), "tensor \"x\" has 32 bytes; 1 more were sent");
  EXPECT_EQ(session->Finish().status(), more);
  session = create();
  ASSERT_TRUE(push(*session, 31).ok());
  EXPECT_EQ(session->Finish().status().code(), absl::StatusCode::kFailedPrecondition);
  session->EndInput();
  session->Await();
  const absl::Status less = session->Finish().status();
  EXPECT_EQ(less.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(less.message(), "tensor \"x\" has 32 bytes; 1 of them are missing");
  session = create();
  session->Cancel(absl::CancelledError("enough"));
  EXPECT_EQ(push(*session, 1), absl::CancelledError("enough"));
  session = create();
  ASSERT_TRUE(push(*session, 8).ok());
  session->FailInput(absl::UnavailableError("lost"));
  session->Await();
  EXPECT_TRUE(session->ended());
  EXPECT_EQ(session->Finish().status(), absl::UnavailableError("lost"));
}

TEST_F(CalibrationTest, AnEmptyTensor) {
  const Plan plan = PlanOf("int8:axis=-1", {0, 3});
  const CalibrationState state = Calibrate(plan, {});
  EXPECT_EQ(state.groups.size(), 3u);
  EXPECT_EQ(state.tensor.count, 0);
  EXPECT_EQ(state.rows, 0);
  const CalibratedRanges ranges = *RangesOf(plan, state);
  EXPECT_EQ(ranges.groups, std::vector<Range>(3));
}

}  // namespace
}  // namespace quantd
