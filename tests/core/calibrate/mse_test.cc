#include <cmath>
#include <functional>
#include <limits>

#include "core/calibrate/calibrator.h"
#include "core/calibrate/clip_search.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

Range Best(const Range& bounds, const std::function<double(const Range&)>& error) {
  ClipSearch search(bounds);
  int trials = 0;
  for (; !search.done(); ++trials) search.Take(error(search.range()));
  EXPECT_LE(trials, ClipSearch::kMaxTrials);
  const Range best = search.range();
  search.Take(-1);  // too late
  EXPECT_EQ(search.range(), best);
  return best;
}

TEST(ClipSearchTest, ComesWithinASixteenthOctaveOfASingleValley) {
  for (double valley = 1; valley > 0.08; valley *= 0.97) {
    const auto error = [&](const Range& range) {
      return std::fabs(std::log2(range.max / 8 / valley));
    };
    const Range best = Best({-4, 8}, error);
    EXPECT_LE(error(best), 1.0 / 16 + 1e-9) << valley;
    EXPECT_EQ(best.min, -best.max / 2);
    EXPECT_LE(best.max, 8);
  }
}

TEST(ClipSearchTest, TheFirstOfEqualErrorsStays) {
  EXPECT_EQ(Best({-4, 8}, [](const Range&) { return 1.0; }), (Range{-4, 8}));
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(Best({-4, 8}, [=](const Range&) { return infinity; }), (Range{-4, 8}));
  EXPECT_EQ(Best({0, 0}, [](const Range&) { return 0.0; }), (Range{}));
}

TEST(MseTest, IsFoundByTrial) {
  const ChosenCalibrator mse = *FindCalibrator("mse");
  EXPECT_TRUE(mse.needs_values() && mse.tries());
  EXPECT_EQ(mse.RangeOf({.count = 3, .min = -1, .max = 5}), (Range{-1, 5}));
  for (const char* text : {"MSE", "mse1", "1mse", "mse ", "mses"}) {
    EXPECT_EQ(FindCalibrator(text).status().code(), absl::StatusCode::kNotFound) << text;
  }
}

}  // namespace
}  // namespace quantd
