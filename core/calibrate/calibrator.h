#ifndef QUANTD_CORE_CALIBRATE_CALIBRATOR_H_
#define QUANTD_CORE_CALIBRATE_CALIBRATOR_H_

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"
#include "core/scheme/spec.h"
#include "core/stats/counted_values.h"

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

// What a range from values is found for.
struct RangeWish {
  double argument = 0;     // of the calibrator
  bool symmetric = false;  // the larger one of |min| and |max| is all that counts
  Range bounds;            // of the values, min <= max; what is found lies within
};

// One row of the registry: how the range of a group follows from its values. It needs their
// extremes, or what else it says; the functions of what it does not need are null.
struct Calibrator {
  absl::string_view name;
  absl::string_view text;     // how `range=` has it: "minmax", "Nsigma"
  absl::string_view summary;  // one line
  bool needs_moments;         // mean and m2 are wanted
  bool needs_magnitudes;      // the sum of magnitudes is
  bool is_minmax;             // the range is that of the values
  // Returns the argument if `text` names this calibrator: 3 of "3sigma"; 0 where there is none.
  std::optional<double> (*parse)(absl::string_view text);
  // Returns the range; {0, 0} of a group without finite values. Where values are needed, the bounds
  // that it is found within.
  Range (*range)(const GroupStats& stats, double argument);

  // All values are wanted: those of a group itself, or counts of them.
  bool needs_values = false;
  bool tries = false;  // they are to be tried out by ClipSearch; else:
  // From the finite values, at least one, which may be left in another order.
  Range (*range_of_values)(TileSpan finite, const RangeWish& wish) = nullptr;
  // From what they count as, in order of ValuesOf; within the bounds or not.
  Range (*range_of_counts)(std::span<const CountedValue> counts, const RangeWish& wish) = nullptr;
};

// Returns the range of the extremes; {0, 0} where there are none. A Calibrator::range.
Range RangeOfExtremes(const GroupStats& stats, double);

// Returns the rows of calibrators.def, in its order. Thread-safe.
std::span<const Calibrator* const> AllCalibrators();

// A calibrator with its argument.
struct ChosenCalibrator {
  const Calibrator* calibrator = nullptr;
  double argument = 0;

  // `range` is that of the extremes.
  bool from_extremes() const { return calibrator->is_minmax || calibrator->needs_values; }
  bool needs_values() const { return calibrator->needs_values; }
  bool tries() const { return calibrator->tries; }
  Range RangeOf(const GroupStats& stats) const { return calibrator->range(stats, argument); }
};

// Returns the calibrator that `text` names; empty text names minmax. kNotFound lists them.
absl::StatusOr<ChosenCalibrator> FindCalibrator(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_CORE_CALIBRATE_CALIBRATOR_H_
