#include "core/simd/scan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/scan.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
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
    if (!std::isfinite(values[i])) return false;
  }
  return true;
}

template <typename T>
void ScanRunsImpl(const T* HWY_RESTRICT values, int64_t run_elems, int64_t num_runs,
                  RunRange<T>* HWY_RESTRICT ranges) {
  const hn::ScalableTag<T> d;
  const hn::RebindToSigned<decltype(d)> di;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t run = 0; run < num_runs; ++run, values += run_elems) {
    T min = std::numeric_limits<T>::infinity(), max = -min;
    int64_t i = 0;
    bool finite = true;
    if (run_elems >= lanes) {
      auto min0 = hn::LoadU(d, values), max0 = min0, min1 = min0, max1 = min0;
      auto magnitude0 = Magnitude(d, min0), magnitude1 = magnitude0;
      for (i = lanes; i + 2 * lanes <= run_elems; i += 2 * lanes) {
        const auto v0 = hn::LoadU(d, values + i), v1 = hn::LoadU(d, values + i + lanes);
        magnitude0 = hn::Max(magnitude0, Magnitude(d, v0));
        magnitude1 = hn::Max(magnitude1, Magnitude(d, v1));
        min0 = hn::Min(min0, v0);
        max0 = hn::Max(max0, v0);
        min1 = hn::Min(min1, v1);
        max1 = hn::Max(max1, v1);
      }
      // The rest in one or two vectors, which may overlap what was seen: ranges do not mind.
      for (; i < run_elems; i += lanes) {
        const auto v = hn::LoadU(d, values + std::min(i, run_elems - lanes));
        magnitude0 = hn::Max(magnitude0, Magnitude(d, v));
        min0 = hn::Min(min0, v);
        max0 = hn::Max(max0, v);
      }
      finite = hn::AllTrue(di, hn::Lt(hn::Max(magnitude0, magnitude1), hn::Set(di, InfBits<T>())));
      min = hn::GetLane(hn::MinOfLanes(d, hn::Min(min0, min1)));
      max = hn::GetLane(hn::MaxOfLanes(d, hn::Max(max0, max1)));
    }
    if (!finite || run_elems < lanes) {
      min = std::numeric_limits<T>::infinity(), max = -min;
      for (i = 0; i < run_elems; ++i) {
        if (!std::isfinite(values[i])) continue;
        min = std::min(min, values[i]);
        max = std::max(max, values[i]);
      }
    }
    ranges[run] = {min + T{0}, max + T{0}};  // -0 + 0 is +0
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
    if (!std::isfinite(values[i])) continue;
    mins[i] = std::min(mins[i], values[i] + T{0});
    maxs[i] = std::max(maxs[i], values[i] + T{0});
  }
}

bool AllFiniteF32(const float* values, int64_t num_elems) {
  return AllFiniteImpl(values, num_elems);
}
bool AllFiniteF64(const double* values, int64_t num_elems) {
  return AllFiniteImpl(values, num_elems);
}
void ScanRunsF32(const float* values, int64_t run_elems, int64_t num_runs,
                 RunRange<float>* ranges) {
  ScanRunsImpl(values, run_elems, num_runs, ranges);
}
void ScanRunsF64(const double* values, int64_t run_elems, int64_t num_runs,
                 RunRange<double>* ranges) {
  ScanRunsImpl(values, run_elems, num_runs, ranges);
}
void ScanColumnsF32(const float* values, int64_t num_elems, float* mins, float* maxs) {
  ScanColumnsImpl(values, num_elems, mins, maxs);
}
void ScanColumnsF64(const double* values, int64_t num_elems, double* mins, double* maxs) {
  ScanColumnsImpl(values, num_elems, mins, maxs);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(AllFiniteF32);
HWY_EXPORT(AllFiniteF64);
HWY_EXPORT(ScanRunsF32);
HWY_EXPORT(ScanRunsF64);
HWY_EXPORT(ScanColumnsF32);
HWY_EXPORT(ScanColumnsF64);

bool AllFinite(const float* values, int64_t num_elems) {
  return HWY_DYNAMIC_DISPATCH(AllFiniteF32)(values, num_elems);
}
bool AllFinite(const double* values, int64_t num_elems) {
  return HWY_DYNAMIC_DISPATCH(AllFiniteF64)(values, num_elems);
}
void ScanRuns(const float* values, int64_t run_elems, int64_t num_runs, RunRange<float>* ranges) {
  HWY_DYNAMIC_DISPATCH(ScanRunsF32)(values, run_elems, num_runs, ranges);
}
void ScanRuns(const double* values, int64_t run_elems, int64_t num_runs, RunRange<double>* ranges) {
  HWY_DYNAMIC_DISPATCH(ScanRunsF64)(values, run_elems, num_runs, ranges);
}
void ScanColumns(const float* values, int64_t num_elems, float* mins, float* maxs) {
  HWY_DYNAMIC_DISPATCH(ScanColumnsF32)(values, num_elems, mins, maxs);
}
void ScanColumns(const double* values, int64_t num_elems, double* mins, double* maxs) {
  HWY_DYNAMIC_DISPATCH(ScanColumnsF64)(values, num_elems, mins, maxs);
}

}  // namespace quantd
#endif  // HWY_ONCE
