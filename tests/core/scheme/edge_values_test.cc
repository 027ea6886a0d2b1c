// Zero, subnormal and extreme input have a stated result in every scheme.
#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
#include "tests/support/cuts.h"
#include "tests/support/specs.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using testing::MakeTensor;

class EdgeValuesTest : public ::testing::TestWithParam<const Scheme*> {
 protected:
  // Quantizes two rows of 256 values, of which the first ones are `values` and the rest 0, and
  // gives them back as f64.
  template <typename T>
  std::vector<double> RoundTrip(std::vector<T> values, absl::string_view key = "") {
    values.resize(kElems);
    const TensorDesc tensor =
        MakeTensor("t", sizeof(T) == 4 ? DType::kF32 : DType::kF64, {2, kElems / 2});
    const auto result = QuantizeAll(*ParseSpec(absl::StrCat(GetParam()->info.name, key)), tensor,
                                    std::as_bytes(std::span(values)), {}, bench_.context());
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) return {};
    report_ = result->report;
    const auto decoded = DequantizeCut(*result, DType::kF64, Cut::kWhole, bench_.context());
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    std::vector<double> wide(values.size());
    std::memcpy(wide.data(), decoded->data(), decoded->size());
    return wide;
  }

  static constexpr int64_t kElems = 512;

  // The largest magnitude that a code without a scale has, or what any scale reaches.
  double Reach() const {
    static constexpr std::pair<absl::string_view, double> kLargest[] = {
        {"fp8_e4m3", 448}, {"fp8_e5m2", 57344}, {"fp6_e2m3", 7.5}, {"fp6_e3m2", 28},
        {"fp4_e2m1", 6}};
    for (const auto& [name, largest] : kLargest) {
      if (GetParam()->info.name == name) return largest;
    }
    return 65000;
  }

  // True of formats whose parameters their own projects let overflow, with whose bytes ours are
  // equal. What becomes of such values is bad, but it is told.
  bool OverflowsAsItsProjectDoes() const {
    const absl::string_view name = GetParam()->info.name;
    return name == "fbgemm_rowwise8" || absl::StartsWith(name, "mlx_q") ||
           testing::AlwaysSearches(*GetParam());
  }
  // True if the last values have become what they are, or the figures say that they have not.
  void ExpectReached(const std::vector<double>& decoded) {
    if (OverflowsAsItsProjectDoes()) {
      EXPECT_GT(report_.figures.max_error, 65000);
      return;
    }
    EXPECT_GE(decoded[0], Reach());
    EXPECT_LE(decoded[1], -Reach());
    for (const double value : decoded) EXPECT_TRUE(std::isfinite(value));
  }

  Bench bench_{0};
  EncodingReport report_;
};

TEST_P(EdgeValuesTest, ZerosStayZeros) {
  for (const double value : RoundTrip(std::vector<float>{0.0f, -0.0f})) EXPECT_EQ(value, 0);
  EXPECT_TRUE(report_.figures.Lossless());
  EXPECT_FALSE(report_.figures.SqnrDb());
  EXPECT_EQ(report_.clipped, 0);
  for (const double value : RoundTrip(std::vector<double>{0.0, -0.0})) EXPECT_EQ(value, 0);
}

TEST_P(EdgeValuesTest, SubnormalsDoNotGrow) {
  const std::vector<float> values = {FLT_MIN / 2, -FLT_MIN / 4, FLT_TRUE_MIN, -FLT_TRUE_MIN};
  const std::vector<double> decoded = RoundTrip(values);
  for (size_t i = 0; i < decoded.size(); ++i) EXPECT_LE(std::fabs(decoded[i]), FLT_MIN) << i;
  EXPECT_EQ(report_.clipped, 0);
  EXPECT_EQ(report_.figures.count, kElems);
  for (const double value : RoundTrip(std::vector<double>{DBL_MIN, -DBL_TRUE_MIN})) {
    EXPECT_LE(std::fabs(value), FLT_MIN);
  }
}

TEST_P(EdgeValuesTest, TheLargestKeepTheirSign) {
  const std::vector<double> decoded = RoundTrip(std::vector<float>{FLT_MAX, -FLT_MAX, 1});
  ExpectReached(decoded);
  EXPECT_EQ(decoded[kElems / 2], 0);
}

TEST_P(EdgeValuesTest, DoublesBeyondF32Saturate) {
  for (const double reach : {1e39, 1e42, 1e100, DBL_MAX}) {
    const std::vector<double> decoded = RoundTrip(std::vector<double>{reach, -reach, 1});
    ExpectReached(decoded);
    if (reach > 1e100 && !OverflowsAsItsProjectDoes()) {
      EXPECT_EQ(report_.clipped, GetParam()->info.name == "f64" ? 0 : 2);
    }
  }
}

TEST_P(EdgeValuesTest, StraysSaturate) {
  const std::vector<NonFinite>& policies = GetParam()->info.nonfinites;
  if (std::find(policies.begin(), policies.end(), NonFinite::kSaturate) == policies.end()) {
    const bool is_fbgemm = absl::StartsWith(GetParam()->info.name, "fbgemm_rowwise");
    EXPECT_TRUE(OverflowsAsItsProjectDoes() || is_fbgemm);  // which refuse such values
    return;
  }
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<double> decoded =
      RoundTrip(std::vector<float>{std::nanf(""), kInf, -kInf, 1, -1}, ":nonfinite=saturate");
  // Minima inside, which these formats' levels begin with, put 0 between two of them.
  const absl::string_view name = GetParam()->info.name;
  EXPECT_NEAR(decoded[0], 0, name == "q4_1" ? 0.07 : name == "q5_1" ? 0.035 : 0);
  // The four codes of uint2 have 2 / 3 on one side of 0 and 4 / 3 on the other.
  const double least = name == "uint2" ? 0.66 : 0.7;
  EXPECT_GT(decoded[1], least);
  EXPECT_LT(decoded[2], -least);
  EXPECT_EQ(report_.non_finite, 3);
  EXPECT_EQ(report_.figures.count, kElems - 3);
}

// Formats of one bit have no code for 0: what they keep of any value is on which side of it it lies.
class OneBitTest : public EdgeValuesTest {};

TEST_P(OneBitTest, EverySignComesBack) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {FLT_TRUE_MIN, -FLT_TRUE_MIN, FLT_MIN, -FLT_MIN, 1,  -1,
                                     FLT_MAX,      -FLT_MAX,      kInf,    -kInf,    0.5};
  const std::vector<double> decoded = RoundTrip(values, ":nonfinite=saturate");
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(decoded[i] > 0, values[i] > 0) << i;
  EXPECT_EQ(report_.non_finite, 2);
  const std::vector<double> wide = {DBL_TRUE_MIN, -DBL_TRUE_MIN, 1e300, -1e300, DBL_MAX, -DBL_MAX};
  const std::vector<double> decoded_wide = RoundTrip(wide);
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_EQ(decoded_wide[i] > 0, wide[i] > 0) << i;
  for (const double value : decoded_wide) EXPECT_TRUE(std::isfinite(value));
}

TEST_P(OneBitTest, ZerosAndNanHaveOneSign) {
  const std::vector<double> zeros = RoundTrip(std::vector<float>{0.0f, -0.0f});
  EXPECT_EQ(report_.clipped, 0);
  for (const double value : zeros) EXPECT_EQ(value, zeros[0]);
  const std::vector<double> strays =
      RoundTrip(std::vector<float>{std::nanf(""), 0.0f, -0.0f, 1}, ":nonfinite=saturate");
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(strays[i], strays[4]);
}

std::vector<const Scheme*> SchemesOfOneBit(bool one) {
  std::vector<const Scheme*> schemes;
  for (const Scheme* scheme : AllSchemes()) {
    if ((scheme->info.bits == 1) == one) schemes.push_back(scheme);
  }
  return schemes;
}

std::string NameOfScheme(const ::testing::TestParamInfo<const Scheme*>& info) {
  return std::string(info.param->info.name);
}

INSTANTIATE_TEST_SUITE_P(Schemes, EdgeValuesTest, ::testing::ValuesIn(SchemesOfOneBit(false)),
                         NameOfScheme);
INSTANTIATE_TEST_SUITE_P(Schemes, OneBitTest, ::testing::ValuesIn(SchemesOfOneBit(true)),
                         NameOfScheme);

}  // namespace
}  // namespace quantd
