// The table of calibrators, and statistics of groups that merge:
//
//   mean = mean(a) + d n(b) / n,  m2 = m2(a) + m2(b) + d^2 n(a) n(b) / n,  d = mean(b) - mean(a)
//
// which does not cancel, as sums of squares do. It rounds, so that parts are merged in order.
//
// Entries: FindCalibrator and GroupStats::Merge. Tested by tests/core/calibrate/registry_test.cc.
#include <algorithm>
#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/calibrate/calibrator.h"

namespace quantd {

#define QUANTD_CALIBRATOR(name) const Calibrator& name##_calibrator();
#include "core/calibrate/calibrators.def"
#undef QUANTD_CALIBRATOR

void GroupStats::Merge(const GroupStats& next) {
  if (next.count == 0) return;
  if (count == 0) {
    *this = next;
    return;
  }
  // Chan, Golub, LeVeque: "Updating Formulae and a Pairwise Algorithm", 1979, eq. 2.1.
  const double own = static_cast<double>(count), other = static_cast<double>(next.count);
  const double delta = next.mean - mean, total = own + other;
  mean += delta * (other / total);
  m2 += next.m2 + delta * delta * (own * other / total);
  magnitudes += next.magnitudes;
  count += next.count;
  min = std::min(min, next.min);
  max = std::max(max, next.max);
}

Range RangeOfExtremes(const GroupStats& stats, double) {
  return stats.count == 0 ? Range{} : Range{stats.min, stats.max};
}

std::span<const Calibrator* const> AllCalibrators() {
#define QUANTD_CALIBRATOR(name) &name##_calibrator(),
  static const std::array kCalibrators = {
#include "core/calibrate/calibrators.def"
  };
#undef QUANTD_CALIBRATOR
  return kCalibrators;
}

absl::StatusOr<ChosenCalibrator> FindCalibrator(absl::string_view text) {
  const absl::string_view wanted = text.empty() ? "minmax" : text;
  for (const Calibrator* calibrator : AllCalibrators()) {
    if (const std::optional<double> argument = calibrator->parse(wanted)) {
      return ChosenCalibrator{calibrator, *argument};
    }
  }
  return absl::NotFoundError(absl::StrCat(
      "unknown range \"", text, "\"; known: ",
      absl::StrJoin(
          AllCalibrators(), ", ",
          [](std::string* out, const Calibrator* row) { absl::StrAppend(out, row->text); }),
      ", MIN..MAX"));
}

}  // namespace quantd
