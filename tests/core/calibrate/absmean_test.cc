#include "core/calibrate/calibrator.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(AbsmeanTest, IsTheMeanOfMagnitudesOnBothSides) {
  // x = {3, -1, 2}.
  const GroupStats stats = {.count = 3, .min = -1, .max = 3, .mean = 4.0 / 3, .magnitudes = 6};
  const ChosenCalibrator absmean = *FindCalibrator("absmean");
  EXPECT_TRUE(absmean.calibrator->needs_magnitudes);
  EXPECT_FALSE(absmean.calibrator->needs_moments);
  EXPECT_FALSE(absmean.from_extremes());
  EXPECT_EQ(absmean.RangeOf(stats), (Range{-2, 2}));
}

TEST(AbsmeanTest, SumsMerge) {
  GroupStats stats = {.count = 1, .min = -2, .max = -2, .mean = -2, .magnitudes = 2};
  stats.Merge({.count = 2, .min = 1, .max = 3, .mean = 2, .magnitudes = 4});
  EXPECT_EQ(stats.count, 3);
  EXPECT_EQ(stats.magnitudes, 6);
}

TEST(AbsmeanTest, HasNoArgument) {
  for (const char* text : {"1absmean", "absmean2", "absmea", "mean"}) {
    EXPECT_EQ(FindCalibrator(text).status().code(), absl::StatusCode::kNotFound) << text;
  }
}

}  // namespace
}  // namespace quantd
