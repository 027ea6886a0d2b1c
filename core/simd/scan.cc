// Entries: AllFinite, ScanRuns, ScanColumns, SumMagnitudes. Tested by tests/core/simd/scan_test.cc.
//
// A run of 32 is two vectors of 16 lanes: to fold the lanes of its extremes one run at a time takes
// several times as long as to find them. So as many runs as there are lanes are folded at once, a
// lane to a run, each step adding halves of two vectors to each other:
//
//   a0 a1 a2 a3  b0 b1 b2 b3  ->  a02 b02 a13 b13  and c02 d02 c13 d13  ->  a b c d
//
// which is 2 shuffles for each run and extreme instead of 8.
#include "core/simd/scan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/scan.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/meter.h"

#ifndef QUANTD_CORE_SIMD_SCAN_TABLE
#define QUANTD_CORE_SIMD_SCAN_TABLE
namespace quantd {

template <typename T>
struct ScanKernelsOf {
  bool (*all_finite)(const T*, int64_t);
  void (*scan_runs)(const T*, int64_t, int64_t, RunRange<T>*);
  void (*scan_columns)(const T*, int64_t, T*, T*);
  double (*sum_magnitudes)(const T*, int64_t);
};
struct ScanKernels {
  ScanKernelsOf<float> f32;
  ScanKernelsOf<double> f64;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// Finite is told by the exponent bits: float Min and Max treat NaN differently by target.
template <class D, class V>
HWY_INLINE hn::VFromD<hn::RebindToSigned<D>> Magnitude(D /*d*/, V v) {
  const hn::RebindToSigned<D> di;
  return hn::BitCast(di, hn::Abs(v));
}

template <typename T>
constexpr hwy::MakeSigned<T> InfBits() {
  return static_cast<hwy::MakeSigned<T>>(sizeof(T) == 4 ? int64_t{0x7F800000}
                                                        : int64_t{0x7FF} << 52);
}

template <typename T>
bool AllFiniteImpl(const T* HWY_RESTRICT values, int64_t num_elems) {
  const hn::ScalableTag<T> d;
  const hn::RebindToSigned<decltype(d)> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto max0 = hn::Zero(di), max1 = max0, max2 = max0, max3 = max0;
  int64_t i = 0;
  for (; i + 4 * lanes <= num_elems; i += 4 * lanes) {
    max0 = hn::Max(max0, Magnitude(d, hn::LoadU(d, values + i)));
    max1 = hn::Max(max1, Magnitude(d, hn::LoadU(d, values + i + lanes)));
    max2 = hn::Max(max2, Magnitude(d, hn::LoadU(d, values + i + 2 * lanes)));
    max3 = hn::Max(max3, Magnitude(d, hn::LoadU(d, values + i + 3 * lanes)));
  }
  for (; i + lanes <= num_elems; i += lanes) {
    max0 = hn::Max(max0, Magnitude(d, hn::LoadU(d, values + i)));
  }
  const auto all = hn::Max(hn::Max(max0, max1), hn::Max(max2, max3));
  if (!hn::AllTrue(di, hn::Lt(all, hn::Set(di, InfBits<T>())))) return false;
  for (; i < num_elems; ++i) {
    if (!std::isfinite(LoadAt(values, i))) return false;
  }
  return true;
}

// The extremes of some values, by lane. A NaN is left out or makes its lane NaN, by target and by
// which comes first: what has a NaN is looked at again, as is what is infinite.
template <class D>
struct Extremes {
  using V = hn::VFromD<D>;

  HWY_INLINE void Add(V v) {
    min = hn::Min(v, min);  // a v that is NaN is left out, or stays to the end
    max = hn::Max(v, max);
  }
  // Adds lanes that `low` takes of two vectors to those that `high` takes.
  template <class Low, class High>
  static HWY_INLINE Extremes Fold(const Extremes& a, const Extremes& b, Low low, High high) {
    return {hn::Min(low(a.min, b.min), high(a.min, b.min)),
            hn::Max(low(a.max, b.max), high(a.max, b.max))};
  }

  V min, max;
};

// Runs of one length next to each other, at least a vector long.
template <class D>
class Runs {
 public:
  using T = hn::TFromD<D>;
  using V = hn::VFromD<D>;
  static constexpr int64_t kLanes = hn::MaxLanes(D());

  Runs(const T* values, int64_t run_elems) : values_(values), run_elems_(run_elems) {}

  // Returns the extremes of a run by lane.
  HWY_INLINE Extremes<D> One(int64_t run) {
    const T* HWY_RESTRICT values = values_ + run * run_elems_;
    const V first = Load(values);
    const V second = Load(values + std::min(kLanes, run_elems_ - kLanes));
    suspect_ = hn::Or(suspect_, hn::Or(hn::IsNaN(first), hn::IsNaN(second)));
    Extremes<D> even = {first, first}, odd = {second, second};
    int64_t i = 2 * kLanes;
    for (; i + 2 * kLanes <= run_elems_; i += 2 * kLanes) {
      even.Add(Load(values + i));
      odd.Add(Load(values + i + kLanes));
    }
    // The rest in one or two vectors, which may overlap what was seen: ranges do not mind.
    for (; i < run_elems_; i += kLanes) {
      even.Add(hn::LoadU(D(), values + std::min(i, run_elems_ - kLanes)));
    }
    return {hn::Min(even.min, odd.min), hn::Max(even.max, odd.max)};
  }

  // True if what has come out since the last call may not be so: there were values that are not
  // finite.
  HWY_INLINE bool Suspect(const Extremes<D>& extremes) {
    const hn::RebindToSigned<D> di;
    const auto reach = hn::Max(Magnitude(D(), extremes.min), Magnitude(D(), extremes.max));
    const auto infinite = hn::RebindMask(D(), hn::Gt(reach, hn::Set(di, InfBits<T>() - 1)));
    const bool suspect = !hn::AllFalse(D(), hn::Or(infinite, suspect_));
    suspect_ = hn::FirstN(D(), 0);
    return suspect;
  }

#if HWY_TARGET != HWY_SCALAR
  // Runs [run, + kLanes), a lane each.
  HWY_INLINE Extremes<D> All(int64_t run) {
    constexpr int64_t kPerBlock = 16 / sizeof(T);
    const auto lower = [](V a, V b) HWY_ATTR { return hn::ConcatLowerLower(D(), b, a); };
    const auto upper = [](V a, V b) HWY_ATTR { return hn::ConcatUpperUpper(D(), b, a); };
    if constexpr (kLanes == kPerBlock) {
      return Block(run);
    } else if constexpr (kLanes == 2 * kPerBlock) {
      const Extremes<D> a = Block(run), b = Block(run + kPerBlock);
      return Extremes<D>::Fold(a, b, lower, upper);
    } else {
      static_assert(kLanes == 4 * kPerBlock);
      const Extremes<D> a = Block(run), b = Block(run + kPerBlock);
      const Extremes<D> c = Block(run + 2 * kPerBlock), d = Block(run + 3 * kPerBlock);
      const Extremes<D> ac = Extremes<D>::Fold(a, c, lower, upper);
      const Extremes<D> bd = Extremes<D>::Fold(b, d, lower, upper);
      return Extremes<D>::Fold(
          ac, bd,
          [](V x, V y) HWY_ATTR { return hn::OddEvenBlocks(hn::SwapAdjacentBlocks(y), x); },
          [](V x, V y) HWY_ATTR { return hn::OddEvenBlocks(y, hn::SwapAdjacentBlocks(x)); });
    }
  }

 private:
  // As many runs as 16 bytes have lanes, in each block of 16 bytes a part of them.
  HWY_INLINE Extremes<D> Block(int64_t run) {
    if constexpr (sizeof(T) == 8) {
      return Two(run);
    } else {
      const hn::Repartition<double, D> wide;
      const Extremes<D> ab = Two(run), cd = Two(run + 2);
      return Extremes<D>::Fold(
          ab, cd,
          [wide](V x, V y) HWY_ATTR {
            return hn::BitCast(
                D(), hn::InterleaveLower(wide, hn::BitCast(wide, x), hn::BitCast(wide, y)));
          },
          [wide](V x, V y) HWY_ATTR {
            return hn::BitCast(
                D(), hn::InterleaveUpper(wide, hn::BitCast(wide, x), hn::BitCast(wide, y)));
          });
    }
  }
  HWY_INLINE Extremes<D> Two(int64_t run) {
    const Extremes<D> a = One(run), b = One(run + 1);
    return Extremes<D>::Fold(
        a, b, [](V x, V y) HWY_ATTR { return hn::InterleaveLower(D(), x, y); },
        [](V x, V y) HWY_ATTR { return hn::InterleaveUpper(D(), x, y); });
  }
#endif

 private:
  static HWY_INLINE V Load(const T* HWY_RESTRICT values) { return hn::LoadU(D(), values); }

  const T* const values_;
  const int64_t run_elems_;
  decltype(hn::FirstN(D(), 0)) suspect_ = hn::FirstN(D(), 0);
};

// The range of the finite values, one by one.
template <typename T>
HWY_NOINLINE RunRange<T> RangeOneByOne(const T* values, int64_t num_elems) {
  RunRange<T> range = {std::numeric_limits<T>::infinity(), -std::numeric_limits<T>::infinity()};
  for (int64_t i = 0; i < num_elems; ++i) {
    const T value = LoadAt(values, i) + T{0};  // -0 + 0 is +0
    if (!std::isfinite(value)) continue;
    range.min = std::min(range.min, value);
    range.max = std::max(range.max, value);
  }
  return range;
}

template <typename T>
void ScanRunsImpl(const T* values, int64_t run_elems, int64_t num_runs,
                  RunRange<T>* HWY_RESTRICT ranges) {
  const hn::ScalableTag<T> d;
  using D = std::remove_const_t<decltype(d)>;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  int64_t run = 0;
  if (run_elems >= kLanes) {
    Runs<D> runs(values, run_elems);
#if HWY_TARGET != HWY_SCALAR
    for (; run + kLanes <= num_runs; run += kLanes) {
      const Extremes<D> all = runs.All(run);
      hn::StoreInterleaved2(hn::Add(all.min, hn::Zero(d)), hn::Add(all.max, hn::Zero(d)), d,
                            &ranges[run].min);
      if (HWY_LIKELY(!runs.Suspect(all))) continue;
      for (int64_t r = run; r < run + kLanes; ++r) {
        ranges[r] = RangeOneByOne(values + r * run_elems, run_elems);
      }
    }
#endif
    for (; run < num_runs; ++run) {
      const Extremes<D> one = runs.One(run);
      if (runs.Suspect(one)) {
        ranges[run] = RangeOneByOne(values + run * run_elems, run_elems);
        continue;
      }
      ranges[run] = {hn::GetLane(hn::MinOfLanes(d, one.min)) + T{0},
                     hn::GetLane(hn::MaxOfLanes(d, one.max)) + T{0}};
    }
  }
  for (; run < num_runs; ++run) {
    ranges[run] = RangeOneByOne(values + run * run_elems, run_elems);
  }
}

template <typename T>
void ScanColumnsImpl(const T* HWY_RESTRICT values, int64_t num_elems, T* HWY_RESTRICT mins,
                     T* HWY_RESTRICT maxs) {
  const hn::ScalableTag<T> d;
  const hn::RebindToSigned<decltype(d)> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= num_elems; i += lanes) {
    const auto loaded = hn::LoadU(d, values + i);
    const auto finite = hn::Lt(Magnitude(d, loaded), hn::Set(di, InfBits<T>()));
    const auto v = hn::Add(loaded, hn::Zero(d));
    const auto min = hn::LoadU(d, mins + i), max = hn::LoadU(d, maxs + i);
    const auto mask = hn::RebindMask(d, finite);
    hn::StoreU(hn::IfThenElse(mask, hn::Min(min, v), min), d, mins + i);
    hn::StoreU(hn::IfThenElse(mask, hn::Max(max, v), max), d, maxs + i);
  }
  for (; i < num_elems; ++i) {
    const T value = LoadAt(values, i) + T{0};
    if (!std::isfinite(value)) continue;
    mins[i] = std::min(mins[i], value);
    maxs[i] = std::max(maxs[i], value);
  }
}

// Loads values as f64.
template <class D, typename T>
HWY_INLINE hn::VFromD<D> LoadF64(D d, const T* from) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return hn::LoadU(d, from);
  } else {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<T, D>(), from));
  }
}

template <typename T>
double SumMagnitudesImpl(const T* HWY_RESTRICT values, int64_t num_elems) {
  const hn::CappedTag<double, 16> d;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  constexpr double kLargest = std::numeric_limits<float>::max();
  const bool all_finite = AllFiniteImpl(values, num_elems);
  HWY_ALIGN double lanes[16] = {};
  const int64_t vector_elems = all_finite ? num_elems / 16 * 16 : 0;
  for (int64_t k = 0; k < 16; k += kWidth) {
    auto sum = hn::Zero(d);
    for (int64_t i = k; i < vector_elems; i += 16) {
      const auto magnitude = hn::Abs(LoadF64(d, values + i));
      sum = hn::Add(sum, sizeof(T) == sizeof(float) ? magnitude
                                                    : hn::Min(magnitude, hn::Set(d, kLargest)));
    }
    hn::Store(sum, d, lanes + k);
  }
  for (int64_t i = vector_elems; i < num_elems; ++i) {
    const double magnitude = std::fabs(double{LoadAt(values, i)});
    if (std::isfinite(magnitude)) lanes[i % 16] += std::min(magnitude, kLargest);
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

const ScanKernels& Kernels() {
  static constexpr ScanKernels kKernels = {
      {AllFiniteImpl<float>, ScanRunsImpl<float>, ScanColumnsImpl<float>,
       SumMagnitudesImpl<float>},
      {AllFiniteImpl<double>, ScanRunsImpl<double>, ScanColumnsImpl<double>,
       SumMagnitudesImpl<double>}};
  return kKernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(Kernels);

const ScanKernels& Chosen() { return HWY_DYNAMIC_DISPATCH(Kernels)(); }

}  // namespace

bool AllFinite(const float* values, int64_t num_elems) {
  return Chosen().f32.all_finite(values, num_elems);
}
bool AllFinite(const double* values, int64_t num_elems) {
  return Chosen().f64.all_finite(values, num_elems);
}
void ScanRuns(const float* values, int64_t run_elems, int64_t num_runs, RunRange<float>* ranges) {
  Chosen().f32.scan_runs(values, run_elems, num_runs, ranges);
}
void ScanRuns(const double* values, int64_t run_elems, int64_t num_runs, RunRange<double>* ranges) {
  Chosen().f64.scan_runs(values, run_elems, num_runs, ranges);
}
void ScanColumns(const float* values, int64_t num_elems, float* mins, float* maxs) {
  Chosen().f32.scan_columns(values, num_elems, mins, maxs);
}
void ScanColumns(const double* values, int64_t num_elems, double* mins, double* maxs) {
  Chosen().f64.scan_columns(values, num_elems, mins, maxs);
}
double SumMagnitudes(const float* values, int64_t num_elems) {
  return Chosen().f32.sum_magnitudes(values, num_elems);
}
double SumMagnitudes(const double* values, int64_t num_elems) {
  return Chosen().f64.sum_magnitudes(values, num_elems);
}

}  // namespace quantd
#endif  // HWY_ONCE
