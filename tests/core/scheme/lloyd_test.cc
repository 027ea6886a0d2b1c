// The levels that the learned codebook finds.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/scheme/registry.h"
#include "core/session/planner.h"
#include "core/stats/histogram.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::MakeTensor;

// Returns the levels for a tensor of these values.
template <size_t kLevels = 16>
std::array<float, kLevels> Learn(const std::vector<float>& values, DType dtype = DType::kF32) {
  const TensorDesc tensor = MakeTensor("t", dtype, {std::ssize(values)});
  const absl::StatusOr<Plan> plan = MakePlan({.scheme = "lloyd", .levels = kLevels}, tensor, int64_t{1} << 40);
  EXPECT_TRUE(plan.ok()) << plan.status();
  Histogram histogram;
  histogram.Add(values);
  std::array<float, kLevels> levels;
  ParamPlanes out;
  out.planes[1] = std::as_writable_bytes(std::span(levels));
  plan->scheme->resolve_constants(plan->resolved, {.histogram = &histogram}, out);
  EXPECT_TRUE(std::is_sorted(levels.begin(), levels.end()));
  return levels;
}

double MeanError(const std::vector<float>& values, std::span<const float> levels) {
  double sum = 0;
  for (const float x : values) {
    double least = INFINITY;
    for (const float level : levels) least = std::min(least, std::fabs(double{x} - level));
    sum += least * least;
  }
  return sum / static_cast<double>(values.size());
}

// Values of a normal distribution (Box and Muller).
std::vector<float> NormalValues(int count) {
  std::mt19937 rng(7);
  const auto unit = [&] { return (static_cast<double>(rng()) + 0.5) * 0x1p-32; };
  std::vector<float> values;
  for (int i = 0; i < count; ++i) {
    const double radius = std::sqrt(-2 * std::log(unit()));
    values.push_back(static_cast<float>(radius * std::cos(2 * M_PI * unit())));
  }
  return values;
}

TEST(LloydTest, ReachesTheLeastErrorOfANormalDistribution) {
  const std::vector<float> values = NormalValues(400000);
  // 0.009497 is the least possible (Max 1960, table I, N = 16).
  EXPECT_NEAR(MeanError(values, Learn(values)), 0.009497, 0.0001);
  EXPECT_NEAR(MeanError(values, Learn<2>(values)), 0.3634, 0.003);
  EXPECT_NEAR(MeanError(values, Learn<8>(values)), 0.03454, 0.0004);
  // More levels settle slower: 64 rounds leave a twentieth of the least error for 32, and for 256,
  // by the formula of Panter and Dite, half of it.
  EXPECT_NEAR(MeanError(values, Learn<32>(values)), 0.002499, 0.002499 / 20);
  EXPECT_NEAR(MeanError(values, Learn<256>(values)), 2.72 / 65536, 2.72 / 65536 / 2);
}

TEST(LloydTest, GivesEachOfFewValuesALevel) {
  std::vector<float> values;
  for (int k = 0; k < 16; ++k) {
    values.insert(values.end(), size_t{1} << k, static_cast<float>(k - 5));
  }
  const std::array<float, 16> levels = Learn(values, DType::kBf16);
  for (size_t k = 0; k < 16; ++k) EXPECT_EQ(levels[k], static_cast<float>(k) - 5);
}

TEST(LloydTest, SpendsOneLevelOnASpike) {
  std::vector<float> values = NormalValues(20000);
  const double alone = MeanError(values, Learn(values));
  values.insert(values.end(), 180000, 0.0f);
  const std::array<float, 16> levels = Learn(values);
  EXPECT_EQ(std::adjacent_find(levels.begin(), levels.end()), levels.end());
  EXPECT_LT(MeanError(values, levels), alone * 0.1 * 1.2);
}

TEST(LloydTest, TakesTheOneValueOfABucketWhereThereIsOne) {
  const std::vector<float> values(10, 1.5f);
  for (const float level : Learn(values, DType::kBf16)) EXPECT_EQ(level, 1.5f);
  for (const float level : Learn(values)) EXPECT_EQ(level, 1.50390625f);  // the midpoint
}

TEST(LloydTest, HoldsAllMagnitudes) {
  const float largest = std::numeric_limits<float>::max();
  for (const float level : Learn({-largest, largest, 0, 1e-45f, -1e-45f, 1e30f})) {
    EXPECT_TRUE(std::isfinite(level));
  }
  for (const float level : Learn({NAN, INFINITY})) EXPECT_EQ(level, 0);
}

}  // namespace
}  // namespace quantd
