#include "core/stats/sketch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/stats/counted_values.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

Sketch SketchOf(const std::vector<float>& values) {
  Sketch sketch;
  for (const float value : values) sketch.Add(value);
  return sketch;
}

// Of all magnitudes that `octaves` have, both signs, and some zeros.
std::vector<float> RandomValues(std::mt19937& rng, size_t count, int octaves) {
  std::vector<float> values(count);
  for (float& value : values) {
    const auto mantissa = static_cast<float>(rng() % 1000000);
    const int exponent = static_cast<int>(rng() % static_cast<uint32_t>(octaves)) - octaves / 2;
    value = std::ldexp(rng() % 2 == 0 ? mantissa : -mantissa, exponent);
    if (rng() % 50 == 0) value = rng() % 2 == 0 ? 0.0f : -0.0f;
  }
  return values;
}

// What a value counts as, by the text of the format.
double CountsAs(float value, float largest) {
  const auto bucket = [](float x) { return std::bit_cast<uint32_t>(std::fabs(x)) >> 19; };
  const auto edge = [](uint32_t b) {
    return b == 0xFF0 ? 0x1p128 : double{std::bit_cast<float>(b << 19)};
  };
  const uint32_t own = bucket(value), top = bucket(largest);
  if (own == 0 || top - own >= 512) return 0;
  return std::copysign((edge(own) + edge(own + 1)) / 2, value);
}

// Sorted, one for each value.
std::vector<double> Expanded(const Sketch& sketch) {
  std::vector<double> values;
  for (const CountedValue& counted : ValuesOf(sketch)) {
    values.insert(values.end(), static_cast<size_t>(counted.count), counted.value);
  }
  std::sort(values.begin(), values.end());
  return values;
}

TEST(SketchTest, CountsValuesAsTheMiddleOfTheirBuckets) {
  std::mt19937 rng(11);
  for (int round = 0; round < 300; ++round) {
    const std::vector<float> values = RandomValues(rng, rng() % 300 + 1, round % 100 + 1);
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::fabs(value));
    std::vector<double> expected;
    for (const float value : values) {
      const double as = CountsAs(value, largest);
      expected.push_back(as);
      // The error that is promised.
      EXPECT_LE(std::fabs(as - value),
                std::max({std::fabs(value) * 0x1p-5, largest * 0x1p-31, 0x1p-130}));
    }
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(Expanded(SketchOf(values)), expected) << round;
    EXPECT_EQ(SketchOf(values).Count(), std::ssize(values));
  }
}

TEST(SketchTest, IsTheSameInAnyOrderAndHoweverMerged) {
  std::mt19937 rng(12);
  for (int round = 0; round < 300; ++round) {
    std::vector<float> values = RandomValues(rng, rng() % 200 + 1, round % 120 + 1);
    const Sketch whole = SketchOf(values);
    std::shuffle(values.begin(), values.end(), rng);
    EXPECT_EQ(SketchOf(values), whole) << round;
    const size_t cut = rng() % (values.size() + 1);
    const Sketch a = SketchOf({values.begin(), values.begin() + static_cast<long>(cut)});
    const Sketch b = SketchOf({values.begin() + static_cast<long>(cut), values.end()});
    Sketch merged = a;
    merged.Merge(b);
    EXPECT_EQ(merged, whole) << round;
    merged = b;
    merged.Merge(a);
    EXPECT_EQ(merged, whole) << round;
    merged.Merge(Sketch());
    EXPECT_EQ(merged, whole) << round;
  }
}

TEST(SketchTest, EndsOfFloats) {
  using Limits = std::numeric_limits<float>;
  const Sketch sketch = SketchOf({Limits::max(), Limits::lowest(), Limits::infinity(),
                                  -Limits::infinity(), Limits::quiet_NaN(), Limits::denorm_min()});
  const std::vector<CountedValue> values = ValuesOf(sketch);
  ASSERT_EQ(values.size(), 3u);
  EXPECT_EQ(values[0].value, 0);
  EXPECT_EQ(values[1].value, 0x1.Fp127 + 0x1p122);
  EXPECT_EQ(values[2].value, -values[1].value);
  EXPECT_EQ(sketch.Count(), 3);
  EXPECT_TRUE(ValuesOf(Sketch()).empty());
}

// Beside a value far away.
TEST(SketchTest, KeepsWhatIsLessThan32OctavesBelow) {
  const std::vector<CountedValue> near = ValuesOf(SketchOf({3.3f, 1e6f}));
  ASSERT_EQ(near.size(), 2u);
  EXPECT_NEAR(near[0].value, 3.3, 3.3 / 32);
  const std::vector<CountedValue> far = ValuesOf(SketchOf({3.3f, 1e11f, -3.3f}));
  ASSERT_EQ(far.size(), 2u);
  EXPECT_EQ(far[0].value, 0);
  EXPECT_EQ(far[0].count, 2);
}

}  // namespace
}  // namespace quantd
