#include "core/scheme/nested_scales.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

namespace quantd {
namespace {

TEST(NestedScalesTest, LevelsAscendTo1) {
  const std::array<float, 256>& levels = NestedLevels();
  EXPECT_TRUE(std::is_sorted(levels.begin(), levels.end()));
  EXPECT_EQ(levels[127], 0);
  EXPECT_EQ(levels[255], 1);
  EXPECT_FLOAT_EQ(levels[0], -0.99296875f);
}

TEST(NestedScalesTest, CodesAreNearestButAroundZero) {
  const std::array<float, 256>& levels = NestedLevels();
  std::vector<float> scales(256);
  std::vector<uint8_t> codes(256);
  for (int offset = 0; offset < 200; ++offset) {
    for (size_t i = 0; i < 256; ++i) {
      scales[i] = static_cast<float>(i) * 0.37f + static_cast<float>(offset);
    }
    const float middle = static_cast<float>(offset) + 40;
    const float nested = EncodeNestedScales(scales, middle, codes.data());
    for (size_t i = 0; i < 256; ++i) {
      const float t = (scales[i] - middle) / nested;
      float nearest = INFINITY;
      for (const float level : levels) nearest = std::min(nearest, std::fabs(level - t));
      // A bin is 2 / 65535 wide.
      EXPECT_LE(std::fabs(levels[codes[i]] - t), nearest + 4.0f / 65535) << t;
    }
  }
}

TEST(NestedScalesTest, ZeroHasTheCodeOfItsBin) {
  const std::vector<float> scales = {5, 6, 4};
  std::array<uint8_t, 3> codes;
  EXPECT_EQ(EncodeNestedScales(scales, 5, codes.data()), 1);
  EXPECT_EQ(codes, (std::array<uint8_t, 3>{131, 255, 0}));
}

TEST(NestedScalesTest, TheLargestStayFinite) {
  constexpr float kMax = std::numeric_limits<float>::max();
  std::vector<float> scales(64, kMax);
  scales.back() = 0;
  std::vector<uint8_t> codes(64);
  const float offset = static_cast<float>(63.0 / 64 * kMax);
  const float nested = EncodeNestedScales(scales, offset, codes.data());
  for (size_t i = 0; i < 64; ++i) {
    const float restored = NestedLevels()[codes[i]] * nested + offset;
    EXPECT_TRUE(std::isfinite(restored));
    EXPECT_NEAR(restored / kMax, scales[i] / kMax, 0.01);
  }
}

TEST(NestedScalesTest, ScalesThatAreEqualNeedNoRest) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  for (const float difference : {0.0f, tiny}) {
    const std::vector<float> scales(256, 3 * tiny + difference);
    std::vector<uint8_t> codes(256, 1);
    EXPECT_EQ(EncodeNestedScales(scales, 3 * tiny, codes.data()), 0);
    EXPECT_EQ(codes, std::vector<uint8_t>(256, 0));
  }
}

}  // namespace
}  // namespace quantd
