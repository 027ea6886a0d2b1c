#include <cmath>

#include "core/calibrate/calibrator.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

TEST(SigmaTest, IsAroundTheMean) {
  // x = {0, 2, 4, 6}: mean 3, variance 5.
  const GroupStats stats = {.count = 4, .min = 0, .max = 6, .mean = 3, .m2 = 20};
  const ChosenCalibrator one = *FindCalibrator("1sigma");
  EXPECT_TRUE(one.calibrator->needs_moments);
  EXPECT_EQ(one.RangeOf(stats), (Range{3 - std::sqrt(5.0), 3 + std::sqrt(5.0)}));
  EXPECT_EQ(FindCalibrator("0.5sigma")->RangeOf(stats),
            (Range{3 - 0.5 * std::sqrt(5.0), 3 + 0.5 * std::sqrt(5.0)}));
}

TEST(SigmaTest, DoesNotReachBeyondTheValues) {
  const GroupStats stats = {.count = 4, .min = 0, .max = 6, .mean = 3, .m2 = 20};
  EXPECT_EQ(FindCalibrator("3sigma")->RangeOf(stats), (Range{0, 6}));
  EXPECT_EQ(FindCalibrator("1e300sigma")->RangeOf(stats), (Range{0, 6}));
  const GroupStats constant = {.count = 9, .min = 2, .max = 2, .mean = 2, .m2 = 0};
  EXPECT_EQ(FindCalibrator("3sigma")->RangeOf(constant), (Range{2, 2}));
}

TEST(SigmaTest, WantsAPositiveNumber) {
  for (const char* text : {"sigma", "0sigma", "-1sigma", "nansigma", "infsigma", "1e999sigma",
                           "xsigma", "3sigmas", "3 sigma x"}) {
    EXPECT_EQ(FindCalibrator(text).status().code(), absl::StatusCode::kNotFound) << text;
  }
}

}  // namespace
}  // namespace quantd
