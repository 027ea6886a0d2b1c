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
