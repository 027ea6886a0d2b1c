// Rounding of vectors to whole numbers; compiled once per SIMD target.
#if defined(QUANTD_CORE_SIMD_ROUND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_ROUND_INL_H_
#undef QUANTD_CORE_SIMD_ROUND_INL_H_
#else
#define QUANTD_CORE_SIMD_ROUND_INL_H_
#endif

#include <hwy/highway.h>

#include "core/base/rounding.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Returns `v`, of magnitude below 2^22, rounded to whole numbers, bit for bit as RoundToWhole does.
// `noise` is the fraction of stochastic rounding, a multiple of 2^-24 in [0, 1).
template <Rounding kRounding, class D, class V = hn::VFromD<D>>
HWY_INLINE V RoundToWholeVec(D d, V v, V noise) {
  using T = hn::TFromD<D>;
  const V one = hn::Set(d, T{1}), half = hn::Set(d, static_cast<T>(0.5));
  if constexpr (kRounding == Rounding::kHalfEven) {
    return hn::Round(v);
  } else if constexpr (kRounding == Rounding::kTruncate) {
    return hn::Trunc(v);
  } else if constexpr (kRounding == Rounding::kFloor) {
    return hn::Floor(v);
  } else if constexpr (kRounding == Rounding::kCeil) {
    return hn::Ceil(v);
  } else if constexpr (kRounding == Rounding::kHalfAway) {
    const V trunc = hn::Trunc(v);
    const V step = hn::CopySign(one, v);
    return hn::IfThenElse(hn::Ge(hn::Abs(hn::Sub(v, trunc)), half), hn::Add(trunc, step), trunc);
  } else if constexpr (kRounding == Rounding::kHalfDown) {
    const V ceil = hn::Ceil(v);
    return hn::IfThenElse(hn::Ge(hn::Sub(ceil, v), half), hn::Sub(ceil, one), ceil);
  } else {
    const V floor = hn::Floor(v);
    const V fraction = hn::Sub(v, floor);
    const auto up =
        kRounding == Rounding::kHalfUp ? hn::Ge(fraction, half) : hn::Lt(noise, fraction);
    return hn::IfThenElse(up, hn::Add(floor, one), floor);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
