#include "core/simd/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/figures.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef QUANTD_CORE_SIMD_FIGURES_LANES
#define QUANTD_CORE_SIMD_FIGURES_LANES
namespace quantd {

template <typename T>
struct CentredLanes {
  std::array<T, 16> squares, deltas;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Magnitudes are compared as integers, so that NaN and infinity come out on top on every target.
template <class DI, class D, class V>
HWY_INLINE hn::VFromD<DI> MagnitudeBits(DI di, D, V v) {
  return hn::BitCast(di, hn::Abs(v));
}

template <typename T>
void SumLanesImpl(const T* HWY_RESTRICT x, const T* HWY_RESTRICT y, int64_t num_elems,
                  FigureLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr size_t kWidth = hn::MaxLanes(d);
  constexpr size_t kVecs = 16 / kWidth;
  hn::VFromD<decltype(d)> sum[kVecs], signal[kVecs], error[kVecs], cross[kVecs], min[kVecs],
      max[kVecs];
  hn::VFromD<decltype(di)> max_signal[kVecs], max_error[kVecs];
  for (size_t k = 0; k < kVecs; ++k) {
    sum[k] = signal[k] = error[k] = cross[k] = hn::Zero(d);
    min[k] = max[k] = hn::Set(d, x[0]);
    max_signal[k] = max_error[k] = hn::Zero(di);
  }
  // `limits` is x, or in the last, padded block something that does not change min and max.
  const auto add = [&](const T* xs, const T* ys, const T* limits) HWY_ATTR {
    for (size_t k = 0; k < kVecs; ++k) {
      const auto vx = hn::LoadU(d, xs + k * kWidth);
      const auto vy = hn::LoadU(d, ys + k * kWidth);
      const auto limit = hn::LoadU(d, limits + k * kWidth);
      const auto e = hn::Sub(vx, vy);
      sum[k] = hn::Add(sum[k], vx);
      signal[k] = hn::Add(signal[k], hn::Mul(vx, vx));
      error[k] = hn::Add(error[k], hn::Mul(e, e));
      cross[k] = hn::Add(cross[k], hn::Mul(vx, vy));
      min[k] = hn::Min(min[k], limit);
      max[k] = hn::Max(max[k], limit);
      max_signal[k] = hn::Max(max_signal[k], MagnitudeBits(di, d, vx));
      max_error[k] = hn::Max(max_error[k], MagnitudeBits(di, d, e));
    }
  };
  int64_t i = 0;
  for (; i + 16 <= num_elems; i += 16) add(x + i, y + i, x + i);
  if (i < num_elems) {
    T pad_x[16] = {}, pad_y[16] = {}, pad_limit[16];
    std::fill(pad_limit, pad_limit + 16, x[0]);
    std::copy(x + i, x + num_elems, pad_x);
    std::copy(y + i, y + num_elems, pad_y);
    std::copy(x + i, x + num_elems, pad_limit);
    add(pad_x, pad_y, pad_limit);
  }
  for (size_t k = 0; k < kVecs; ++k) {
    hn::StoreU(sum[k], d, lanes.sum.data() + k * kWidth);
    hn::StoreU(signal[k], d, lanes.signal.data() + k * kWidth);
    hn::StoreU(error[k], d, lanes.error.data() + k * kWidth);
    hn::StoreU(cross[k], d, lanes.cross.data() + k * kWidth);
    hn::StoreU(min[k], d, lanes.min.data() + k * kWidth);
    hn::StoreU(max[k], d, lanes.max.data() + k * kWidth);
    hn::StoreU(hn::BitCast(d, max_signal[k]), d, lanes.max_signal.data() + k * kWidth);
    hn::StoreU(hn::BitCast(d, max_error[k]), d, lanes.max_error.data() + k * kWidth);
  }
}

// Sums (x - centre)^2 and x - centre in the same 16 lanes.
template <typename T>
void SumCentredImpl(const T* HWY_RESTRICT x, int64_t num_elems, T middle, CentredLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  constexpr size_t kWidth = hn::MaxLanes(d);
  constexpr size_t kVecs = 16 / kWidth;
  hn::VFromD<decltype(d)> squares[kVecs], deltas[kVecs];
  for (size_t k = 0; k < kVecs; ++k) squares[k] = deltas[k] = hn::Zero(d);
  const auto centre = hn::Set(d, middle);
  const auto add = [&](const T* xs) HWY_ATTR {
    for (size_t k = 0; k < kVecs; ++k) {
      const auto delta = hn::Sub(hn::LoadU(d, xs + k * kWidth), centre);
      squares[k] = hn::Add(squares[k], hn::Mul(delta, delta));
      deltas[k] = hn::Add(deltas[k], delta);
    }
  };
  int64_t i = 0;
  for (; i + 16 <= num_elems; i += 16) add(x + i);
  if (i < num_elems) {
    T pad[16];
    std::fill(pad, pad + 16, middle);
    std::copy(x + i, x + num_elems, pad);
    add(pad);
  }
  for (size_t k = 0; k < kVecs; ++k) {
    hn::StoreU(squares[k], d, lanes.squares.data() + k * kWidth);
    hn::StoreU(deltas[k], d, lanes.deltas.data() + k * kWidth);
  }
}

void SumLanesF32(const float* x, const float* y, int64_t num_elems, FigureLanes<float>& lanes) {
  SumLanesImpl(x, y, num_elems, lanes);
}
void SumLanesF64(const double* x, const double* y, int64_t num_elems, FigureLanes<double>& lanes) {
  SumLanesImpl(x, y, num_elems, lanes);
}
void SumCentredF32(const float* x, int64_t num_elems, float centre, CentredLanes<float>& lanes) {
  SumCentredImpl(x, num_elems, centre, lanes);
}
void SumCentredF64(const double* x, int64_t num_elems, double centre, CentredLanes<double>& lanes) {
  SumCentredImpl(x, num_elems, centre, lanes);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(SumLanesF32);
HWY_EXPORT(SumLanesF64);
HWY_EXPORT(SumCentredF32);
HWY_EXPORT(SumCentredF64);

void SumLanes(const float* x, const float* y, int64_t n, FigureLanes<float>& lanes) {
  HWY_DYNAMIC_DISPATCH(SumLanesF32)(x, y, n, lanes);
}
void SumLanes(const double* x, const double* y, int64_t n, FigureLanes<double>& lanes) {
  HWY_DYNAMIC_DISPATCH(SumLanesF64)(x, y, n, lanes);
}
void SumCentred(const float* x, int64_t n, float centre, CentredLanes<float>& lanes) {
  HWY_DYNAMIC_DISPATCH(SumCentredF32)(x, n, centre, lanes);
}
void SumCentred(const double* x, int64_t n, double centre, CentredLanes<double>& lanes) {
  HWY_DYNAMIC_DISPATCH(SumCentredF64)(x, n, centre, lanes);
}

template <typename T>
double Fold(std::array<T, 16> lanes) {
  std::array<double, 16> wide;
  std::copy(lanes.begin(), lanes.end(), wide.begin());
  for (size_t half = 8; half >= 1; half /= 2) {
    for (size_t i = 0; i < half; ++i) wide[i] += wide[i + half];
  }
  return wide[0];
}

// True where squares of values of up to this magnitude neither overflow nor vanish in T; the bounds
// leave room for 4096 / 16 of them in a lane.
template <typename T>
bool SquaresAreSafe(T magnitude) {
  constexpr T kLowest = sizeof(T) == 4 ? T{1e-15f} : static_cast<T>(1e-145);
  constexpr T kHighest = sizeof(T) == 4 ? T{1e17f} : static_cast<T>(1e150);
  return magnitude == 0 || (magnitude >= kLowest && magnitude <= kHighest);  // false for NaN
}

// The same figures in double, element by element, leaving out x that are not finite.
template <typename T>
TileFigures MeasureCarefully(const T* x, const T* y, int64_t num_elems) {
  TileFigures figures;
  std::array<double, 16> sum = {}, signal = {}, error = {}, cross = {}, centred = {};
  for (int64_t i = 0; i < num_elems; ++i) {
    if (!std::isfinite(x[i])) continue;
    const size_t lane = static_cast<size_t>(i % 16);
    const double vx = static_cast<double>(x[i]) + 0.0, vy = y[i];
    if (figures.count == 0) figures.min = figures.max = vx;
    ++figures.count;
    figures.min = std::min(figures.min, vx);
    figures.max = std::max(figures.max, vx);
    sum[lane] += vx;
    signal[lane] += vx * vx;
    const double e = std::isfinite(vy) ? vx - vy : std::numeric_limits<double>::infinity();
    error[lane] += e * e;
    if (std::isfinite(vy)) cross[lane] += vx * vy;
    if (std::fabs(e) > figures.max_error) {
      figures.max_error = std::fabs(e);
      figures.max_error_idx = i;
    }
  }
  if (figures.count == 0) return figures;
  figures.sum = Fold(sum);
  figures.signal_energy = Fold(signal);
  figures.error_energy = Fold(error);
  figures.cross_energy = Fold(cross);
  const double mean = figures.sum / static_cast<double>(figures.count);
  for (int64_t i = 0; i < num_elems; ++i) {
    if (!std::isfinite(x[i])) continue;
    const double delta = static_cast<double>(x[i]) - mean;
    centred[static_cast<size_t>(i % 16)] += delta * delta;
  }
  figures.m2 = Fold(centred);
  return figures;
}

// Makes the figures of a tile but for the index; false: f32 is too short for its sums.
template <typename T>
bool FoldLanes(const FigureLanes<T>& lanes, const T* x, int64_t num_elems, TileFigures& figures) {
  // As floats of the same bits: NaN must win, so compare by "not less".
  T max_signal = 0, max_error = 0;
  for (size_t i = 0; i < 16; ++i) {
    if (!(lanes.max_signal[i] <= max_signal)) max_signal = lanes.max_signal[i];
    if (!(lanes.max_error[i] <= max_error)) max_error = lanes.max_error[i];
    if (std::isnan(max_signal) || std::isnan(max_error)) break;
  }
  if (!SquaresAreSafe(max_signal) || !SquaresAreSafe(max_error)) return false;
  figures.count = num_elems;
  figures.sum = Fold(lanes.sum);
  figures.signal_energy = Fold(lanes.signal);
  figures.error_energy = Fold(lanes.error);
  figures.cross_energy = Fold(lanes.cross);
  figures.min = *std::min_element(lanes.min.begin(), lanes.min.end()) + T{0};  // -0 counts as +0
  figures.max = *std::max_element(lanes.max.begin(), lanes.max.end()) + T{0};
  figures.max_error = max_error;
  const double n = static_cast<double>(num_elems);
  const double mean = figures.sum / n;
  figures.m2 = figures.signal_energy - n * mean * mean;
  if (figures.m2 < 0.5 * figures.signal_energy) {  // would cancel: centre first
    // The sum above is only as good as its terms are large; that of the differences is better.
    const T centre = static_cast<T>(mean);
    CentredLanes<T> centred;
    SumCentred(x, num_elems, centre, centred);
    const double offset_sum = Fold(centred.deltas);
    figures.sum = n * static_cast<double>(centre) + offset_sum;
    figures.m2 = std::max(0.0, Fold(centred.squares) - offset_sum * offset_sum / n);
  }
  return true;
}

template <typename T>
int64_t FindError(const T* x, const T* y, double error) {
  int64_t i = 0;
  while (std::fabs(x[i] - y[i]) != error) ++i;
  return i;
}

template <typename T>
TileFigures MeasureTileImpl(const T* x, const T* y, int64_t num_elems, double known_error) {
  FigureLanes<T> lanes(x[0]);
  SumLanes(x, y, num_elems, lanes);
  TileFigures figures;
  if (!FoldLanes(lanes, x, num_elems, figures)) return MeasureCarefully(x, y, num_elems);
  if (figures.max_error > known_error) {
    figures.max_error_idx = FindError(x, y, figures.max_error);
  }
  return figures;
}

}  // namespace

TileFigures MeasureTile(const float* x, const float* y, int64_t num_elems, double known_error) {
  return MeasureTileImpl(x, y, num_elems, known_error);
}
TileFigures MeasureTile(const double* x, const double* y, int64_t num_elems, double known_error) {
  return MeasureTileImpl(x, y, num_elems, known_error);
}

std::optional<TileFigures> FiguresOf(const FigureLanes<float>& lanes, const float* x,
                                     int64_t num_elems) {
  TileFigures figures;
  if (!FoldLanes(lanes, x, num_elems, figures)) return std::nullopt;
  return figures;
}
int64_t IndexOfError(const float* x, const float* y, double error) {
  return FindError(x, y, error);
}

}  // namespace quantd
#endif  // HWY_ONCE
