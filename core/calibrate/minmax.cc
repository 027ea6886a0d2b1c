// minmax: a group's range is that of its finite values, [min, max]. Nothing is clipped, and one
// value far away takes the codes of all others: beside one of 1,000, int8 gives nearly all of
// 10,000 normal values the code 0. The cheapest: extremes alone are found, many runs to a call of a
// kernel.
//
// Entry: minmax_calibrator. Tested by tests/core/calibrate/minmax_test.cc.
#include "core/calibrate/calibrator.h"

namespace quantd {

const Calibrator& minmax_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "minmax",
      .text = "minmax",
      .summary = "from the smallest to the largest value",
      .needs_moments = false,
      .needs_magnitudes = false,
      .is_minmax = true,
      .parse = [](absl::string_view text) -> std::optional<double> {
        if (text != "minmax") return std::nullopt;
        return 0.0;
      },
      .range = RangeOfExtremes};
  return kCalibrator;
}

}  // namespace quantd
