// Payload, parameters and figures depend on the values and the spec alone: not on the SIMD target,
// the threads, the cuts of the input, or the memory budget; and they come back the same way.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/scheme/registry.h"
#include "core/simd/targets.h"
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

constexpr int64_t kPlenty = int64_t{1} << 32;

struct Case {
  std::string name;
  std::string spec;
  DType dtype;
  std::vector<int64_t> dims;
  ValueKind kind = ValueKind::kNormal;
};

std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const Scheme* scheme : AllSchemes()) {
    const std::string name(scheme->info.name);
    // Rows of whole blocks for every scheme; more than a window, and not whole tiles.
    cases.push_back({name + "_default", name, DType::kF32, {700, 512}});
    cases.push_back({name + "_f64", name, DType::kF64, {31, 256}});
    cases.push_back({name + "_f16", name, DType::kF16, {45, 256}});
    cases.push_back({name + "_bf16", name, DType::kBf16, {45, 256}});
    cases.push_back({name + "_int64", name, DType::kInt64, {9, 256}, ValueKind::kWide});
    cases.push_back({name + "_uint8", name, DType::kUint8, {9, 256}, ValueKind::kWide});
    cases.push_back({name + "_outliers", name + ":outliers=2", DType::kF32, {150, 512}});
    const std::vector<NonFinite>& policies = scheme->info.nonfinites;
    if (std::find(policies.begin(), policies.end(), NonFinite::kSaturate) == policies.end()) {
      continue;
    }
    cases.push_back({name + "_saturate",
                     absl::StrCat(name, ":nonfinite=saturate"),
                     DType::kF32,
                     {31, 256},
                     ValueKind::kNonFinite});
  }
  const auto add = [&](std::string name, std::string spec, std::vector<int64_t> dims,
                       DType dtype = DType::kF32) {
    cases.push_back({std::move(name), std::move(spec), dtype, std::move(dims)});
  };
  add("outliers_words", "int3:layout=words,group=41,tail=short,outliers=3", {200, 513});
  add("outliers_values", "ternary:axis=0,outliers=2", {200, 513});
  add("outliers_sketches", "int8:axis=-1,range=p90,outliers=2", {301, 401});
  add("axis0", "int8:axis=0", {601, 513});
  add("axis0_long_rows", "int8:axis=0,range=3sigma", {3, 300001});
  add("axis1_of_3", "int8:axis=1,range=2.5sigma", {5, 7, 9001});
  add("columns", "int8:axis=-1", {801, 401});
  add("columns_sigma", "uint8:axis=1,range=2sigma", {801, 401});
  add("columns_f64", "uint8:axis=1,range=2sigma", {81, 41}, DType::kF64);
  add("few_columns", "uint4:axis=1", {100003, 3});
  add("group", "int8:group=128,mode=full", {601, 512});
  add("group_tail", "uint4:group=7,tail=short", {5003, 61});
  // Groups of odd length that end in the middle of a byte: bands of two rows, longer than a stripe.
  add("group_ragged", "uint4:group=32767,tail=short", {5, 50001});
  // What decoding wants lies behind the row, in another stripe.
  add("trailers_long_rows", "fbgemm_rowwise8", {3, 150001});
  cases.push_back(
      {"trailers_wide", "fbgemm_rowwise8", DType::kF64, {20, 5001}, ValueKind::kWide});
  add("block_ragged", "uint4:block=3x7,tail=short", {7, 30001});
  add("block_long", "int8:block=100x1,tail=short", {150, 5001});
  add("group_long", "int16:group=70000,tail=short,mode=asymmetric", {2, 150001});
  add("block", "int8:block=32x48,tail=short", {500, 610});
  add("block_batches", "uint8:block=3x100,tail=short,range=3sigma", {7, 20, 250});
  add("odd_uint4", "uint4", {300001});
  add("sigma", "int8:range=3sigma", {300001});
  add("percentile", "uint8:range=p99.9", {300001});
  add("percentile_small", "int8:range=p90", {999});
  add("percentile_group", "int4:group=7,tail=short,range=p70", {5003, 61});
  add("percentile_long_rows", "uint8:axis=0,range=p99", {3, 150001});
  add("percentile_block", "int8:block=16x100,tail=short,range=p90", {40, 5001}, DType::kF64);
  add("percentile_nested", "nf4:scale_type=nested8,range=p95", {3000, 64});
  add("mse", "int4:range=mse", {100001});
  add("mse_group", "uint4:group=7,tail=short,range=mse", {503, 61});
  add("mse_long_rows", "int3:axis=0,range=mse", {2, 70001});
  add("mse_block", "int4:block=16x100,tail=short,range=mse", {20, 5001}, DType::kF64);
  add("percentile_columns", "uint8:axis=-1,range=p90", {201, 333});
  add("percentile_middle", "int4:axis=1,range=p90", {20, 70, 61}, DType::kF64);
  add("mse_columns", "int4:axis=-1,range=mse", {301, 333});
  add("entropy_columns", "int8:axis=-1,range=entropy", {1001, 120});
  add("entropy", "int8:range=entropy", {100001});
  add("entropy_group", "uint8:group=77,tail=short,range=entropy", {103, 161});
  add("ternary_group", "ternary:group=7,tail=short", {5003, 61});
  add("lloyd_rows", "lloyd:axis=0,levels=8", {101, 513});
  add("given", "int8:range=-1..1.5,group=64", {4999, 64});
  add("given_long_rows", "int8:range=-1..1,axis=0", {3, 300000});
  add("outright", "uint4:scale=0.03,zero=7", {300001});
  add("stochastic", "int8:round=stochastic,seed=42", {300001});
  add("stochastic_half", "fp16:round=stochastic,seed=42", {300001});
  add("truncate_scale_type", "int8:round=truncate,scale_type=f16,axis=0", {300, 1001});
  add("pow2", "int16:scale_type=pow2", {70001});
  add("padded_rows", "q8_0:tail=pad", {5000, 33});
  add("padded_long_rows", "q8_0:tail=pad", {3, 100001});
  add("padded_nvfp4", "nvfp4:tail=pad", {3001, 33});
  add("outliers_long_bands", "int4:axis=1,outliers=3", {3, 40, 2001}, DType::kF16);
  add("outliers_columns", "int8:axis=-1,outliers=1,range=2sigma", {801, 401});
  add("outliers_group_ragged", "uint3:group=7,tail=short,outliers=9", {503, 1001});
  add("outliers_all", "int8:outliers=65536,axis=0", {3, 65536});
  add("outliers_percentile", "int8:outliers=2,range=p99", {3, 50001});
  add("outliers_trailers", "fbgemm_rowwise8:outliers=2", {20, 5001});
  add("dyadic16", "uint8:scale_type=dyadic16,axis=0", {300, 1001});
  add("dyadic16_columns", "int16:scale_type=dyadic16,axis=-1,mode=asymmetric", {300, 101},
      DType::kF64);
  add("nf4_short", "nf4:group=128", {300001});
  add("empty", "int8:axis=0", {0, 5});
  add("scalar", "int8", {});
  add("one", "uint4", {1});
  return cases;
}

class SameBytesTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& param = GetParam();
    spec_ = *ParseSpec(param.spec);
    tensor_ = MakeTensor("model.layer." + param.name, param.dtype, param.dims);
    values_ = MakeValues(tensor_, param.kind, 99);
  }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  QuantizedTensor Quantize(Cut cut, int workers, int64_t session_budget = kPlenty,
                           const QuantizeOptions& options = {}) {
    Bench bench(workers);
    absl::StatusOr<QuantizedTensor> result =
        QuantizeCut(spec_, tensor_, values_, cut, options, session_budget, bench.context());
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(bench.budget.used_bytes(), 0);
    return result.ok() ? *std::move(result) : QuantizedTensor{};
  }

  QuantSpec spec_;
  TensorDesc tensor_;
  std::vector<std::byte> values_;
};

TEST_P(SameBytesTest, WhateverTheTarget) {
  const std::string expected = Fingerprint(Quantize(Cut::kWhole, 0));
  RecordProperty("fingerprint", expected);  // which tests/aarch64 compares to another machine's
  for (const std::string& target : SupportedSimdTargets()) {
    ASSERT_TRUE(ChooseSimdTarget(target).ok());
    EXPECT_EQ(Fingerprint(Quantize(Cut::kWhole, 1)), expected) << target;
  }
}

TEST_P(SameBytesTest, WhateverTheCutsAndThreads) {
  const std::string expected = Fingerprint(Quantize(Cut::kWhole, 0));
  for (const int workers : {0, 1, 4}) {
    for (const Cut cut : testing::kAllCuts) {
      EXPECT_EQ(Fingerprint(Quantize(cut, workers)), expected)
          << "cut " << static_cast<int>(cut) << ", " << workers << " workers";
    }
  }
}

TEST_P(SameBytesTest, WhateverTheBudget) {
  const QuantizedTensor expected = Quantize(Cut::kWhole, 1);
  // As little as can be planned for: where the tensor does not fit, it goes in two passes.
  int64_t budget = 1;
  absl::StatusOr<Plan> plan;
  do {
    budget *= 2;
    plan = MakePlan(spec_, tensor_, budget, {.threads = 2});
  } while (!plan.ok() && budget < kPlenty);
  ASSERT_TRUE(plan.ok()) << plan.status();
  QuantizeOptions options;
  if (plan->pass == Pass::kTwoPass) {
    Bench bench(1);
    const absl::StatusOr<CalibrationState> state =
        CalibrateCut(*plan, values_, Cut::kPrimes, {}, bench.context());
    ASSERT_TRUE(state.ok()) << state.status();
    const absl::StatusOr<CalibratedRanges> ranges = RangesOf(*plan, *state);
    ASSERT_TRUE(ranges.ok()) << ranges.status();
    options.ranges = ranges->groups;
    options.tensor_range = ranges->tensor;
    options.histogram = ranges->histogram;
  }
  EXPECT_EQ(Fingerprint(Quantize(Cut::kPrimes, 1, budget, options)), Fingerprint(expected))
      << "budget " << budget << ", pass " << NameOf(plan->pass);
}

TEST_P(SameBytesTest, DecodedInAnyCuts) {
  const QuantizedTensor tensor = Quantize(Cut::kWhole, 1);
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kF16, DType::kBf16}) {
    Bench bench(0);
    const auto expected = DequantizeCut(tensor, dtype, Cut::kWhole, bench.context());
    ASSERT_TRUE(expected.ok()) << expected.status();
    for (const std::string& target : SupportedSimdTargets()) {
      ASSERT_TRUE(ChooseSimdTarget(target).ok());
      Bench other(2);
      const auto decoded = DequantizeCut(tensor, dtype, Cut::kPrimes, other.context());
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      EXPECT_EQ(*decoded == *expected, true) << target << " to " << NameOf(dtype);
    }
    const auto bytewise = DequantizeCut(tensor, dtype, Cut::kOneByte, bench.context());
    ASSERT_TRUE(bytewise.ok()) << bytewise.status();
    EXPECT_EQ(*bytewise == *expected, true) << NameOf(dtype);
  }
}

// All of it at once, for the defaults of every scheme.
class EveryCombinationTest : public ::testing::TestWithParam<const Scheme*> {};

TEST_P(EveryCombinationTest, HasOneHash) {
  const TensorDesc tensor = MakeTensor("w", DType::kF32, {90, 512});
  const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 3);
  const QuantSpec spec = {.scheme = std::string(GetParam()->info.name)};
  std::string expected;
  int combinations = 0;
  for (const std::string& target : SupportedSimdTargets()) {
    ASSERT_TRUE(ChooseSimdTarget(target).ok());
    for (const int workers : {0, 1, 4}) {  // beside the caller
      Bench bench(workers);
      for (const Cut cut : testing::kAllCuts) {
        for (const bool two_pass : {false, true}) {
          QuantizeOptions options;
          if (two_pass) {
            const Plan plan = *MakePlan(spec, tensor, kPlenty);
            const auto state = CalibrateCut(plan, values, cut, {}, bench.context());
            ASSERT_TRUE(state.ok()) << state.status();
            const CalibratedRanges ranges = *RangesOf(plan, *state);
            options.ranges = ranges.groups;
            options.tensor_range = ranges.tensor;
            options.histogram = ranges.histogram;
          }
          const auto result =
              QuantizeCut(spec, tensor, values, cut, options, kPlenty, bench.context());
          ASSERT_TRUE(result.ok()) << result.status();
          const std::string hash = Fingerprint(*result);
          if (expected.empty()) expected = hash;
          EXPECT_EQ(hash, expected) << target << ", " << workers << " workers, cut "
                                    << static_cast<int>(cut) << ", two passes " << two_pass;
          ++combinations;
        }
      }
    }
  }
  ASSERT_TRUE(ChooseSimdTarget("").ok());
  EXPECT_EQ(combinations, static_cast<int>(SupportedSimdTargets().size()) * 3 * 4 * 2);
}

// Windows of several leaves of the digest, whose tasks begin in the middle of tiles and leaves.
TEST(LargeTensorTest, IsTheSameInOneTaskAndInMany) {
  const TensorDesc tensor = MakeTensor("w", DType::kF32, {1700, 3001});
  const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 11);
  for (const char* text :
       {"int8:axis=0", "uint4:axis=0", "int8:group=77,tail=short", "int8:block=3x500,tail=short",
        "int8:scale=0.01", "fp16", "int8:axis=0,range=3sigma", "int8:group=77,tail=short,range=p95",
        "uint4:range=p99"}) {
    const QuantSpec spec = *ParseSpec(text);
    std::string expected;
    for (const int workers : {0, 1, 4}) {  // beside the caller
      Bench bench(workers);
      const auto whole = QuantizeAll(spec, tensor, values, {}, bench.context());
      ASSERT_TRUE(whole.ok()) << text << ": " << whole.status();
      EXPECT_EQ(whole->report.digests[0], DigestOf(whole->planes[0])) << text;
      const auto cut =
          QuantizeCut(spec, tensor, values, Cut::kRandom, {}, kPlenty, bench.context());
      ASSERT_TRUE(cut.ok()) << text << ": " << cut.status();
      if (expected.empty()) expected = Fingerprint(*cut);
      EXPECT_EQ(Fingerprint(*whole), expected) << text << ", " << workers << " workers";
      EXPECT_EQ(Fingerprint(*cut), expected) << text << ", " << workers << " workers";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, EveryCombinationTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

INSTANTIATE_TEST_SUITE_P(Cases, SameBytesTest, ::testing::ValuesIn(AllCases()),
                         [](const ::testing::TestParamInfo<Case>& info) {
                           return info.param.name;
                         });

}  // namespace
}  // namespace quantd
