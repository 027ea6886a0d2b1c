#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/calibrate/calibrator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

GroupStats StatsOf(std::span<const double> values) {
  GroupStats stats;
  long double sum = 0, m2 = 0;
  for (const double value : values) sum += value;
  const long double mean = values.empty() ? 0 : sum / static_cast<long double>(values.size());
  for (const double value : values) m2 += (value - mean) * (value - mean);
  if (values.empty()) return stats;
  stats.count = static_cast<int64_t>(values.size());
  stats.min = *std::min_element(values.begin(), values.end());
  stats.max = *std::max_element(values.begin(), values.end());
  stats.mean = static_cast<double>(mean);
  stats.m2 = static_cast<double>(m2);
  return stats;
}

std::vector<double> MakeValues(size_t count, double offset, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<double> values(count);
  for (double& value : values) value = offset + static_cast<double>(rng()) * 0x1p-32;
  return values;
}

TEST(FindCalibratorTest, NothingMeansMinmax) {
  EXPECT_EQ(FindCalibrator("")->calibrator->name, "minmax");
  EXPECT_EQ(FindCalibrator("minmax")->calibrator->name, "minmax");
}

TEST(FindCalibratorTest, ListsThoseThatThereAre) {
  const absl::Status status = FindCalibrator("median").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"median\""));
  for (const Calibrator* calibrator : AllCalibrators()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(calibrator->text)));
    EXPECT_FALSE(calibrator->summary.empty());
  }
}

TEST(CalibratorTest, AGroupWithoutValuesHasNoReach) {
  for (const Calibrator* calibrator : AllCalibrators()) {
    EXPECT_EQ(calibrator->range(GroupStats{}, 3), Range{}) << calibrator->name;
  }
}

TEST(GroupStatsTest, MergesToTheWhole) {
  for (const double offset : {0.0, 1e6, -1e9}) {
    const std::vector<double> values = MakeValues(1000, offset, 4);
    const GroupStats whole = StatsOf(values);
    for (const size_t cut : {0, 1, 499, 999, 1000}) {
      GroupStats merged = StatsOf(std::span(values).first(cut));
      merged.Merge(StatsOf(std::span(values).subspan(cut)));
      EXPECT_EQ(merged.count, whole.count);
      EXPECT_EQ(merged.min, whole.min);
      EXPECT_EQ(merged.max, whole.max);
      EXPECT_NEAR(merged.mean, whole.mean, 1e-14 * (1 + std::fabs(offset)));
      EXPECT_NEAR(merged.m2, whole.m2, 1e-5 * whole.m2);
    }
  }
}

TEST(GroupStatsTest, NothingChangesNothing) {
  const GroupStats stats = StatsOf(std::vector<double>{1, -2, 5});
  GroupStats merged = stats;
  merged.Merge(GroupStats{});
  EXPECT_EQ(merged, stats);
  GroupStats empty;
  empty.Merge(stats);
  EXPECT_EQ(empty, stats);
}

}  // namespace
}  // namespace quantd
