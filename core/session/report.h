#ifndef QUANTD_CORE_SESSION_REPORT_H_
#define QUANTD_CORE_SESSION_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/simd/meter.h"

namespace quantd {

// How many coordinates of non-finite values are kept.
inline constexpr int kMaxNonFiniteListed = 8;

// Figures over the finite input values x and their decoded counterparts y, as energies and sums, so
// that they merge and need no function whose last bit depends on the CPU. y is what Dequantize
// gives as f32, or as f64 for f64, int32, uint32 and int64 input.
struct Figures {
  int64_t count = 0;  // finite values
  double sum = 0, min = 0, max = 0;
  double m2 = 0;                // sum of (x - mean)^2
  double signal_energy = 0;     // sum of x^2
  double error_energy = 0;      // sum of (x - y)^2
  double cross_energy = 0;      // sum of x * y
  double max_error = 0;         // largest |x - y|
  int64_t max_error_elem = -1;  // where, the first one; -1 where there is no error

  // Takes in the values that `next` describes, which come after those of *this.
  void Merge(const Figures& next);

  // Derived; absent where they have no meaning (no values, zero signal, no error, energies
  // that a double does not hold).
  std::optional<double> Mean() const;
  std::optional<double> StdDev() const;  // of the population
  std::optional<double> Mse() const;
  std::optional<double> SqnrDb() const;  // 10 log10(signal / error); absent if lossless
  std::optional<double> Cosine() const;
  bool Lossless() const { return count > 0 && error_energy == 0 && max_error == 0; }
};

// Returns the figures of a tile, but for where the largest error is.
Figures ToFigures(const TileFigures& tile);

// What is said of one quantized tensor when all of it is encoded.
struct EncodingReport {
  bool has_figures = false;
  Figures figures;
  int64_t clipped = 0;     // values beyond the outermost code by half a step or more
  int64_t non_finite = 0;  // NaN and infinities of the input
  std::vector<int64_t> first_non_finite_elems;  // at most kMaxNonFiniteListed, ascending
  int64_t inexact_inputs = 0;                   // int64 values that f64 does not hold exactly
  std::vector<std::string> digests;             // by plane, PlaneDigest's text
};

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_REPORT_H_
