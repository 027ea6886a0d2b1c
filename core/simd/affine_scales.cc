// Entry: ResolveScales. Tested by tests/core/scheme/affine_test.cc against the scalar rule.
#include "core/simd/affine_scales.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/affine_scales.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/rest-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
struct ResolvedScales {
  hn::VFromD<D> scale, zero_point;  // as doubles
  int64_t first_beyond;             // lane whose scale is above the rule's largest; -1: none
};

template <class D, class V = hn::VFromD<D>>
HWY_INLINE ResolvedScales<D> ResolveVec(D d, const ScaleRule& rule, V min, V max) {
  const V zero = hn::Zero(d), one = hn::Set(d, 1.0);
  const V smallest = hn::Set(d, std::numeric_limits<float>::min());
  const V largest = hn::Set(d, std::numeric_limits<float>::max());
  const hn::Rebind<float, D> df;
  const auto any = hn::Le(min, max);
  min = hn::IfThenElseZero(any, min);
  max = hn::IfThenElseZero(any, max);
  const V low = hn::Min(min, zero), high = hn::Max(max, zero);
  const V width =
      rule.symmetric ? hn::Max(hn::Abs(min), hn::Abs(max)) : hn::Sub(high, low);
  const V exact = hn::Div(width, hn::Set(d, rule.divisor));
  const V held = hn::Min(hn::Max(exact, smallest), largest);
  const V rounded = hn::PromoteTo(d, hn::DemoteTo(df, held));
  const V scale = hn::IfThenElse(hn::Eq(exact, zero), one, rounded);
  const int64_t first_beyond = hn::FindFirstTrue(d, hn::Gt(exact, hn::Set(d, rule.largest)));
  if (rule.symmetric) return {scale, zero, first_beyond};
  const V min_code = hn::Set(d, rule.min_code), max_code = hn::Set(d, rule.max_code);
  const V zero_point = hn::Round(hn::Sub(min_code, hn::Div(low, scale)));
  return {scale, hn::Min(hn::Max(zero_point, min_code), max_code), first_beyond};
}

int64_t ResolveScalesImpl(const ScaleRule& rule, const double* HWY_RESTRICT ranges,
                          int64_t num_ranges, float* HWY_RESTRICT scales,
                          int32_t* HWY_RESTRICT zero_points) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const hn::Rebind<int32_t, decltype(d)> di;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  for (int64_t i = 0; i < num_ranges; i += kLanes) {
    const int64_t count = std::min(kLanes, num_ranges - i);
    double pad[2 * kLanes] = {};
    if (count < kLanes) std::copy_n(ranges + 2 * i, 2 * count, pad);
    auto min = hn::Zero(d), max = min;
    hn::LoadInterleaved2(d, count < kLanes ? pad : ranges + 2 * i, min, max);
    const auto made = ResolveVec(d, rule, min, max);
    const auto scale = hn::DemoteTo(df, made.scale);
    const auto zero_point = hn::DemoteTo(di, made.zero_point);
    const bool holds = made.first_beyond < 0 || made.first_beyond >= count;
    const int64_t good = holds ? count : made.first_beyond;
    if (good == kLanes) {
      hn::StoreU(scale, df, scales + i);
      if (!rule.symmetric) hn::StoreU(zero_point, di, zero_points + i);
    } else {
      StoreRest(scale, df, scales + i, good);
      if (!rule.symmetric) StoreRest(zero_point, di, zero_points + i, good);
    }
    if (!holds) return i + good;
  }
  return num_ranges;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(ResolveScalesImpl);

int64_t ResolveScales(const ScaleRule& rule, const double* ranges, int64_t num_ranges,
                      float* scales, int32_t* zero_points) {
  return HWY_DYNAMIC_DISPATCH(ResolveScalesImpl)(rule, ranges, num_ranges, scales, zero_points);
}

}  // namespace quantd
#endif  // HWY_ONCE
