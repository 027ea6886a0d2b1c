// Ranges of groups that recur, from sketches of their values, against ones that a plain model finds
// from what the values count as: given as ranges, these have to give the same bytes.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/calibration.h"
#include "core/session/value_ranges.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::CalibrateCut;
using testing::Cut;
using testing::DequantizeCut;
using testing::Fingerprint;
using testing::kAllCuts;
using testing::MakeTensor;
using testing::MakeValues;
using testing::QuantizeCut;
using testing::ValueKind;
using ::testing::HasSubstr;

constexpr int64_t kPlenty = int64_t{1} << 32;

double ValueAt(std::span<const std::byte> values, DType dtype, int64_t i) {
  const std::byte* at = values.data() + i * SizeOf(dtype);
  if (WorksAsF32(dtype)) {
    float value;
    WidenToF32(dtype, at, 1, &value);
    return value;
  }
  double value;
  WidenToF64(dtype, at, 1, &value);
  return value;
}

struct Group {
  std::vector<double> values;  // finite
  Range bounds;
  std::vector<double> counted;  // what they count as, within the bounds
};

std::vector<Group> GroupsOf(const Plan& plan, std::span<const std::byte> values) {
  const GroupMap& map = plan.resolved.layout.groups;
  std::vector<Group> groups(static_cast<size_t>(map.num_groups));
  for (int64_t i = 0; i < plan.resolved.tensor.shape.num_elems(); ++i) {
    const double value = ValueAt(values, plan.resolved.tensor.dtype, i);
    if (std::isfinite(value)) {
      groups[static_cast<size_t>(map.RunAt(i).group)].values.push_back(value);
    }
  }
  for (Group& group : groups) {
    if (group.values.empty()) continue;
    const auto [min, max] = std::minmax_element(group.values.begin(), group.values.end());
    group.bounds = {*min + 0.0, *max + 0.0};
    const auto bucket = [](double value) {
      const double most = std::numeric_limits<float>::max();
      const auto narrow = static_cast<float>(std::clamp(value, -most, most));
      return std::bit_cast<uint32_t>(narrow) << 1 >> 20;
    };
    const uint32_t top = std::max(bucket(*min), bucket(*max));
    for (const double value : group.values) {
      const uint32_t own = bucket(value);
      const auto edge = [](uint32_t b) {
        return b == 0xFF0 ? 0x1p128 : double{std::bit_cast<float>(b << 19)};
      };
      const double middle = own == 0 || top - own >= 512 ? 0 : (edge(own) + edge(own + 1)) / 2;
      group.counted.push_back(std::clamp(std::copysign(middle, value), *min, *max) + 0.0);
    }
  }
  return groups;
}

bool IsSymmetric(const Plan& plan) {
  return plan.resolved.spec.mode.has_value() ? *plan.resolved.spec.mode != Mode::kAsymmetric
                                             : plan.resolved.info->is_signed;
}

Range PercentileOf(std::vector<double> values, const Range& bounds, double percent,
                   bool symmetric) {
  if (values.empty() || bounds.min == bounds.max) return bounds;
  const auto count = static_cast<double>(values.size());
  if (!symmetric) {
    std::sort(values.begin(), values.end());
    const auto cut = std::min(static_cast<size_t>(count * ((100 - percent) / 2 / 100) + 1e-6),
                              (values.size() - 1) / 2);
    if (cut == 0) return bounds;
    return {values[cut], values[values.size() - 1 - cut]};
  }
  for (double& value : values) value = std::fabs(value);
  std::sort(values.begin(), values.end());
  const auto cut =
      std::min(static_cast<size_t>(count * ((100 - percent) / 100) + 1e-6), values.size() - 1);
  if (cut == 0) return bounds;
  const double reach = values[values.size() - 1 - cut];
  return {std::max(bounds.min, -reach), std::min(bounds.max, reach)};
}

struct Case {
  const char* spec;
  std::vector<int64_t> dims;
  DType dtype = DType::kF32;
  ValueKind kind = ValueKind::kNormal;
};

// Not a name: tests list them.
void PrintTo(const Case& param, std::ostream* out) { *out << param.spec; }

class PercentileOfColumnsTest : public ::testing::TestWithParam<Case> {};

TEST_P(PercentileOfColumnsTest, IsThatOfTheModel) {
  const Case& param = GetParam();
  const QuantSpec spec = *ParseSpec(param.spec);
  const TensorDesc tensor = MakeTensor("w", param.dtype, param.dims);
  const std::vector<std::byte> values = MakeValues(tensor, param.kind, 5);
  const absl::StatusOr<Plan> plan = MakePlan(spec, tensor, kPlenty);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->value_source, ValueSource::kSketches);
  const double percent = std::stod(plan->resolved.spec.range.substr(1));
  const bool symmetric = IsSymmetric(*plan);
  QuantizeOptions given;
  for (const Group& group : GroupsOf(*plan, values)) {
    const Range found = PercentileOf(group.counted, group.bounds, percent, symmetric);
    given.ranges.push_back(found);
    // Near to that of the values themselves.
    const Range exact = PercentileOf(group.values, group.bounds, percent, symmetric);
    const double least = std::max(-group.bounds.min, group.bounds.max) * 0x1p-31;
    EXPECT_NEAR(found.min, exact.min, std::fabs(exact.min) / 32 + least);
    EXPECT_NEAR(found.max, exact.max, std::fabs(exact.max) / 32 + least);
  }
  Bench bench(2);
  const auto expected =
      QuantizeCut(spec, tensor, values, Cut::kWhole, given, kPlenty, bench.context());
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto found = QuantizeCut(spec, tensor, values, Cut::kPrimes, {}, kPlenty, bench.context());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(Fingerprint(*found), Fingerprint(*expected));
  EXPECT_GT(found->report.clipped, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PercentileOfColumnsTest,
    ::testing::Values(
        Case{"int8:axis=-1,range=p90", {301, 70}}, Case{"uint8:axis=-1,range=p95", {999, 130}},
        Case{"int8:axis=1,range=p80", {5, 70, 9}}, Case{"uint4:axis=1,range=p90", {3, 7, 9001}},
        Case{"int4:axis=-1,range=p90,mode=asymmetric", {70, 5000}},  // rows, stripes, blocks
        Case{"int8:axis=-1,range=p60", {5, 100001}},                 // rows longer than a stripe
        Case{"fp8_e4m3:axis=1,range=p95", {300, 200}, DType::kBf16},
        Case{"int8:axis=-1,range=p90,mode=full", {90, 300}, DType::kF64},
        Case{"int8:axis=-1,range=p90", {90, 256}, DType::kInt64, ValueKind::kWide},
        Case{"int8:axis=1,range=p90", {90, 256}, DType::kF16, ValueKind::kNormal},
        Case{"int8:axis=-1,range=p90,nonfinite=saturate", {90, 256}, DType::kF32,
             ValueKind::kNonFinite},
        Case{"int32:axis=1,range=p90", {90, 25, 2}}));

// mse by brute force over what the values count as: each group as a tensor of its own, in which
// every value is there once.
class SearchedColumnsTest : public ::testing::TestWithParam<Case> {
 protected:
  static Range Part(const Range& range, int eighths) {
    const double fraction = std::exp2(-(eighths / 4) / 2.0) * std::exp2(-(eighths % 4) / 8.0);
    return {range.min * fraction, range.max * fraction};
  }

  // Returns the sum of squared errors of `points` with the range.
  static double ErrorOf(const std::string& spec, const std::map<double, int64_t>& points,
                        const Range& range) {
    std::vector<float> values;
    for (const auto& [value, count] : points) values.push_back(static_cast<float>(value));
    Bench bench(0);
    QuantizeOptions given;
    given.ranges = {range};
    const auto made = QuantizeCut(*ParseSpec(spec),
                                  MakeTensor("w", DType::kF32, {1, std::ssize(values)}),
                                  std::as_bytes(std::span(values)), Cut::kWhole, given, kPlenty,
                                  bench.context());
    EXPECT_TRUE(made.ok()) << made.status();
    const auto back = *DequantizeCut(*made, DType::kF32, Cut::kWhole, bench.context());
    double sum = 0;
    size_t i = 0;
    for (const auto& [value, count] : points) {
      float decoded;
      std::memcpy(&decoded, back.data() + sizeof(float) * i, sizeof(float));
      const double error = values[i++] - decoded;
      sum += static_cast<double>(count) * (error * error);
    }
    return sum;
  }
};

TEST_P(SearchedColumnsTest, HaveTheLeastErrorThatThereIs) {
  const Case& param = GetParam();
  const QuantSpec spec = *ParseSpec(param.spec);
  const TensorDesc tensor = MakeTensor("w", param.dtype, param.dims);
  const std::vector<std::byte> values = MakeValues(tensor, param.kind, 5);
  const absl::StatusOr<Plan> plan = MakePlan(spec, tensor, kPlenty);
  ASSERT_TRUE(plan.ok()) << plan.status();
  QuantSpec row = plan->resolved.spec;
  row.granularity->axis = 0;
  row.range = "minmax";
  if (row.rounding == Rounding::kStochastic) row.rounding = Rounding::kHalfEven;
  const std::string row_spec = FormatSpec(row);
  QuantizeOptions given;
  for (const Group& group : GroupsOf(*plan, values)) {
    std::map<double, int64_t> points;
    for (const double value : group.counted) ++points[value];
    const auto error = [&](int eighths) {
      return ErrorOf(row_spec, points, Part(group.bounds, eighths));
    };
    int at = 0, moved = 0;
    double least = error(0);
    const auto walk = [&](int step, int most) {
      int steps = 0;
      for (double next; steps < most && (next = error(at + step)) < least; ++steps) {
        least = next;
        at += step;
      }
      return steps;
    };
    walk(4, 7);
    moved = walk(1, 3);
    if (moved == 0 && at > 0) walk(-1, 3);
    given.ranges.push_back(Part(group.bounds, at));
  }
  Bench bench(1);
  const auto expected =
      QuantizeCut(spec, tensor, values, Cut::kWhole, given, kPlenty, bench.context());
  const auto found =
      QuantizeCut(spec, tensor, values, Cut::kPrimes, {}, kPlenty, bench.context());
  ASSERT_TRUE(expected.ok() && found.ok()) << expected.status() << found.status();
  EXPECT_EQ(Fingerprint(*found), Fingerprint(*expected));
  EXPECT_GT(found->report.clipped, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SearchedColumnsTest,
    ::testing::Values(Case{"int4:axis=-1,range=mse", {301, 70}},
                      Case{"uint4:axis=1,range=mse", {9, 25, 40}},
                      Case{"int3:axis=-1,range=mse,round=truncate", {501, 9}},
                      Case{"fp4_e2m1:axis=1,range=mse", {300, 20}, DType::kBf16},
                      Case{"int4:axis=-1,range=mse,scale_type=f16", {200, 30}},
                      Case{"int2:axis=-1,range=mse,nonfinite=saturate", {90, 25}, DType::kF32,
                           ValueKind::kNonFinite}));

// The sum of squared errors over the tensor itself.
TEST(ColumnRangesTest, SearchedOnesHaveLessErrorThanMinmax) {
  for (const char* text : {"int4:axis=-1", "uint4:axis=-1", "int8:axis=-1", "int2:axis=-1",
                           "int4:axis=-1,round=stochastic,seed=3"}) {
    const TensorDesc tensor = MakeTensor("w", DType::kF32, {3001, 50});
    const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 6);
    std::array<double, 2> errors;
    for (const bool mse : {false, true}) {
      QuantSpec spec = *ParseSpec(text);
      spec.range = mse ? "mse" : "minmax";
      Bench bench(2);
      const auto made =
          QuantizeCut(spec, tensor, values, Cut::kWhole, {}, kPlenty, bench.context());
      ASSERT_TRUE(made.ok()) << made.status();
      errors[mse] = made->report.figures.error_energy;
    }
    // Clipping costs more in 8 bits: it is within the noise of what values count as.
    const double most = absl::string_view(text) == "int8:axis=-1" ? 1.02 : 0.9;
    EXPECT_LT(errors[1], most * errors[0]) << text;
  }
}

// Sessions that hold the tensor, and Calibrate with any cut of it and any merging, find the same.
TEST(ColumnRangesTest, CalibratingFindsTheSame) {
  for (const char* text : {"int8:axis=-1,range=p95", "uint4:axis=1,range=p90",
                           "int4:axis=-1,range=mse", "int8:axis=-1,range=entropy"}) {
    const TensorDesc tensor = MakeTensor("w", DType::kF32, {700, 300});
    const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 6);
    const QuantSpec spec = *ParseSpec(text);
    const Plan plan = *MakePlan(spec, tensor, kPlenty);
    Bench alone(0);
    const auto held = *QuantizeCut(spec, tensor, values, Cut::kWhole, {}, kPlenty, alone.context());
    const auto whole = *CalibrateCut(plan, values, Cut::kWhole, {}, alone.context());
    const CalibratedRanges ranges = *RangesOf(plan, whole);
    for (const int workers : {0, 3}) {
      Bench bench(workers);
      for (const Cut cut : kAllCuts) {
        const auto state = CalibrateCut(plan, values, cut, {}, bench.context());
        ASSERT_TRUE(state.ok()) << state.status();
        EXPECT_EQ(state->sketches, whole.sketches) << text;
        EXPECT_EQ(RangesOf(plan, *state)->groups, ranges.groups) << text;
      }
    }
    QuantizeOptions given;
    given.ranges = ranges.groups;
    const auto streamed =
        *QuantizeCut(spec, tensor, values, Cut::kPrimes, given, kPlenty, alone.context());
    EXPECT_EQ(Fingerprint(streamed), Fingerprint(held)) << text;

    // Two streams of some rows each.
    const TensorDesc head = MakeTensor("w", DType::kF32, {123, 300});
    const TensorDesc rest = MakeTensor("w", DType::kF32, {577, 300});
    const auto part = std::span(values).first(static_cast<size_t>(*SizeBytes(head)));
    auto merged = *CalibrateCut(*MakePlan(spec, head, kPlenty), part, Cut::kWhole, {},
                                alone.context());
    const auto other = *CalibrateCut(*MakePlan(spec, rest, kPlenty),
                                     std::span(values).subspan(part.size()), Cut::kWhole, {},
                                     alone.context());
    ASSERT_TRUE(MergeCalibration(other, merged).ok());
    EXPECT_EQ(merged.sketches, whole.sketches) << text;
    EXPECT_EQ(RangesOf(plan, merged)->groups, ranges.groups) << text;
    EXPECT_EQ(RangesOf(plan, merged)->tensor, ranges.tensor) << text;

    // The range of the tensor is that of per=tensor, which counts its values closer.
    QuantSpec per_tensor = spec;
    per_tensor.granularity = {};
    const Plan one = *MakePlan(*ParseSpec(absl::StrCat(spec.scheme, ":per=tensor,range=",
                                                       spec.range)),
                               tensor, kPlenty);
    const auto counted = *CalibrateCut(one, values, Cut::kWhole, {}, alone.context());
    EXPECT_EQ(ranges.tensor, RangesOf(one, counted)->tensor) << text;
  }
}

// 5 and the like count as 0 beside 3e18, and there is none below 4.
TEST(ColumnRangesTest, OnesOfFarValuesStayWithinTheBounds) {
  for (const char* spec : {"int8:axis=-1,range=p90", "uint8:axis=-1,range=p90"}) {
    const TensorDesc tensor = MakeTensor("w", DType::kF32, {100, 2});
    std::vector<float> values(200);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 4 + static_cast<float>(i % 3);
    values[6] = 3e18f;
    Bench bench(0);
    const Plan plan = *MakePlan(*ParseSpec(spec), tensor, kPlenty);
    const auto state = *CalibrateCut(plan, std::as_bytes(std::span(values)), Cut::kWhole, {},
                                     bench.context());
    EXPECT_EQ(RangesOf(plan, state)->groups[0], (Range{4, 4})) << spec;
    EXPECT_GT(RangesOf(plan, state)->groups[1].max, 5.8) << spec;
  }
}

TEST(ColumnRangesTest, StatesWithoutSketchesAreRefused) {
  const Plan plan = *MakePlan(*ParseSpec("int8:axis=-1,range=p95"),
                              MakeTensor("w", DType::kF32, {50, 20}), kPlenty);
  CalibrationState state;
  state.groups.resize(20);
  const absl::Status status = RangesOf(plan, state).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr("range=p95"), HasSubstr("0 of 20")));
  CalibrationState other = state;
  other.sketches.resize(20);
  const absl::Status merged = MergeCalibration(state, other);
  EXPECT_EQ(merged.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(merged.message()), HasSubstr("0 and 20 sketches of groups"));
}

TEST(ColumnRangesTest, MemoryIsPlanned) {
  const TensorDesc tensor = MakeTensor("w", DType::kF32, {1000, 5000});
  const Plan minmax = *MakePlan(*ParseSpec("int8:axis=-1"), tensor, kPlenty);
  const Plan plan = *MakePlan(*ParseSpec("int8:axis=-1,range=p99"), tensor, kPlenty);
  const int64_t more = plan.resident_bytes - minmax.resident_bytes;
  EXPECT_GE(more, 5000 * int64_t{sizeof(Sketch)});
  EXPECT_LE(more, 5000 * int64_t{sizeof(Sketch)} + (1 << 20));
  // One that does not fit is told to calibrate first.
  const Plan two = *MakePlan(*ParseSpec("int8:axis=-1,range=p99"), tensor, tensor.shape.num_elems());
  EXPECT_EQ(two.pass, Pass::kTwoPass);
  // Sketches of as many columns as these do not fit, nor what calibrating would take.
  const TensorDesc wide = MakeTensor("w", DType::kF32, {2, int64_t{1} << 26});
  const absl::StatusOr<Plan> much = MakePlan(*ParseSpec("int8:axis=-1,range=p99"), wide, kPlenty);
  ASSERT_TRUE(much.ok()) << much.status();
  EXPECT_EQ(much->pass, Pass::kTwoPass);
  EXPECT_GT(*CalibrationResidentBytes(*much, {}), (int64_t{1} << 26) * int64_t{sizeof(Sketch)});
  Bench bench(0, kPlenty);
  const absl::Status status =
      CalibrationSession::Create(*much, {}, bench.context()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(absl::StrCat(*CalibrationResidentBytes(*much, {}))));
}

TEST(ColumnRangesTest, GroupsOfTooManyValuesAreRefused) {
  const absl::Status status = MakePlan(*ParseSpec("int8:axis=-1,range=p99"),
                                       MakeTensor("w", DType::kF32, {int64_t{1} << 32, 2}),
                                       int64_t{1} << 50)
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr("range=p99"), HasSubstr("4294967296"),
                               HasSubstr("at most 4294967295"), HasSubstr("per=tensor")));
  EXPECT_TRUE(MakePlan(*ParseSpec("int8:axis=-1,range=p99"),
                       MakeTensor("w", DType::kF32, {(int64_t{1} << 32) - 1, 2}), int64_t{1} << 50)
                  .ok());
}

}  // namespace
}  // namespace quantd
