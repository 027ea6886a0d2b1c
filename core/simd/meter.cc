// From lanes to figures. The squares around the mean are those of the values less n * mean^2, which
// costs nothing, unless that cancels: where less than half is left, the tile is gone over again,
// around its mean.
//
//   4,096 values, 1000 and 1002 by turns:   sum of x^2 = 4.1e9, of which f32 lanes keep 7 digits
//                                           m2 = 4,096: gone over again
//
// Where squares may overflow or vanish (in f32 beyond 1e17, below 1e-15), or a value is not finite,
// FiguresOf gives nothing, and MeasureCarefully goes element by element, in double, without SIMD.
//
// Entries: FiguresOf for lanes that a kernel has filled, MeasureTile, MeasureCarefully. Tested by
// tests/core/simd/meter_test.cc.
#include "core/simd/meter.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/base/copy_bytes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/meter.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/meter-inl.h"

#ifndef QUANTD_CORE_SIMD_METER_CENTRED
#define QUANTD_CORE_SIMD_METER_CENTRED
namespace quantd {

template <typename T>
struct CentredLanes {
  std::array<T, 16> squares, deltas;
};

// Lanes, folded. Of a lane that is NaN the sum is NaN, and so is the largest error.
template <typename T>
struct LaneTotals {
  double sum, signal, error, cross;
  T min, max, max_error;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
void SumLanesImpl(const T* HWY_RESTRICT x, const T* HWY_RESTRICT y, int64_t num_elems,
                  MeterLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t k = 0; k < 16; k += kWidth) {
    MeterRegs<decltype(d)> regs(d, lanes, static_cast<size_t>(k));
    int64_t i = k;
    for (; i + kWidth <= num_elems; i += 16) regs.Add(d, hn::LoadU(d, x + i), hn::LoadU(d, y + i));
    if (i < num_elems) {
      const size_t rest = static_cast<size_t>(num_elems - i);
      T pad_x[kWidth] = {}, pad_y[kWidth] = {};
      CopyBytes(pad_x, x + i, rest * sizeof(T));
      CopyBytes(pad_y, y + i, rest * sizeof(T));
      regs.AddFirst(d, rest, hn::LoadU(d, pad_x), hn::LoadU(d, pad_y));
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
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
    CopyBytes(pad, x + i, static_cast<size_t>(num_elems - i) * sizeof(T));
    add(pad);
  }
  for (size_t k = 0; k < kVecs; ++k) {
    hn::StoreU(squares[k], d, lanes.squares.data() + k * kWidth);
    hn::StoreU(deltas[k], d, lanes.deltas.data() + k * kWidth);
  }
}

// Adds lanes i and i + 8, then i and i + 4, + 2, + 1.
template <typename T>
HWY_INLINE double FoldLanes(const std::array<T, 16>& lanes) {
  const hn::CappedTag<double, 8> d;
  constexpr size_t kWidth = hn::MaxLanes(d);
  HWY_ALIGN double wide[16];
  for (size_t i = 0; i < 16; i += kWidth) {
    if constexpr (sizeof(T) == 4) {
      const hn::Rebind<float, decltype(d)> df;
      hn::Store(hn::PromoteTo(d, hn::LoadU(df, lanes.data() + i)), d, wide + i);
    } else {
      hn::Store(hn::LoadU(d, lanes.data() + i), d, wide + i);
    }
  }
  size_t half = 8;
  for (; half >= kWidth; half /= 2) {
    for (size_t i = 0; i < half; i += kWidth) {
      hn::Store(hn::Add(hn::Load(d, wide + i), hn::LoadU(d, wide + i + half)), d, wide + i);
    }
  }
  for (; half >= 1; half /= 2) {
    for (size_t i = 0; i < half; ++i) wide[i] += wide[i + half];
  }
  return wide[0];
}

template <typename T>
LaneTotals<T> TotalsImpl(const MeterLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr size_t kWidth = hn::MaxLanes(d);
  auto min = hn::LoadU(d, lanes.min.data()), max = hn::LoadU(d, lanes.max.data());
  // As integers, so that NaN and infinity come out on top.
  auto max_error = hn::BitCast(di, hn::LoadU(d, lanes.max_error.data()));
  for (size_t i = kWidth; i < 16; i += kWidth) {
    min = hn::Min(min, hn::LoadU(d, lanes.min.data() + i));
    max = hn::Max(max, hn::LoadU(d, lanes.max.data() + i));
    max_error = hn::Max(max_error, hn::BitCast(di, hn::LoadU(d, lanes.max_error.data() + i)));
  }
  return {FoldLanes(lanes.sum),
          FoldLanes(lanes.signal),
          FoldLanes(lanes.error),
          FoldLanes(lanes.cross),
          hn::GetLane(hn::MinOfLanes(d, min)),
          hn::GetLane(hn::MaxOfLanes(d, max)),
          hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(di, max_error)))};
}

LaneTotals<float> TotalsF32(const MeterLanes<float>& lanes) { return TotalsImpl(lanes); }
LaneTotals<double> TotalsF64(const MeterLanes<double>& lanes) { return TotalsImpl(lanes); }
void SumLanesF32(const float* x, const float* y, int64_t num_elems, MeterLanes<float>& lanes) {
  SumLanesImpl(x, y, num_elems, lanes);
}
void SumLanesF64(const double* x, const double* y, int64_t num_elems, MeterLanes<double>& lanes) {
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
HWY_EXPORT(TotalsF32);
HWY_EXPORT(TotalsF64);
HWY_EXPORT(SumCentredF32);
HWY_EXPORT(SumCentredF64);

void SumLanes(const float* x, const float* y, int64_t n, MeterLanes<float>& lanes) {
  HWY_DYNAMIC_DISPATCH(SumLanesF32)(x, y, n, lanes);
}
void SumLanes(const double* x, const double* y, int64_t n, MeterLanes<double>& lanes) {
  HWY_DYNAMIC_DISPATCH(SumLanesF64)(x, y, n, lanes);
}
LaneTotals<float> Totals(const MeterLanes<float>& lanes) {
  return HWY_DYNAMIC_DISPATCH(TotalsF32)(lanes);
}
LaneTotals<double> Totals(const MeterLanes<double>& lanes) {
  return HWY_DYNAMIC_DISPATCH(TotalsF64)(lanes);
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
TileFigures MeasureCarefullyImpl(const T* x, const T* y, int64_t num_elems) {
  TileFigures figures;
  std::array<double, 16> sum = {}, signal = {}, error = {}, cross = {}, centred = {};
  for (int64_t i = 0; i < num_elems; ++i) {
    const T value = LoadAt(x, i);
    if (!std::isfinite(value)) continue;
    const size_t lane = static_cast<size_t>(i % 16);
    const double vx = static_cast<double>(value) + 0.0, vy = LoadAt(y, i);
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
    const T value = LoadAt(x, i);
    if (!std::isfinite(value)) continue;
    const double delta = static_cast<double>(value) - mean;
    centred[static_cast<size_t>(i % 16)] += delta * delta;
  }
  figures.m2 = Fold(centred);
  return figures;
}

template <typename T>
std::optional<TileFigures> FiguresOfImpl(const MeterLanes<T>& lanes, const T* x,
                                         int64_t num_elems) {
  const LaneTotals<T> totals = Totals(lanes);
  TileFigures figures;
  figures.signal_energy = totals.signal;
  if (!std::isfinite(figures.signal_energy)) return std::nullopt;  // min and max may be any value
  figures.min = totals.min + T{0};  // -0 counts as +0
  figures.max = totals.max + T{0};
  const double reach = std::max(std::fabs(figures.min), std::fabs(figures.max));
  if (!SquaresAreSafe(static_cast<T>(reach)) || !SquaresAreSafe(totals.max_error)) {
    return std::nullopt;
  }
  figures.count = num_elems;
  figures.sum = totals.sum;
  figures.error_energy = totals.error;
  figures.cross_energy = totals.cross;
  figures.max_error = totals.max_error;
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
  return figures;
}

template <typename T>
int64_t FindError(const T* x, const T* y, double error) {
  int64_t i = 0;
  while (std::fabs(LoadAt(x, i) - LoadAt(y, i)) != error) ++i;
  return i;
}

template <typename T>
TileFigures MeasureTileImpl(const T* x, const T* y, int64_t num_elems) {
  MeterLanes<T> lanes;
  SumLanes(x, y, num_elems, lanes);
  std::optional<TileFigures> figures = FiguresOfImpl(lanes, x, num_elems);
  if (!figures.has_value()) return MeasureCarefullyImpl(x, y, num_elems);
  if (figures->max_error > 0) figures->max_error_idx = FindError(x, y, figures->max_error);
  return *figures;
}

}  // namespace

void MeasureSegment(const float* x, const float* y, int64_t num_elems, MeterLanes<float>& lanes) {
  SumLanes(x, y, num_elems, lanes);
}
void MeasureSegment(const double* x, const double* y, int64_t num_elems,
                    MeterLanes<double>& lanes) {
  SumLanes(x, y, num_elems, lanes);
}
std::optional<TileFigures> FiguresOf(const MeterLanes<float>& lanes, const float* x,
                                     int64_t num_elems) {
  return FiguresOfImpl(lanes, x, num_elems);
}
std::optional<TileFigures> FiguresOf(const MeterLanes<double>& lanes, const double* x,
                                     int64_t num_elems) {
  return FiguresOfImpl(lanes, x, num_elems);
}
TileFigures MeasureCarefully(const float* x, const float* y, int64_t num_elems) {
  return MeasureCarefullyImpl(x, y, num_elems);
}
TileFigures MeasureCarefully(const double* x, const double* y, int64_t num_elems) {
  return MeasureCarefullyImpl(x, y, num_elems);
}
int64_t IndexOfError(const float* x, const float* y, double error) {
  return FindError(x, y, error);
}
int64_t IndexOfError(const double* x, const double* y, double error) {
  return FindError(x, y, error);
}
TileFigures MeasureTile(const float* x, const float* y, int64_t num_elems) {
  return MeasureTileImpl(x, y, num_elems);
}
TileFigures MeasureTile(const double* x, const double* y, int64_t num_elems) {
  return MeasureTileImpl(x, y, num_elems);
}

}  // namespace quantd
#endif  // HWY_ONCE
