// Nsigma: a group's range is N standard deviations around its mean, inside minmax:
//
//   [max(min, mean - N s), min(max, mean + N s)],  s = sqrt(m2 / count), of the population
//
// Values beyond are clipped, so that a few far away do not take the codes of all others: 3sigma of
// 10,000 normal values and one of 1,000 ends at 30, where minmax ends at 1,000. 2 or 3 cut some of
// a normal distribution as well.
//
// Beside minmax it wants moments, which are summed in one order (simd/meter.h, GroupStats::Merge),
// so that the range is the same everywhere.
//
// Entry: sigma_calibrator. Tested by tests/core/calibrate/sigma_test.cc.
#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "core/calibrate/calibrator.h"

namespace quantd {

const Calibrator& sigma_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "sigma",
      .text = "Nsigma",
      .summary = "N standard deviations around the mean, inside minmax",
      .needs_moments = true,
      .needs_magnitudes = false,
      .is_minmax = false,
      .parse = [](absl::string_view text) -> std::optional<double> {
        double argument;
        if (!absl::ConsumeSuffix(&text, "sigma") || !absl::SimpleAtod(text, &argument) ||
            !(argument > 0) || !std::isfinite(argument)) {
          return std::nullopt;
        }
        return argument;
      },
      // Reaching beyond the values would only waste codes.
      .range =
          [](const GroupStats& stats, double argument) {
            if (stats.count == 0) return Range{};
            const double reach = argument * std::sqrt(stats.m2 / static_cast<double>(stats.count));
            return Range{std::max(stats.min, stats.mean - reach),
                         std::min(stats.max, stats.mean + reach)};
          }};
  return kCalibrator;
}

}  // namespace quantd
