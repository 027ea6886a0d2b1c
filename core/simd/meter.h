#ifndef QUANTD_CORE_SIMD_METER_H_
#define QUANTD_CORE_SIMD_METER_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

// Error figures of tiles, made in two steps. Kernels add values x and their decoded counterparts y
// to a meter while they encode, segment by segment of a tile: element i of a segment goes to lane
// i mod 16, whatever the width of vectors. When the tile is done, the lanes fold pairwise (i with
// i+8, +4, +2, +1) in double. So sums have one shape on every target. Lanes of a tile whose squares
// f32 does not hold, or that has values which are not finite, are void: MeasureCarefully does such
// tiles again in double.

namespace quantd {

// Returns element i of an array at any alignment.
template <typename T>
T LoadAt(const T* values, int64_t i) {
  T value;
  std::memcpy(&value, reinterpret_cast<const char*>(values) + i * int64_t{sizeof(T)}, sizeof(T));
  return value;
}

// Figures of one tile, over the finite x.
struct TileFigures {
  int64_t count = 0;
  double sum = 0, min = 0, max = 0;
  double m2 = 0;               // sum of (x - mean)^2
  double signal_energy = 0;    // sum of x^2
  double error_energy = 0;     // sum of (x - y)^2
  double cross_energy = 0;     // sum of x * y
  double max_error = 0;        // infinite where a finite x became infinite
  int64_t max_error_idx = -1;  // first index with max_error; see IndexOfError

  bool operator==(const TileFigures&) const = default;
};

// The running sums of a tile, by lane.
template <typename T>
struct alignas(64) MeterLanes {
  std::array<T, 16> sum, signal, error, cross, min, max, max_error;

  MeterLanes() { Reset(); }
  void Reset() {
    sum = signal = error = cross = max_error = {};
    min.fill(std::numeric_limits<T>::infinity());
    max.fill(-std::numeric_limits<T>::infinity());
  }
};

// What kernels add to: the lanes of the type that they work in. Not thread-safe.
class Meter {
 public:
  template <typename T>
  MeterLanes<T>& lanes() {
    if constexpr (sizeof(T) == 4) {
      return f32_;
    } else {
      return f64_;
    }
  }

 private:
  MeterLanes<float> f32_;
  MeterLanes<double> f64_;
};

// Adds a segment of `num_elems` values, at any alignment, to `lanes`.
void MeasureSegment(const float* x, const float* y, int64_t num_elems, MeterLanes<float>& lanes);
void MeasureSegment(const double* x, const double* y, int64_t num_elems, MeterLanes<double>& lanes);

// Returns the figures of a tile of `num_elems` values x whose segments are all in `lanes`, but for
// max_error_idx; nullopt where the lanes are void.
std::optional<TileFigures> FiguresOf(const MeterLanes<float>& lanes, const float* x,
                                     int64_t num_elems);
std::optional<TileFigures> FiguresOf(const MeterLanes<double>& lanes, const double* x,
                                     int64_t num_elems);

// Returns the figures in double, leaving out x that are not finite.
TileFigures MeasureCarefully(const float* x, const float* y, int64_t num_elems);
TileFigures MeasureCarefully(const double* x, const double* y, int64_t num_elems);

// Returns the first index where |x - y| is `error`, which it is somewhere.
int64_t IndexOfError(const float* x, const float* y, double error);
int64_t IndexOfError(const double* x, const double* y, double error);

// Measures a tile of one segment of 1 to kTileElems values. With y == x only the statistics count.
TileFigures MeasureTile(const float* x, const float* y, int64_t num_elems);
TileFigures MeasureTile(const double* x, const double* y, int64_t num_elems);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_METER_H_
