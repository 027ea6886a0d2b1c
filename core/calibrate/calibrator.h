#ifndef QUANTD_CORE_CALIBRATE_CALIBRATOR_H_
#define QUANTD_CORE_CALIBRATE_CALIBRATOR_H_

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/spec.h"

namespace quantd {

// Statistics of the finite values of a group, or of a whole tensor.
struct GroupStats {
  int64_t count = 0;
  double min = 0, max = 0;  // count for nothing where count is 0; -0 is +0
  double mean = 0, m2 = 0;  // m2: sum of (x - mean)^2; left at 0 where moments are not wanted
  double magnitudes = 0;    // sum of |x|, at most f32's largest each; 0 where it is not wanted

  bool operator==(const GroupStats&) const = default;

  // Takes in the values that `next` describes, which come after those of *this.
  void Merge(const GroupStats& next);
};

// One row of the registry: how the range of a group follows from its values.
struct Calibrator {
  absl::string_view name;
  absl::string_view text;     // how `range=` has it: "minmax", "Nsigma"
  absl::string_view summary;  // one line
  bool needs_moments;         // mean and m2 are wanted
  bool needs_magnitudes;      // the sum of magnitudes is
  bool is_minmax;             // the range is that of the values
  // Returns the argument if `text` names this calibrator: 3 of "3sigma"; 0 where there is none.
  std::optional<double> (*parse)(absl::string_view text);
  // Returns the range; {0, 0} of a group without finite values.
  Range (*range)(const GroupStats& stats, double argument);
};

// Returns the rows of calibrators.def, in its order. Thread-safe.
std::span<const Calibrator* const> AllCalibrators();

// A calibrator with its argument.
struct ChosenCalibrator {
  const Calibrator* calibrator = nullptr;
  double argument = 0;

  bool is_minmax() const { return calibrator->is_minmax; }
  Range RangeOf(const GroupStats& stats) const { return calibrator->range(stats, argument); }
};

// Returns the calibrator that `text` names; empty text names minmax. kNotFound lists them.
absl::StatusOr<ChosenCalibrator> FindCalibrator(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_CORE_CALIBRATE_CALIBRATOR_H_
