// The means that ternary finds, and its rule at the threshold.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <span>
#include <vector>

#include "core/scheme/spec.h"
#include "core/session/quantize_session.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::MakeTensor;

struct Found {
  float scale, threshold;
  std::vector<int> codes;
};

Found Quantize(const std::vector<float>& values) {
  Bench bench(0);
  const auto result = QuantizeAll(*ParseSpec("ternary"),
                                  MakeTensor("t", DType::kF32, {std::ssize(values)}),
                                  std::as_bytes(std::span(values)), {}, bench.context());
  EXPECT_TRUE(result.ok()) << result.status();
  Found found;
  std::memcpy(&found.scale, result->planes[1].data(), sizeof(float));
  std::memcpy(&found.threshold, result->planes[2].data(), sizeof(float));
  for (size_t i = 0; i < values.size(); ++i) {
    found.codes.push_back(std::to_integer<int>(result->planes[0][i / 4]) >> i % 4 * 2 & 3);
  }
  return found;
}

TEST(TernaryTest, FindsTheMeansOfItsPaper) {
  // Within 2^-8 each: 0.7 times the mean, 1, and the mean of 2, 1.5, 1.5, which are above that.
  const Found found = Quantize({2, -0.25f, 0, 1.5f, -1.5f, 0.75f});
  EXPECT_NEAR(found.threshold, 0.7, 0.7 / 256);
  EXPECT_NEAR(found.scale, (2 + 1.5 + 1.5 + 0.75) / 4, 1.5 / 256);
  EXPECT_EQ(found.codes, (std::vector<int>{1, 0, 0, 1, 3, 1}));
}

TEST(TernaryTest, TheThresholdIsZero) {
  const float t = Quantize({2, -0.25f, 0, 1.5f, -1.5f, 0.75f}).threshold;
  const float above = std::nextafter(t, 1.0f);
  // Of the same buckets, so that the means stay.
  std::vector<float> values = {2, -0.25f, 0, 1.5f, -1.5f, 0.75f};
  const size_t count = values.size();
  values.reserve(2002 * count);
  for (int i = 0; i < 2000; ++i) std::copy_n(values.begin(), count, std::back_inserter(values));
  values.insert(values.end(), {t, -t, above, -above});
  const Found found = Quantize(values);
  const float moved = found.threshold;  // by little: four values among thousands
  EXPECT_NEAR(moved, t, 1e-3);
  const Found again = Quantize([&] {
    std::fill(values.end() - 4, values.end(), 0.0f);
    for (size_t i = 0; i < 4; ++i) {
      const float beside = i < 2 ? moved : std::nextafter(moved, 1.0f);
      values[values.size() - 4 + i] = i % 2 == 0 ? beside : -beside;
    }
    return values;
  }());
  ASSERT_EQ(again.threshold, moved);
  EXPECT_EQ(std::vector<int>(again.codes.end() - 4, again.codes.end()),
            (std::vector<int>{0, 0, 1, 3}));
}

TEST(TernaryTest, HoldsAllMagnitudes) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const float value : {kLargest, 1e-45f, 1e30f, 1.0f}) {
    const Found found = Quantize(std::vector<float>(1000, -value));
    EXPECT_TRUE(std::isfinite(found.scale));
    // Buckets of subnormal values are 2^-133 wide.
    EXPECT_LE(std::fabs(found.scale - value), std::max(value / 256, 0x1p-133f));
    for (const int code : found.codes) EXPECT_EQ(code, found.threshold < value ? 3 : 0);
  }
  EXPECT_EQ(Quantize({0, -0.0f, 0}).scale, 0);
}

}  // namespace
}  // namespace quantd
