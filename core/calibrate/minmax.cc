#include "core/calibrate/calibrator.h"

namespace quantd {

const Calibrator& minmax_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "minmax",
      .text = "minmax",
      .summary = "from the smallest to the largest value",
      .needs_moments = false,
      .is_minmax = true,
      .parse = [](absl::string_view text) -> std::optional<double> {
        if (text != "minmax") return std::nullopt;
        return 0.0;
      },
      .range =
          [](const GroupStats& stats, double) {
            return stats.count == 0 ? Range{} : Range{stats.min, stats.max};
          }};
  return kCalibrator;
}

}  // namespace quantd
