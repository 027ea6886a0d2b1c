// a * b + c, rounded once, on every target. Compiled once per SIMD target.
//
// Formats whose own code was compiled with fused multiply-add decode so. Targets without it take
// double: there the product of two floats is exact, and a sum that is rounded to odd (the last bit
// is set where something was cut off) becomes the float nearest to the exact sum (Boldo and
// Melquiond, "When double rounding is odd", 2005). 6 * 0.003921568859f - 0.1f shows it: two
// roundings give -0.076470584, one gives -0.076470591.
#if defined(QUANTD_CORE_SIMD_FUSED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_FUSED_INL_H_
#undef QUANTD_CORE_SIMD_FUSED_INL_H_
#else
#define QUANTD_CORE_SIMD_FUSED_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if !HWY_NATIVE_FMA
// Returns a + b of doubles as a float, rounded once.
template <class DF, class DD, class V = hn::VFromD<DD>>
HWY_INLINE hn::VFromD<DF> AddAsFloat(DF df, DD d, V a, V b) {
  const hn::RebindToSigned<DD> di;
  const V sum = hn::Add(a, b);
  const V b_part = hn::Sub(sum, a);
  const V lost = hn::Add(hn::Sub(a, hn::Sub(sum, b_part)), hn::Sub(b, b_part));  // exact (Knuth)
  const auto bits = hn::BitCast(di, sum);
  const auto one = hn::Set(di, 1);
  // One less in magnitude where rounding went away from zero.
  const auto opposite = hn::Lt(hn::Xor(bits, hn::BitCast(di, lost)), hn::Zero(di));
  const auto odd = hn::Or(hn::Sub(bits, hn::IfThenElseZero(opposite, one)), one);
  const auto is_inexact = hn::Gt(hn::Abs(lost), hn::Zero(d));  // not for NaN
  const auto inexact = hn::RebindMask(di, is_inexact);
  const auto rounded = hn::BitCast(d, hn::IfThenElse(inexact, odd, bits));
  // What rounds to infinity, at half a step beyond the largest float: Highway's DemoteTo stops at
  // that one on some targets, so it is doubled.
  const auto beyond = hn::Ge(hn::Abs(rounded), hn::Set(d, 0x1.ffffffp127));
  const V factor = hn::IfThenElse(beyond, hn::Set(d, 2.0), hn::Set(d, 1.0));
  return hn::Mul(hn::DemoteTo(df, rounded), hn::DemoteTo(df, factor));
}
#endif

// Returns a * b + c of floats.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE V FusedMulAdd(D d, V a, V b, V c) {
#if HWY_NATIVE_FMA
  (void)d;
  return hn::MulAdd(a, b, c);
#else
  const auto part = [](auto df, auto a_part, auto b_part, auto c_part) HWY_ATTR {
    const hn::Rebind<double, decltype(df)> dd;
    const auto product = hn::Mul(hn::PromoteTo(dd, a_part), hn::PromoteTo(dd, b_part));
    return AddAsFloat(df, dd, product, hn::PromoteTo(dd, c_part));
  };
#if HWY_TARGET == HWY_SCALAR
  return part(d, a, b, c);
#else
  const hn::Half<D> dh;
  return hn::Combine(
      d, part(dh, hn::UpperHalf(dh, a), hn::UpperHalf(dh, b), hn::UpperHalf(dh, c)),
      part(dh, hn::LowerHalf(dh, a), hn::LowerHalf(dh, b), hn::LowerHalf(dh, c)));
#endif
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
