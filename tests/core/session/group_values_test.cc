// Parameters that schemes make of the values of groups: rows of ggml's simple formats with
// importance, and rows and groups of ternary and lloyd. They are those of plain loops over the
// values, whatever the cuts, threads and length of bands.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/quantize_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"
#include "tests/support/params.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using testing::Fingerprint;
using testing::MakeTensor;
using testing::MakeValues;
using testing::QuantizeCut;
using testing::ValueKind;
using ::testing::HasSubstr;

constexpr int64_t kPlenty = int64_t{1} << 32;

std::vector<double> Widened(std::span<const std::byte> bytes, DType dtype) {
  std::vector<double> values(bytes.size() / static_cast<size_t>(SizeOf(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    const std::byte* at = bytes.data() + i * static_cast<size_t>(SizeOf(dtype));
    if (WorksAsF32(dtype)) {
      float narrow;
      WidenToF32(dtype, at, 1, &narrow);
      values[i] = narrow;
    } else {
      WidenToF64(dtype, at, 1, &values[i]);
    }
  }
  return values;
}

std::vector<float> Weights(int64_t count) {
  std::vector<float> weights;
  for (int64_t i = 0; i < count; ++i) weights.push_back(static_cast<float>(i * 37 % 101) * 0.03f);
  return weights;
}

struct Case {
  std::string name, spec;
  std::vector<int64_t> dims;
  DType dtype = DType::kF32;
  ValueKind kind = ValueKind::kNormal;
  int64_t weights = 0;
};

std::vector<Case> AllCases() {
  return {
      {"q4_0_rows", "q4_0", {70, 1056}, DType::kF32, ValueKind::kNormal, 1056},
      {"q4_0_one_row", "q4_0", {4096}, DType::kF32, ValueKind::kNormal, 4096},
      {"q4_0_one_long_row", "q4_0", {1, 70016}, DType::kBf16, ValueKind::kNormal, 70016},
      {"q4_1_long_rows", "q4_1", {3, 70016}, DType::kF32, ValueKind::kNormal, 70016},
      {"q5_0_padded", "q5_0:tail=pad", {40, 4099}, DType::kF64, ValueKind::kNormal, 4099},
      {"q5_0_padded_long", "q5_0:tail=pad", {3, 70001}, DType::kF32, ValueKind::kNormal, 70001},
      {"q5_1_batches", "q5_1", {2, 3, 640}, DType::kF16, ValueKind::kNormal, 2 * 640},
      {"q4_0_stray", "q4_0:nonfinite=saturate", {7, 640}, DType::kF32, ValueKind::kNonFinite, 640},
      {"q4_0_empty", "q4_0", {0, 64}, DType::kF32, ValueKind::kNormal, 64},
      {"ternary_empty", "ternary:axis=0", {0, 5}},
      {"ternary_rows", "ternary:axis=0", {601, 513}},
      {"ternary_one_row", "ternary:axis=0", {1, 5000}},
      {"ternary_long_rows", "ternary:axis=0", {3, 150001}},
      {"ternary_groups", "ternary:group=7,tail=short", {503, 61}, DType::kF64},
      {"ternary_whole_rows", "ternary:group=-1", {5, 7, 900}, DType::kBf16},
      {"ternary_far", "ternary:axis=0", {9, 500}, DType::kF64, ValueKind::kWide},
      {"ternary_stray", "ternary:axis=0,nonfinite=saturate", {31, 250}, DType::kF32,
       ValueKind::kNonFinite},
      {"lloyd_rows", "lloyd:axis=0", {101, 513}},
      {"lloyd_long_rows", "lloyd:axis=0,levels=4", {2, 70001}},
      {"lloyd_groups", "lloyd:group=77,tail=short,levels=8", {103, 161}, DType::kF64},
      {"lloyd_ties", "lloyd:group=128,levels=64", {50, 256}, DType::kF16, ValueKind::kTies},
      {"lloyd_256", "lloyd:axis=0,levels=256", {3, 3000}},
      {"lloyd_stray", "lloyd:axis=0,nonfinite=saturate", {31, 250}, DType::kF32,
       ValueKind::kNonFinite},
  };
}

class GroupValuesTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& param = GetParam();
    spec_ = *ParseSpec(param.spec);
    tensor_ = MakeTensor("t", param.dtype, param.dims);
    values_ = MakeValues(tensor_, param.kind, 5);
    options_.importance = Weights(param.weights);
  }
  absl::StatusOr<QuantizedTensor> Quantize(Cut cut, int workers, int64_t budget = kPlenty) {
    Bench bench(workers);
    return QuantizeCut(spec_, tensor_, values_, cut, options_, budget, bench.context());
  }

  QuantSpec spec_;
  TensorDesc tensor_;
  std::vector<std::byte> values_;
  QuantizeOptions options_;
};

TEST_P(GroupValuesTest, ParametersAreThoseOfPlainLoops) {
  const absl::StatusOr<QuantizedTensor> result = Quantize(Cut::kPrimes, 2);
  ASSERT_TRUE(result.ok()) << result.status();
  const Plan& plan = result->plan;
  const PackedLayout& layout = plan.resolved.layout;
  EXPECT_TRUE(layout.from_values());
  const testing::FoundParams expected(plan, Widened(values_, tensor_.dtype));
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    const std::span<const std::byte> want = expected.plane(plane);
    EXPECT_TRUE(std::equal(want.begin(), want.end(), result->planes[plane].begin(),
                           result->planes[plane].end()))
        << layout.planes[plane].name;
  }
  if (GetParam().kind == ValueKind::kNonFinite) return;  // which are replaced before
  // The codes are those of the scalar definition with these parameters.
  const Importance importance = ImportanceOf(options_, tensor_.shape);
  std::vector<std::byte> codes(result->planes[0].size());
  const std::vector<double> wide = Widened(values_, tensor_.dtype);
  const std::vector<float> narrow(wide.begin(), wide.end());
  Counts counts;
  for (int64_t row = 0; row < std::ssize(wide); row += layout.row_elems) {
    const bool is_narrow = WorksAsF32(tensor_.dtype);
    Segment segment = {.values = {.f32 = is_narrow ? narrow.data() + row : nullptr,
                                  .f64 = is_narrow ? nullptr : wide.data() + row,
                                  .num_elems = layout.row_elems},
                       .first_elem = row,
                       .params = expected.view()};
    if (GetParam().weights > 0) segment.importance = &importance;
    const auto at = static_cast<size_t>(layout.CodeOffset(row));
    plan.scheme->encode_ref(plan.resolved, segment,
                            std::span(codes).subspan(at, static_cast<size_t>(layout.row_bytes())),
                            &counts);
  }
  EXPECT_TRUE(codes == result->planes[0]);
  EXPECT_EQ(counts.clipped, result->report.clipped);
}

TEST_P(GroupValuesTest, AreTheSameWhateverTheCutsThreadsAndBudget) {
  const absl::StatusOr<QuantizedTensor> first = Quantize(Cut::kWhole, 0);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string expected = Fingerprint(*first);
  for (const Cut cut : {Cut::kPrimes, Cut::kRandom}) {
    for (const int workers : {0, 3}) {
      const absl::StatusOr<QuantizedTensor> again = Quantize(cut, workers);
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(Fingerprint(*again), expected);
    }
  }
  PlanInputs inputs;
  inputs.importance_elems = GetParam().weights;
  int64_t budget = first->plan.resident_bytes;  // of one thread; the least is one stripe
  while (MakePlan(spec_, tensor_, budget * 9 / 10, inputs).ok()) budget = budget * 9 / 10;
  const absl::StatusOr<QuantizedTensor> tight = Quantize(Cut::kPrimes, 0, budget);
  ASSERT_TRUE(tight.ok()) << tight.status();
  EXPECT_EQ(Fingerprint(*tight), expected);
}

TEST_P(GroupValuesTest, ComeBackWithoutTheValues) {
  const absl::StatusOr<QuantizedTensor> packed = Quantize(Cut::kWhole, 0);
  ASSERT_TRUE(packed.ok()) << packed.status();
  Bench bench(1);
  // Whoever decodes knows neither weights nor values.
  const absl::StatusOr<Plan> plan = MakePlan(packed->plan.resolved.spec, tensor_, kPlenty,
                                             {.has_ranges = true});
  ASSERT_TRUE(plan.ok()) << plan.status();
  QuantizedTensor tensor = {.plan = *plan, .planes = packed->planes, .report = packed->report};
  const auto whole = DequantizeCut(tensor, DType::kF64, Cut::kWhole, bench.context());
  const auto cut = DequantizeCut(tensor, DType::kF64, Cut::kPrimes, bench.context());
  ASSERT_TRUE(whole.ok()) << whole.status();
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_TRUE(*whole == *cut);
}

INSTANTIATE_TEST_SUITE_P(Cases, GroupValuesTest, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) { return info.param.name; });

absl::Status StatusOf(absl::string_view spec, std::vector<int64_t> dims,
                      const QuantizeOptions& options = {}) {
  Bench bench(0);
  const TensorDesc tensor = MakeTensor("t", DType::kF32, std::move(dims));
  return QuantizeCut(*ParseSpec(spec), tensor, MakeValues(tensor, ValueKind::kNormal, 5),
                     Cut::kWhole, options, kPlenty, bench.context())
      .status();
}

TEST(GroupValuesRefusedTest, GroupsThatRecur) {
  for (const char* spec : {"ternary:axis=-1", "lloyd:axis=1"}) {
    const absl::Status status = StatusOf(spec, {40, 30});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_THAT(status.message(), HasSubstr("30 groups come again and again")) << spec;
    EXPECT_THAT(status.message(), HasSubstr("use per=tensor, axis=0 or group=")) << spec;
  }
  // Of a tensor of one batch the middle axis does not recur.
  EXPECT_TRUE(StatusOf("ternary:axis=1", {1, 40, 30}).ok());
}

TEST(GroupValuesRefusedTest, RangesAndCalibration) {
  QuantizeOptions options;
  options.ranges.assign(4, {-1, 1});
  for (const char* spec : {"ternary:axis=0", "lloyd:axis=0"}) {
    const absl::Status status = StatusOf(spec, {4, 30}, options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << spec;
    EXPECT_THAT(status.message(), HasSubstr("takes no ranges")) << spec;
    const absl::StatusOr<Plan> plan =
        MakePlan(*ParseSpec(spec), MakeTensor("t", DType::kF32, {4, 30}), kPlenty);
    ASSERT_TRUE(plan.ok()) << plan.status();
    Bench bench(0);
    const absl::Status calibrated =
        CalibrationSession::Create(*plan, {}, bench.context()).status();
    EXPECT_THAT(calibrated.message(), HasSubstr("of 4 groups is found from their values")) << spec;
  }
}

TEST(GroupValuesRefusedTest, ImportanceThatThePlanDoesNotKnow) {
  Bench bench(0);
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {4, 64});
  const absl::StatusOr<Plan> plan = MakePlan(*ParseSpec("q4_0"), tensor, kPlenty);
  ASSERT_TRUE(plan.ok()) << plan.status();
  testing::MemorySink sink(testing::PlaneBytes(plan->resolved.layout));
  QuantizeOptions options;
  options.importance = Weights(64);
  const absl::Status status =
      QuantizeSession::Create(*plan, options, sink, bench.context()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("counts on no importance"));
}

// A row whose energy overflows: all its blocks are as without weights. Those with a minimum have
// what their search begins with.
TEST(WeightedGgmlTest, SearchesThatOverflowAreNone) {
  for (const char* spec : {"q4_0", "q4_1", "q5_0", "q5_1"}) {
    SCOPED_TRACE(spec);
    Bench bench(0);
    const TensorDesc tensor = MakeTensor("t", DType::kF32, {2, 64});
    std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 5);
    const float far = 1e25f;
    std::memcpy(&values[12], &far, sizeof(far));
    QuantizeOptions weighted;
    weighted.importance = Weights(64);
    const auto with = QuantizeCut(*ParseSpec(spec), tensor, values, Cut::kWhole, weighted, kPlenty,
                                  bench.context());
    const auto without =
        QuantizeCut(*ParseSpec(spec), tensor, values, Cut::kWhole, {}, kPlenty, bench.context());
    ASSERT_TRUE(with.ok() && without.ok()) << with.status() << without.status();
    const auto half = static_cast<std::ptrdiff_t>(with->planes[0].size() / 2);
    const auto with_begin = with->planes[0].begin(), without_begin = without->planes[0].begin();
    if (spec[3] == '0') {
      EXPECT_TRUE(std::equal(with_begin, with_begin + half, without_begin));
    }
    EXPECT_FALSE(std::equal(with_begin + half, with->planes[0].end(), without_begin + half));
    const auto back = DequantizeCut(*with, DType::kF32, Cut::kWhole, bench.context());
    ASSERT_TRUE(back.ok()) << back.status();
    for (const double value : Widened(*back, DType::kF32)) EXPECT_TRUE(std::isfinite(value));
  }
}

// What the search makes small is smaller than without it: weight * sqrt(s + x^2) * error^2.
TEST(WeightedGgmlTest, HasLessWeightedError) {
  constexpr size_t kColumns = 512;
  for (const char* spec : {"q4_0", "q4_1", "q5_0", "q5_1"}) {
    Bench bench(0);
    const TensorDesc tensor = MakeTensor("t", DType::kF32, {64, kColumns});
    const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 5);
    const std::vector<double> x = Widened(values, DType::kF32);
    QuantizeOptions weighted;
    weighted.importance.assign(kColumns, 0.01f);
    for (size_t i = 0; i < kColumns; i += 4) weighted.importance[i] = 1;
    const auto error_with = [&](const QuantizeOptions& options) {
      const auto packed = QuantizeCut(*ParseSpec(spec), tensor, values, Cut::kWhole, options,
                                      kPlenty, bench.context());
      EXPECT_TRUE(packed.ok()) << packed.status();
      const auto back = DequantizeCut(*packed, DType::kF32, Cut::kWhole, bench.context());
      EXPECT_TRUE(back.ok()) << back.status();
      const std::vector<double> y = Widened(*back, DType::kF32);
      double sum = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const auto row = x.begin() + static_cast<std::ptrdiff_t>(i - i % kColumns);
        const double energy = std::inner_product(row, row + kColumns, row, 0.0) / kColumns;
        const double weight = weighted.importance[i % kColumns] * std::sqrt(energy + x[i] * x[i]);
        sum += weight * (x[i] - y[i]) * (x[i] - y[i]);
      }
      return sum;
    };
    EXPECT_LT(error_with(weighted), 0.95 * error_with({})) << spec;
  }
}

// Of the exact values, where those of the tensor are within 2^-8.
TEST(TernaryByGroupTest, FindsTheMeansOfItsPaper) {
  Bench bench(0);
  const std::vector<float> values = {2, -0.25f, 0, 1.5f, -1.5f, 0.75f,  //
                                     0, 0, 0, 0, 0, -0.0f};
  const auto result =
      QuantizeAll(*ParseSpec("ternary:axis=0"), MakeTensor("t", DType::kF32, {2, 6}),
                  std::as_bytes(std::span(values)), {}, bench.context());
  ASSERT_TRUE(result.ok()) << result.status();
  float scale[2], threshold[2];
  std::memcpy(scale, result->planes[1].data(), sizeof(scale));
  std::memcpy(threshold, result->planes[2].data(), sizeof(threshold));
  EXPECT_EQ(threshold[0], 0.7f);
  EXPECT_EQ(scale[0], (2 + 1.5f + 1.5f + 0.75f) / 4);
  EXPECT_EQ(threshold[1], 0);
  EXPECT_EQ(scale[1], 0);
}

// Each row has the levels that it would have alone.
TEST(LloydByGroupTest, RowsHaveLevelsOfTheirOwn) {
  Bench bench(0);
  const std::vector<float> values = {1, 1, 2, 2, 9, 9, 9, 9,  //
                                     -5, -5, -5, -5, -5, -5, -5, 3};
  const auto result =
      QuantizeAll(*ParseSpec("lloyd:axis=0,levels=2"), MakeTensor("t", DType::kF32, {2, 8}),
                  std::as_bytes(std::span(values)), {}, bench.context());
  ASSERT_TRUE(result.ok()) << result.status();
  float levels[4];
  std::memcpy(levels, result->planes[1].data(), sizeof(levels));
  EXPECT_EQ(std::vector<float>(levels, levels + 4), (std::vector<float>{1.5f, 9, -5, 3}));
  EXPECT_EQ(result->planes[0], (std::vector<std::byte>{std::byte{0xF0}, std::byte{0x80}}));
  EXPECT_EQ(result->plan.resolved.layout.planes[1].shape.Text(), "[2, 2]");
}

}  // namespace
}  // namespace quantd
