#include "core/calibrate/calibrator.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(MinmaxTest, IsFromTheSmallestToTheLargest) {
  const ChosenCalibrator minmax = *FindCalibrator("minmax");
  EXPECT_FALSE(minmax.calibrator->needs_moments);
  EXPECT_EQ(minmax.RangeOf({.count = 3, .min = -7, .max = 0.5}), (Range{-7, 0.5}));
  EXPECT_EQ(minmax.RangeOf({.count = 1, .min = 2, .max = 2}), (Range{2, 2}));
}

TEST(MinmaxTest, TakesNoArgument) {
  for (const char* text : {"minmax1", "Minmax", "minmax ", "min", "1minmax"}) {
    EXPECT_EQ(FindCalibrator(text).status().code(), absl::StatusCode::kNotFound) << text;
  }
}

}  // namespace
}  // namespace quantd
