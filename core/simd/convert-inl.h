// Conversion of vectors to and from floats of at most 16 bits, by integer arithmetic:
// Highway 1.0.3's DemoteTo rounds differently by target. Compiled once per SIMD target.
#if defined(QUANTD_CORE_SIMD_CONVERT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_CONVERT_INL_H_
#undef QUANTD_CORE_SIMD_CONVERT_INL_H_
#else
#define QUANTD_CORE_SIMD_CONVERT_INL_H_
#endif

#include <hwy/highway.h>

#include <bit>
#include <limits>

#include "core/base/minifloat.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How float or double is laid out.
template <typename T>
struct FloatBits {
  using Bits = hwy::MakeUnsigned<T>;
  static constexpr int kWidth = 8 * sizeof(T);
  static constexpr int kMan = std::numeric_limits<T>::digits - 1;
  static constexpr int kBias = std::numeric_limits<T>::max_exponent - 1;
  static constexpr Bits kSign = Bits{1} << (kWidth - 1);
  static constexpr Bits kInf = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
};

// What rounding adds before `shift` bits are cut off; see RoundingIncrement. `noise` holds 32 bits.
template <Rounding kRounding, class DU, class VU = hn::VFromD<DU>, class M>
HWY_INLINE VU RoundingIncrementVec(DU du, VU shift, VU odd, M negative, VU noise) {
  const VU one = hn::Set(du, 1), zero = hn::Zero(du);
  const VU half = hn::Shl(one, hn::Sub(shift, one));
  const VU below_half = hn::Sub(half, one);
  const VU below_one = hn::Sub(hn::Shl(one, shift), one);
  if constexpr (kRounding == Rounding::kHalfEven) {
    return hn::Add(below_half, odd);
  } else if constexpr (kRounding == Rounding::kHalfAway) {
    return half;
  } else if constexpr (kRounding == Rounding::kHalfUp) {
    return hn::IfThenElse(negative, below_half, half);
  } else if constexpr (kRounding == Rounding::kHalfDown) {
    return hn::IfThenElse(negative, half, below_half);
  } else if constexpr (kRounding == Rounding::kTruncate) {
    return zero;
  } else if constexpr (kRounding == Rounding::kFloor) {
    return hn::IfThenElse(negative, below_one, zero);
  } else if constexpr (kRounding == Rounding::kCeil) {
    return hn::IfThenElse(negative, zero, below_one);
  } else if constexpr (sizeof(hn::TFromD<DU>) == 4) {
    return hn::Sub(below_one, hn::Shr(noise, hn::Sub(hn::Set(du, 32), shift)));
  } else {  // from double at least 32 bits are cut off
    return hn::Sub(below_one, hn::Shl(noise, hn::Sub(shift, hn::Set(du, 32))));
  }
}

// Returns the codes of `v` in integers as wide as it, bit for bit as NarrowFloat gives them.
template <MiniFormat kFormat, Rounding kRounding, class D, class DU = hn::RebindToUnsigned<D>>
HWY_INLINE hn::VFromD<DU> NarrowFloatVec(D /*d*/, hn::VFromD<D> v, bool saturate,
                                         hn::VFromD<DU> noise) {
  using T = hn::TFromD<D>;
  using F = FloatBits<T>;
  using Bits = typename F::Bits;
  using VU = hn::VFromD<DU>;
  const DU du;
  const hn::RebindToSigned<D> di;
  // The smallest normal's exponent, as T has it; from f32 to bf16 it is T's own.
  constexpr int kMinExponent = F::kBias + 1 - kFormat.bias;
  constexpr int kBaseShift = F::kMan - kFormat.man_bits;
  constexpr int kMaxShift = sizeof(T) == 4 ? 31 : 60;
  const VU one = hn::Set(du, 1), zero = hn::Zero(du);
  const VU bits = hn::BitCast(du, v);
  const VU magnitude = hn::And(bits, hn::Set(du, static_cast<Bits>(~F::kSign)));
  const VU sign = hn::ShiftLeft<kFormat.sign_shift()>(hn::ShiftRight<F::kWidth - 1>(bits));
  const auto negative = hn::Ne(sign, zero);
  VU code;
  if constexpr (kMinExponent <= 1) {  // T's own exponents: the fields stay where they are
    const VU shift = hn::Set(du, kBaseShift);
    const VU odd = hn::And(hn::ShiftRight<kBaseShift>(magnitude), one);
    const VU increment = RoundingIncrementVec<kRounding>(du, shift, odd, negative, noise);
    code = hn::ShiftRight<kBaseShift>(hn::Add(magnitude, increment));
  } else {
    const VU stored_exponent = hn::ShiftRight<F::kMan>(magnitude);
    const VU stored_mantissa = hn::And(magnitude, hn::Set(du, (Bits{1} << F::kMan) - 1));
    const auto subnormal = hn::Eq(stored_exponent, zero);
    VU mantissa = hn::IfThenElse(subnormal, stored_mantissa,
                                 hn::Or(stored_mantissa, hn::Set(du, Bits{1} << F::kMan)));
    const VU exponent = hn::Add(stored_exponent, hn::IfThenElseZero(subnormal, one));
    const auto delta = hn::Sub(hn::BitCast(di, exponent), hn::Set(di, kMinExponent));
    const auto below = hn::Lt(delta, hn::Zero(di));
    const VU raised = hn::BitCast(du, hn::IfThenZeroElse(below, delta));
    const auto wanted = hn::Sub(hn::Set(di, kBaseShift), hn::IfThenElseZero(below, delta));
    const auto far = hn::Gt(wanted, hn::Set(di, kMaxShift));
    const VU shift = hn::BitCast(du, hn::IfThenElse(far, hn::Set(di, kMaxShift), wanted));
    const VU sticky =
        hn::IfThenElse(hn::Eq(mantissa, zero), zero, hn::Set(du, Bits{1} << (F::kMan - 23)));
    mantissa = hn::IfThenElse(hn::RebindMask(du, far), sticky, mantissa);
    const VU odd = hn::And(hn::Shr(mantissa, shift), one);
    const VU increment = RoundingIncrementVec<kRounding>(du, shift, odd, negative, noise);
    const VU rounded = hn::Shr(hn::Add(mantissa, increment), shift);
    code = hn::Add(hn::ShiftLeft<kFormat.man_bits>(raised), rounded);
  }
  const uint32_t overflow = saturate || kFormat.inf_code == 0 ? kFormat.max_code : kFormat.inf_code;
  const auto over = hn::Gt(hn::BitCast(di, code), hn::Set(di, kFormat.max_code));
  VU result = hn::Or(sign, hn::IfThenElse(hn::RebindMask(du, over), hn::Set(du, overflow), code));
  const auto is_nan = hn::RebindMask(
      du,
      hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, static_cast<hwy::MakeSigned<T>>(F::kInf))));
  VU nan = zero;
  if constexpr (kFormat.keeps_payload) {
    const VU payload = hn::ShiftRight<kBaseShift>(hn::Sub(magnitude, hn::Set(du, F::kInf)));
    const VU nonzero = hn::IfThenElse(hn::Eq(payload, zero), one, payload);
    nan = hn::Or(hn::Or(sign, hn::Set(du, kFormat.nan_code)), nonzero);
  } else if constexpr (kFormat.nan_code != 0) {
    nan = hn::Or(sign, hn::Set(du, kFormat.nan_code));
  }
  return hn::IfThenElse(is_nan, nan, result);
}

// Returns the values of `codes`, bit for bit as WidenFloat gives them.
template <MiniFormat kFormat, class D, class DU = hn::RebindToUnsigned<D>>
HWY_INLINE hn::VFromD<D> WidenFloatVec(D d, hn::VFromD<DU> codes) {
  using T = hn::TFromD<D>;
  using F = FloatBits<T>;
  using Bits = typename F::Bits;
  using VU = hn::VFromD<DU>;
  const DU du;
  const hn::RebindToSigned<D> di;
  constexpr int kSignShift = kFormat.sign_shift();
  const VU magnitude = hn::And(codes, hn::Set(du, (Bits{1} << kSignShift) - 1));
  const VU sign = hn::ShiftLeft<F::kWidth - 1>(hn::ShiftRight<kSignShift>(codes));
  // The code's bits in place, as a number with T's bias, which a power of two makes right: exact.
  constexpr Bits kFactor = static_cast<Bits>(2 * F::kBias - kFormat.bias) << F::kMan;
  const VU placed = hn::ShiftLeft<F::kMan - kFormat.man_bits>(magnitude);
  VU value = placed;
  if constexpr (F::kBias != kFormat.bias) {
    value = hn::BitCast(du, hn::Mul(hn::BitCast(d, placed), hn::BitCast(d, hn::Set(du, kFactor))));
  }
  const auto special = hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, kFormat.max_code));
  const VU mantissa = hn::And(placed, hn::Set(du, (Bits{1} << F::kMan) - 1));
  value =
      hn::IfThenElse(hn::RebindMask(du, special), hn::Or(mantissa, hn::Set(du, F::kInf)), value);
  return hn::BitCast(d, hn::Or(sign, value));
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
