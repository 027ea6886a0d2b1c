#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "core/calibrate/calibrator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

template <typename T>
Range BoundsOf(const std::vector<T>& values) {
  const auto [min, max] = std::minmax_element(values.begin(), values.end());
  return {*min + 0.0, *max + 0.0};
}

// By the text, of values or of counts.
template <typename T>
Range Found(absl::string_view text, std::vector<T> values, bool symmetric) {
  const ChosenCalibrator chosen = *FindCalibrator(text);
  const RangeWish wish = {chosen.argument, symmetric, BoundsOf(values)};
  TileSpan span;
  span.num_elems = std::ssize(values);
  if constexpr (sizeof(T) == 4) {
    span.f32 = values.data();
  } else {
    span.f64 = values.data();
  }
  return chosen.calibrator->range_of_values(span, wish);
}

Range Counted(absl::string_view text, const std::vector<float>& values, bool symmetric) {
  const ChosenCalibrator chosen = *FindCalibrator(text);
  Histogram histogram;
  histogram.Add(values);
  return chosen.calibrator->range_of_counts(ValuesOf(histogram),
                                            {chosen.argument, symmetric, BoundsOf(values)});
}

TEST(PercentileTest, CutsWhatLiesFarthestOut) {
  std::vector<float> values;  // -10 .. 90, in some order
  for (int i = 0; i <= 100; ++i) values.push_back(static_cast<float>(i * 37 % 101 - 10));
  EXPECT_EQ(Found("p90", values, true), (Range{-10, 80}));   // 10 of 101
  EXPECT_EQ(Found("p90", values, false), (Range{-5, 85}));   // 5 at each end
  EXPECT_EQ(Found("p5", values, true), (Range{-3, 3}));  // 95: 0, twice 1 and 2, and a 3 are left
  EXPECT_EQ(Found("p100", values, true), (Range{-10, 90}));
  EXPECT_EQ(Found("p99.9", values, false), (Range{-10, 90}));
  EXPECT_EQ(Found("p1e-9", values, false), (Range{40, 40}));  // the median is always left
  EXPECT_EQ(Found("p1e-9", values, true), (Range{0, 0}));
}

TEST(PercentileTest, CutsAsManyAsThePercentageSays) {
  std::vector<double> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i);
  EXPECT_EQ(Found("p99.9", values, true), (Range{0, 998}));  // 1000 * (100 - 99.9) / 100 < 1 in f64
  EXPECT_EQ(Found("p99.8", values, false), (Range{1, 998}));
  EXPECT_EQ(Found("p99.9", values, false), (Range{0, 999}));
}

TEST(PercentileTest, FewValues) {
  for (const bool symmetric : {true, false}) {
    EXPECT_EQ(Found<float>("p50", {-3}, symmetric), (Range{-3, -3}));
  }
  EXPECT_EQ(Found<float>("p50", {-3, 5}, true), (Range{-3, 3}));
  EXPECT_EQ(Found<float>("p50", {-3, 5}, false), (Range{-3, 5}));
  EXPECT_EQ(Found<float>("p10", {-3, -0.0f, 5}, false), (Range{0, 0}));
  EXPECT_FALSE(std::signbit(Found<float>("p10", {-3, -0.0f, 5}, false).min));
}

// Whatever the values, counts find the bucket that the value itself lies in.
TEST(PercentileTest, CountsFindTheSameBuckets) {
  std::mt19937 rng(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(rng() % 300 + 1);
    for (float& value : values) {
      const float magnitude =
          std::ldexp(static_cast<float>(rng() % 10000), static_cast<int>(rng() % 40) - 20);
      value = rng() % 3 == 0 ? -magnitude : magnitude;
    }
    const Range bounds = BoundsOf(values);
    for (const char* text : {"p99", "p90", "p55.5", "p1", "p100"}) {
      for (const bool symmetric : {true, false}) {
        const Range exact = Found(text, values, symmetric);
        const Range counted = Counted(text, values, symmetric);
        EXPECT_NEAR(counted.min, exact.min, std::fabs(exact.min) / 256) << text;
        EXPECT_NEAR(counted.max, exact.max, std::fabs(exact.max) / 256) << text;
        EXPECT_GE(counted.min, bounds.min);
        EXPECT_LE(counted.max, bounds.max);
        EXPECT_LE(counted.min, counted.max);
      }
    }
  }
}

TEST(PercentileTest, CountsOfZerosAreZero) {
  std::vector<float> values(99, 0.0f);
  values.push_back(7);
  EXPECT_EQ(Counted("p99", values, true), (Range{0, 0}));
  EXPECT_EQ(Counted("p98", values, false), (Range{0, 0}));
}

TEST(PercentileTest, WantsAPercentage) {
  for (const char* text : {"p", "p0", "p-1", "p101", "p100.0001", "pnan", "pinf", "p1e999", "99.9",
                           "P99", "p99.9%", "percentile", "p99,9", "pp99"}) {
    const absl::Status status = FindCalibrator(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("pN (N above 0, at most 100)"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  }
}

}  // namespace
}  // namespace quantd
