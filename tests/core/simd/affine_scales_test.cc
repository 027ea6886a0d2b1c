#include "core/simd/affine_scales.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

struct Scale {
  double exact;
  float scale;
  int32_t zero_point;
};

Scale Naive(const ScaleRule& rule, double min, double max) {
  if (!(min <= max)) min = max = 0;
  const double low = std::min(min, 0.0), high = std::max(max, 0.0);
  const double exact =
      (rule.symmetric ? std::max(std::fabs(min), std::fabs(max)) : high - low) / rule.divisor;
  const float scale =
      exact == 0 ? 1 : static_cast<float>(std::clamp<double>(exact, FLT_MIN, FLT_MAX));
  const double zero_point = std::nearbyint(rule.min_code - low / static_cast<double>(scale));
  return {exact, scale,
          static_cast<int32_t>(std::clamp<double>(zero_point, rule.min_code, rule.max_code))};
}

class AffineScalesTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

TEST_P(AffineScalesTest, EqualTheRuleForEveryNumberOfRanges) {
  const double kSpecial[] = {0,       -0.0,     1,      -1,       FLT_MAX,   -FLT_MAX, FLT_MIN / 4,
                             DBL_MAX, -DBL_MAX, 5e-324, INFINITY, -INFINITY, 127,      NAN};
  std::mt19937 rng(3);
  for (int round = 0; round < 3000; ++round) {
    ScaleRule rule;
    rule.symmetric = rng() % 2 == 0;
    const int bits = std::vector{4, 8, 16}[rng() % 3];
    rule.min_code = rng() % 2 == 0 ? 0 : -(1 << (bits - 1));
    rule.max_code = rule.min_code + (1 << bits) - 1;
    rule.divisor = rule.symmetric ? (1 << (bits - 1)) - 1 : (1 << bits) - 1;
    rule.largest = rng() % 2 == 0 ? FLT_MAX : 0x1p30;
    const size_t count = rng() % 40;
    const bool special = rng() % 2 == 0;
    std::vector<double> ranges(2 * count);
    for (double& end : ranges) {
      end = special && rng() % 4 == 0 ? kSpecial[rng() % std::size(kSpecial)]
                                      : std::ldexp(rng() * 0x1p-31 - 1, rng() % 40);
    }
    std::vector<float> scales(count + 1, 7);
    std::vector<int32_t> zero_points(count + 1, 77);
    const size_t done = static_cast<size_t>(ResolveScales(
        rule, ranges.data(), static_cast<int64_t>(count), scales.data(), zero_points.data()));
    for (size_t i = 0; i < count; ++i) {
      const Scale want = Naive(rule, ranges[2 * i], ranges[2 * i + 1]);
      if (want.exact > rule.largest) {  // left to the caller
        ASSERT_EQ(done, i);
        break;
      }
      ASSERT_LT(i, done);
      ASSERT_EQ(scales[i], want.scale) << ranges[2 * i] << ".." << ranges[2 * i + 1];
      if (rule.symmetric) continue;
      ASSERT_EQ(zero_points[i], want.zero_point) << ranges[2 * i];
    }
    ASSERT_EQ(scales.back(), 7);
    ASSERT_EQ(zero_points.back(), 77);
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, AffineScalesTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
