// absmean: a group's range is [-m, m] with m the mean of the magnitudes of its finite values. Where
// all values become one magnitude with a sign, as in binary, that one has the least squared error:
// 3, -1, 2 have m = 2, and 2, -2, 2 an error of 1 + 1. Elsewhere it clips much.
//
// Beside minmax it wants a sum, in one order (SumMagnitudes, GroupStats::Merge), so that the range
// is the same everywhere. Magnitudes beyond f32's largest count as that, so that no sum overflows.
//
// Source: Rastegari et al., "XNOR-Net", 2016, section 3.1. Entry: absmean_calibrator. Tested by
// tests/core/calibrate/absmean_test.cc.
#include "core/calibrate/calibrator.h"

namespace quantd {

const Calibrator& absmean_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "absmean",
      .text = "absmean",
      .summary = "the mean of magnitudes, on both sides of 0",
      .needs_moments = false,
      .needs_magnitudes = true,
      .is_minmax = false,
      .parse = [](absl::string_view text) -> std::optional<double> {
        if (text != "absmean") return std::nullopt;
        return 0.0;
      },
      .range =
          [](const GroupStats& stats, double) {
            if (stats.count == 0) return Range{};
            const double mean = stats.magnitudes / static_cast<double>(stats.count);
            return Range{-mean, mean};
          }};
  return kCalibrator;
}

}  // namespace quantd
