// Vectors of values to uniform integer codes. Compiled once per SIMD target.
//
// By the rule, the quotient x / scale is rounded to a float before it is rounded to a whole number;
// a product with the reciprocal may differ from it in the last places, and so round the other way
// where it is near a tie. QuickSteps rounds the product all the same. It is right unless |x - y|,
// which is wanted anyhow where there is a meter, is nearly half a step: then CarefulSteps divides.
// Values that are clipped, or nearly, want one too, so that only CarefulSteps clamps and counts.
//
//   code       0        1        2 = max_code
//   x / scale  0   .5   1  1.5   2  2.5 ...          a careful look at the marks
//                  ^        ^       ^^^^^^^
//
// A code of up to 8 bits makes the product err by 2^-15 of a step: half of what is left for it.
// About one value in 4,000 is near a tie by chance.
#if defined(QUANTD_CORE_SIMD_AFFINE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_AFFINE_INL_H_
#undef QUANTD_CORE_SIMD_AFFINE_INL_H_
#else
#define QUANTD_CORE_SIMD_AFFINE_INL_H_
#endif

#include <hwy/highway.h>

#include "core/simd/affine.h"
#include "core/simd/rest-inl.h"
#include "core/simd/round-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 1.5 * 2^(mantissa bits): adding it leaves a whole number in the low bits, two's complement.
template <typename T>
constexpr T Magic() {
  return static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52);
}

// Up to 16 lanes, which a meter has.
template <typename T>
using AffineTag = hn::CappedTag<T, 16>;

// Loads int32, or floats, as T; the first `count`.
template <class D>
HWY_INLINE hn::VFromD<D> LoadWhole(D d, const int32_t* from, int64_t count) {
  const hn::Rebind<int32_t, D> di;
  const auto whole = count < static_cast<int64_t>(hn::Lanes(d)) ? LoadRest(di, from, count)
                                                                : hn::LoadU(di, from);
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::ConvertTo(d, whole);
  } else {
    return hn::PromoteTo(d, whole);
  }
}
template <class D>
HWY_INLINE hn::VFromD<D> LoadScale(D d, const float* from, int64_t count) {
  const hn::Rebind<float, D> df;
  const auto scale = count < static_cast<int64_t>(hn::Lanes(d)) ? LoadRest(df, from, count)
                                                                : hn::LoadU(df, from);
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return scale;
  } else {
    return hn::PromoteTo(d, scale);
  }
}

// Loads the zero points from `i` on, as T.
template <class D>
HWY_INLINE hn::VFromD<D> LoadZeros(D d, const AffineParams& params, int64_t i, int64_t count) {
  if (params.zero_points == nullptr) {
    return hn::Set(d, static_cast<hn::TFromD<D>>(params.zero_point));
  }
  return LoadWhole(d, params.zero_points + i, count);
}

// Returns the zero point of run `r`.
HWY_INLINE int32_t ZeroOfRun(const AffineParams& params, int64_t r) {
  return params.zero_points == nullptr ? params.zero_point : LoadAt(params.zero_points, r);
}

// Loads random bits; their upper 24 as a fraction.
template <class D>
HWY_INLINE hn::VFromD<D> LoadNoise(D d, const uint32_t* from, int64_t count) {
  const hn::Rebind<uint32_t, D> du;
  const auto loaded = count < static_cast<int64_t>(hn::Lanes(d)) ? LoadRest(du, from, count)
                                                                 : hn::LoadU(du, from);
  const auto bits = hn::BitCast(hn::Rebind<int32_t, D>(), hn::ShiftRight<8>(loaded));
  const auto unit = hn::Set(d, static_cast<hn::TFromD<D>>(0x1p-24));
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::Mul(hn::ConvertTo(d, bits), unit);
  } else {
    return hn::Mul(hn::PromoteTo(d, bits), unit);
  }
}

// Scale and zero point of every lane.
template <class D>
struct AffineLanes {
  hn::VFromD<D> scale, zero;
};

// The codes of a vector, in the low bits, and what they stand for.
template <class D>
struct AffineSteps {
  hn::VFromD<D> code, y;
};

// The rule as it is written. Counts in `clipped`, down from 0.
template <Rounding kRounding, bool kZeroFirst, class D>
class CarefulSteps {
 public:
  using T = hn::TFromD<D>;
  using V = hn::VFromD<D>;
  using DI = hn::RebindToSigned<D>;

  explicit CarefulSteps(const AffineRule& rule)
      : min_(hn::Set(d_, static_cast<T>(rule.min_code))),
        max_(hn::Set(d_, static_cast<T>(rule.max_code))),
        clipped_(hn::Zero(DI())) {}

  HWY_INLINE AffineSteps<D> Encode(V x, const AffineLanes<D>& params, V noise) {
    const V half = hn::Set(d_, static_cast<T>(0.5)), magic = hn::Set(d_, Magic<T>());
    V v = hn::Div(x, params.scale), low = min_, high = max_;
    if constexpr (kZeroFirst) {
      v = hn::Add(v, params.zero);
    } else {
      low = hn::Sub(low, params.zero);
      high = hn::Sub(high, params.zero);
    }
    const auto outside =
        hn::Or(hn::Le(v, hn::Sub(low, half)), hn::Ge(v, hn::Add(high, half)));
    clipped_ = hn::Add(clipped_, hn::VecFromMask(DI(), hn::RebindMask(DI(), outside)));
    const V whole = RoundToWholeVec<kRounding>(d_, hn::Min(hn::Max(v, low), high), noise);
    if constexpr (kZeroFirst) {
      return {hn::Add(whole, magic), hn::Mul(hn::Sub(whole, params.zero), params.scale)};
    } else {
      return {hn::Add(whole, hn::Add(magic, params.zero)), hn::Mul(whole, params.scale)};
    }
  }

  int64_t Clipped() const { return -int64_t{hn::GetLane(hn::SumOfLanes(DI(), clipped_))}; }

 private:
  const D d_;
  const V min_, max_;
  hn::VFromD<DI> clipped_;
};

// How near half a step |x - y| may come until a careful look is due, as a fraction of a step; and
// how far x may lie outside the codes.
inline constexpr double kNearTie = 0.5 - 0x1p-13;
inline constexpr double kNearClip = 0.49;

// True where the reciprocal of a scale, and what it and the scale are multiplied with, stay away
// from the ends of f32's range.
inline bool MayUseReciprocal(float scale) { return scale >= 0x1p-80f && scale <= 0x1p80f; }

// The parameters of a run, ready for use.
template <class D>
struct QuickRun {
  hn::VFromD<D> scale, reciprocal, magic, lowest, highest;
  hn::VFromD<hn::RebindToSigned<D>> near_tie;
};

// A vector of values with their codes and what these stand for, as long as there is no doubt.
template <class D>
struct QuickSteps {
  using V = hn::VFromD<D>;
  using DI = hn::RebindToSigned<D>;

  HWY_INLINE QuickSteps(D d, V values, const QuickRun<D>& run)
      : x(values),
        code(hn::MulAdd(x, run.reciprocal, run.magic)),
        y(hn::Mul(hn::Sub(code, run.magic), run.scale)),
        e(hn::Sub(x, y)),
        magnitude(hn::BitCast(DI(), hn::Abs(e))) {
    (void)d;
  }

  V x, code, y, e;
  hn::VFromD<DI> magnitude;  // of e; NaN is above all
};

// True if some x of the extremes given, by lane, wants a careful look.
template <class D>
HWY_INLINE bool InDoubt(D d, hn::VFromD<D> min, hn::VFromD<D> max,
                        hn::VFromD<hn::RebindToSigned<D>> magnitude, const QuickRun<D>& run) {
  const auto outside = hn::Or(hn::Lt(min, run.lowest), hn::Gt(max, run.highest));
  const auto near_tie = hn::RebindMask(d, hn::Gt(magnitude, run.near_tie));
  return !hn::AllFalse(d, hn::Or(outside, near_tie));
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
