// Ranges that are found from values, against ones that a plain model finds from the same values:
// given as ranges, these have to give the same bytes.
#include "core/session/value_ranges.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/session/calibration.h"
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

// The finite values of each group, sorted.
std::vector<std::vector<double>> GroupValues(const Plan& plan, std::span<const std::byte> values) {
  const GroupMap& groups = plan.resolved.layout.groups;
  std::vector<std::vector<double>> of(static_cast<size_t>(groups.num_groups));
  for (int64_t i = 0; i < plan.resolved.tensor.shape.num_elems(); ++i) {
    const double value = ValueAt(values, plan.resolved.tensor.dtype, i);
    if (std::isfinite(value)) of[static_cast<size_t>(groups.RunAt(i).group)].push_back(value);
  }
  for (std::vector<double>& group : of) std::sort(group.begin(), group.end());
  return of;
}

Range PercentileOf(std::vector<double> sorted, double percent, bool symmetric) {
  if (sorted.empty()) return {};
  const auto count = static_cast<double>(sorted.size());
  const Range all = {sorted.front() + 0.0, sorted.back() + 0.0};
  if (!symmetric) {
    const auto cut = std::min(static_cast<size_t>(count * (100 - percent) / 200 + 1e-6),
                              (sorted.size() - 1) / 2);
    return {sorted[cut] + 0.0, sorted[sorted.size() - 1 - cut] + 0.0};
  }
  for (double& value : sorted) value = std::fabs(value);
  std::sort(sorted.begin(), sorted.end());
  const auto cut =
      std::min(static_cast<size_t>(count * (100 - percent) / 100 + 1e-6), sorted.size() - 1);
  const double reach = sorted[sorted.size() - 1 - cut];
  return {std::max(all.min, -reach), std::min(all.max, reach)};
}

struct Case {
  const char* spec;
  std::vector<int64_t> dims;
  DType dtype = DType::kF32;
  ValueKind kind = ValueKind::kNormal;
};

class PercentileOfGroupsTest : public ::testing::TestWithParam<Case> {};

TEST_P(PercentileOfGroupsTest, IsThatOfTheModel) {
  const Case& param = GetParam();
  const QuantSpec spec = *ParseSpec(param.spec);
  const TensorDesc tensor = MakeTensor("w", param.dtype, param.dims);
  const std::vector<std::byte> values = MakeValues(tensor, param.kind, 5);
  const absl::StatusOr<Plan> plan = MakePlan(spec, tensor, kPlenty);
  ASSERT_TRUE(plan.ok()) << plan.status();
  absl::string_view text = plan->resolved.spec.range;
  ASSERT_TRUE(absl::ConsumePrefix(&text, "p"));
  const double percent = std::stod(std::string(text));
  const bool symmetric = plan->resolved.spec.mode.has_value()
                             ? *plan->resolved.spec.mode != Mode::kAsymmetric
                             : plan->resolved.info->is_signed;
  QuantizeOptions given;
  for (std::vector<double>& group : GroupValues(*plan, values)) {
    given.ranges.push_back(PercentileOf(std::move(group), percent, symmetric));
  }
  Bench bench(1);
  const auto expected = QuantizeCut(spec, tensor, values, Cut::kWhole, given, kPlenty,
                                    bench.context());
  ASSERT_TRUE(expected.ok()) << expected.status();
  const auto found = QuantizeCut(spec, tensor, values, Cut::kPrimes, {}, kPlenty, bench.context());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(Fingerprint(*found), Fingerprint(*expected));
  EXPECT_GT(found->report.clipped, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, PercentileOfGroupsTest,
    ::testing::Values(
        Case{"int8:group=128,range=p90", {31, 512}},
        Case{"int4:group=7,tail=short,range=p70", {33, 61}},
        Case{"int4:group=7,tail=short,range=p70,mode=asymmetric", {33, 61}},
        Case{"uint8:group=-1,range=p99", {5, 5001}}, Case{"int8:axis=0,range=p95", {7, 9001}},
        Case{"uint4:axis=0,range=p99.9", {2, 150001}},  // longer than a stripe
        Case{"uint8:axis=0,range=p99", {2, 70001}, DType::kF16},
        Case{"int8:axis=1,range=p99", {1, 7, 301}},
        Case{"int8:block=3x7,tail=short,range=p80", {2, 10, 33}},
        Case{"uint8:block=16x128,tail=short,range=p95", {40, 5001}},  // bands longer than a stripe
        Case{"int8:block=100x1,tail=short,range=p90", {150, 5001}},
        Case{"fp8_e4m3:block=128x128,tail=short,range=p99", {300, 200}, DType::kBf16},
        Case{"int8:group=100,range=p90,mode=full", {9, 300}, DType::kF64},
        Case{"int8:group=64,range=p90", {9, 256}, DType::kInt64, ValueKind::kWide},
        Case{"int8:group=64,range=p90,nonfinite=saturate", {9, 256}, DType::kF32,
             ValueKind::kNonFinite},
        Case{"nf4:group=64,range=p90", {300001}}, Case{"mlx_q4:range=p90", {33, 640}},
        Case{"fbgemm_rowwise8:range=p98", {33, 641}},
        Case{"fbgemm_rowwise8:range=p98", {2, 90001}},
        Case{"nf4:scale_type=nested8,range=p90", {300, 1000}}));

// The search, by ranges that are given, all groups at once: what comes out of the session of each
// is decoded, and the errors of a group are summed.
class SearchedGroupsTest : public ::testing::TestWithParam<Case> {
 protected:
  // In eighths of an octave down from 1; but for the last bit as the search rounds it.
  static Range Part(const Range& range, int eighths) {
    const double fraction = std::exp2(-(eighths / 4) / 2.0) * std::exp2(-(eighths % 4) / 8.0);
    return {range.min * fraction, range.max * fraction};
  }

  std::vector<double> ErrorsWith(const std::vector<Range>& ranges) {
    QuantizeOptions given;
    given.ranges = ranges;
    Bench bench(1);
    const auto made =
        QuantizeCut(spec_, tensor_, values_, Cut::kWhole, given, kPlenty, bench.context());
    EXPECT_TRUE(made.ok()) << made.status();
    const bool is_f32 = WorksAsF32(tensor_.dtype);
    const auto back = DequantizeCut(*made, is_f32 ? DType::kF32 : DType::kF64, Cut::kWhole,
                                    bench.context());
    EXPECT_TRUE(back.ok()) << back.status();
    std::vector<double> errors(ranges.size());
    for (int64_t i = 0; i < tensor_.shape.num_elems(); ++i) {
      const double x = ValueAt(values_, tensor_.dtype, i);
      const double y = ValueAt(*back, is_f32 ? DType::kF32 : DType::kF64, i);
      const double error = is_f32 ? static_cast<float>(x - y) : x - y;
      const int64_t group = made->plan.resolved.layout.groups.RunAt(i).group;
      if (std::isfinite(x)) errors[static_cast<size_t>(group)] += error * error;
    }
    return errors;
  }

  QuantSpec spec_;
  TensorDesc tensor_;
  std::vector<std::byte> values_;
};

TEST_P(SearchedGroupsTest, HaveTheLeastErrorThatThereIs) {
  const Case& param = GetParam();
  spec_ = *ParseSpec(param.spec);
  tensor_ = MakeTensor("w", param.dtype, param.dims);
  values_ = MakeValues(tensor_, param.kind, 5);
  const absl::StatusOr<Plan> plan = MakePlan(spec_, tensor_, kPlenty);
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<Range> bounds, best;
  for (const std::vector<double>& group : GroupValues(*plan, values_)) {
    bounds.push_back(group.empty() ? Range{} : Range{group.front() + 0.0, group.back() + 0.0});
  }
  // The errors of all groups by eighths of an octave down from 1; a group walks there as it likes.
  std::vector<std::vector<double>> errors;
  for (int eighths = 0; eighths < 32; ++eighths) {
    std::vector<Range> ranges;
    for (const Range& range : bounds) ranges.push_back(Part(range, eighths));
    errors.push_back(ErrorsWith(ranges));
  }
  std::vector<int> found_at;
  for (size_t i = 0; i < bounds.size(); ++i) {
    int at = 0, moved = 0;
    const auto walk = [&](int step, int most) {
      int steps = 0;
      while (steps < most && errors[static_cast<size_t>(at + step)][i] <
                                 errors[static_cast<size_t>(at)][i]) {
        at += step;
        ++steps;
      }
      return steps;
    };
    walk(4, 7);
    moved = walk(1, 3);
    if (moved == 0 && at > 0) walk(-1, 3);
    found_at.push_back(at);
  }
  QuantizeOptions given;
  for (size_t i = 0; i < bounds.size(); ++i) {
    given.ranges.push_back(Part(bounds[i], found_at[i]));
  }
  Bench bench(1);
  const auto expected =
      QuantizeCut(spec_, tensor_, values_, Cut::kWhole, given, kPlenty, bench.context());
  const auto found =
      QuantizeCut(spec_, tensor_, values_, Cut::kPrimes, {}, kPlenty, bench.context());
  ASSERT_TRUE(expected.ok() && found.ok()) << expected.status() << found.status();
  EXPECT_EQ(Fingerprint(*found), Fingerprint(*expected));
  EXPECT_GT(found->report.clipped, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, SearchedGroupsTest,
    ::testing::Values(
        Case{"int4:group=128,range=mse", {31, 512}},
        Case{"int3:group=7,tail=short,range=mse", {33, 61}},
        Case{"uint4:group=7,tail=short,range=mse,round=truncate", {33, 61}},
        Case{"int4:axis=0,range=mse,mode=full", {7, 9001}},
        Case{"int2:axis=0,range=mse", {2, 70001}},  // longer than a stripe
        Case{"int4:block=3x7,tail=short,range=mse", {2, 10, 33}},
        Case{"int4:block=16x128,tail=short,range=mse", {40, 5001}},
        Case{"fp4_e2m1:block=128x128,tail=short,range=mse", {300, 200}, DType::kBf16},
        Case{"int4:group=100,range=mse,scale_type=f16", {9, 300}, DType::kF64},
        Case{"int4:group=64,range=mse,nonfinite=saturate", {9, 256}, DType::kF32,
             ValueKind::kNonFinite},
        Case{"nf4:group=64,range=mse", {30001}}, Case{"mlx_q2:range=mse", {33, 640}},
        Case{"fbgemm_rowwise2:range=mse", {33, 6404}}));

// One group's range is found from counts of its values: close to what the values themselves give.
TEST(SearchedTensorTest, HasLessErrorThanMinmax) {
  for (const char* text : {"int4", "uint4", "int8", "fp4_e2m1:per=tensor", "int2:round=floor"}) {
    const TensorDesc tensor = MakeTensor("w", DType::kF32, {300001});
    std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 6);
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
    EXPECT_LE(errors[1], errors[0]) << text;
    if (absl::string_view(text) == "int8") continue;  // clipping costs more there
    EXPECT_LT(errors[1], 0.8 * errors[0]) << text;
  }
}

// Noise says nothing of a range.
TEST(ValueRangesTest, StochasticRoundingIsTriedAsHalfEven) {
  const TensorDesc tensor = MakeTensor("w", DType::kF32, {60, 512});
  const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 6);
  for (const char* granularity : {"group=128", "per=tensor"}) {
    std::vector<std::vector<std::byte>> scales;
    for (const char* round : {"stochastic,seed=3", "half_even"}) {
      const QuantSpec spec =
          *ParseSpec(absl::StrCat("int4:range=mse,", granularity, ",round=", round));
      Bench bench(0);
      scales.push_back(
          QuantizeCut(spec, tensor, values, Cut::kWhole, {}, kPlenty, bench.context())->planes[1]);
    }
    EXPECT_EQ(scales[0], scales[1]) << granularity;
  }
}

TEST(ValueRangesTest, ScalesOfScalesAreRefused) {
  const absl::Status status = MakePlan(*ParseSpec("nf4:scale_type=nested8,range=mse"),
                                       MakeTensor("w", DType::kF32, {50, 20}), kPlenty)
                                  .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr("range=mse"), HasSubstr("nested8"),
                               HasSubstr("scale_type=f32")));
}

TEST(PercentileOfTensorTest, IsWithinABucketOfTheModel) {
  for (const char* text : {"int8:range=p99", "uint8:range=p99.9", "fp8_e4m3:range=p90"}) {
    for (const int64_t elems : {100, 300001}) {
      const TensorDesc tensor = MakeTensor("w", DType::kF32, {elems});
      const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 6);
      const Plan plan = *MakePlan(*ParseSpec(text), tensor, kPlenty);
      Bench bench(2);
      const auto state = CalibrateCut(plan, values, Cut::kPrimes, {}, bench.context());
      ASSERT_TRUE(state.ok()) << state.status();
      const CalibratedRanges ranges = *RangesOf(plan, *state);
      const double percent = std::stod(plan.resolved.spec.range.substr(1));
      const bool symmetric = plan.resolved.spec.mode != Mode::kAsymmetric;
      const Range exact = PercentileOf(GroupValues(plan, values)[0], percent, symmetric);
      ASSERT_EQ(ranges.groups.size(), 1u);
      EXPECT_NEAR(ranges.groups[0].min, exact.min, std::fabs(exact.min) / 256) << text;
      EXPECT_NEAR(ranges.groups[0].max, exact.max, std::fabs(exact.max) / 256) << text;
    }
  }
}

TEST(ValueRangesTest, CalibrationKeepsNoValuesOfGroups) {
  const TensorDesc tensor = MakeTensor("w", DType::kF32, {50, 20});
  const Plan plan = *MakePlan(*ParseSpec("int8:axis=0,range=p99"), tensor, kPlenty);
  Bench bench(0);
  for (const absl::Status& status :
       {CalibrationResidentBytes(plan, {}).status(), RangesOf(plan, {}).status(),
        CalibrationSession::Create(plan, {}, bench.context()).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                ::testing::AllOf(HasSubstr("range=p99"), HasSubstr("50 groups"),
                                 HasSubstr("per=tensor")));
  }
}

TEST(ValueRangesTest, NoFiniteValuesAreARangeOfZero) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> nans(600, nan);
  const auto bytes = std::as_bytes(std::span(nans));
  for (const char* range : {"p99", "mse", "entropy", "minmax"}) {
    for (const char* spec : {"int8:per=tensor", "int8:axis=0", "uint8:group=8", "int8:block=2x5"}) {
      const QuantSpec parsed =
          *ParseSpec(absl::StrCat(spec, ",nonfinite=saturate,tail=short,range=", range));
      Bench bench(0);
      const auto result = QuantizeCut(parsed, MakeTensor("w", DType::kF32, {20, 30}), bytes,
                                      Cut::kWhole, {}, kPlenty, bench.context());
      ASSERT_TRUE(result.ok()) << spec << ": " << result.status();
      float scale;
      std::memcpy(&scale, result->planes[1].data(), sizeof(scale));
      EXPECT_EQ(scale, 1) << spec << " " << range;
      EXPECT_EQ(result->report.non_finite, 600);
    }
  }
}

TEST(ValueRangesTest, StatesThatLieAreTaken) {
  const Plan plan =
      *MakePlan(*ParseSpec("int8:range=p99"), MakeTensor("w", DType::kF32, {20}), kPlenty);
  CalibrationState state;
  state.groups.resize(1);
  EXPECT_EQ(RangesOf(plan, state)->groups[0], Range{});  // no counts, no values
  state.tensor = {.count = 5, .min = 7, .max = std::numeric_limits<double>::quiet_NaN()};
  state.histogram.assign(Histogram::kNumBuckets, 0);
  state.histogram[0x7F7F] = std::numeric_limits<int64_t>::max();
  EXPECT_TRUE(RangesOf(plan, state).ok());
  state.histogram[3] = 1;  // the sum leaves int64
  EXPECT_FALSE(RangesOf(plan, state).ok());
  state.histogram.resize(5);
  EXPECT_FALSE(RangesOf(plan, state).ok());
}

}  // namespace
}  // namespace quantd
