#ifndef QUANTD_CORE_SIMD_FIGURES_H_
#define QUANTD_CORE_SIMD_FIGURES_H_

#include <array>
#include <cstdint>
#include <optional>

namespace quantd {

// Figures of one tile of values x and their decoded counterparts y, over the finite x. Sums have
// one shape on every target: lane = index mod 16, lanes fold pairwise (i with i+8, +4, +2, +1) in
// double.
struct TileFigures {
  int64_t count = 0;
  double sum = 0, min = 0, max = 0;
  double m2 = 0;               // sum of (x - mean)^2
  double signal_energy = 0;    // sum of x^2
  double error_energy = 0;     // sum of (x - y)^2
  double cross_energy = 0;     // sum of x * y
  double max_error = 0;        // infinite where a finite x became infinite
  int64_t max_error_idx = -1;  // first index with max_error; looked for only above `known_error`

  bool operator==(const TileFigures&) const = default;
};

// Measures a tile of `num_elems` (1 to kTileElems) values. With y == x only the statistics count.
TileFigures MeasureTile(const float* x, const float* y, int64_t num_elems, double known_error);
TileFigures MeasureTile(const double* x, const double* y, int64_t num_elems, double known_error);

// The lanes of a tile's running sums, for kernels that make them while they encode. Magnitudes are
// not NaN unless the signal is.
template <typename T>
struct FigureLanes {
  std::array<T, 16> sum = {}, signal = {}, error = {}, cross = {}, min, max, max_signal = {},
                    max_error = {};
  // `first` is the tile's first value.
  explicit FigureLanes(T first) {
    min.fill(first);
    max.fill(first);
  }
};

// Returns what MeasureTile gives of a tile with these lanes but for max_error_idx; nullopt where
// f32 is too short for the sums.
std::optional<TileFigures> FiguresOf(const FigureLanes<float>& lanes, const float* x,
                                     int64_t num_elems);

// Returns the first index where |x - y| is `error`, which it is somewhere.
int64_t IndexOfError(const float* x, const float* y, double error);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_FIGURES_H_
