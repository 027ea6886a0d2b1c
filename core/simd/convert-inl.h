// Conversion of vectors to and from floats of at most 16 bits. Compiled once per SIMD target.
//
// Highway 1.0.3's DemoteTo rounds differently by target, so this is our own arithmetic, in two
// forms:
//
//   NarrowFloatVec      any rounding, infinity, NaN: integers alone, after NarrowFloat
//   NarrowQuickVec      half-even, to finite codes: a third of the operations, and gives the
//                       values that the codes stand for as well
//
// The second lets the addition round. To cut a magnitude of exponent k to three bits behind the
// leading one (E4M3), it adds 2^(k+20), whose last place in f32 is 2^(k-3):
//
//   x = 0.3, k = -2:   0.3 + 2^18 = 262144.3125   less 2^18 is 0.3125, the value
//                      as integers 10 more than those of 2^18: 8 is the leading one, so 010 follows
//
// Below the smallest normal, k stays at its exponent, and subnormals come out by themselves. The
// sum is the same on every target that rounds to even.
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

// Loads unsigned integers of 8 to 32 bits into ones as wide as D's lanes.
template <class DU, typename From>
HWY_INLINE hn::VFromD<DU> LoadWide(DU du, const From* from) {
  using To = hn::TFromD<DU>;
  if constexpr (sizeof(From) == sizeof(To)) {
    return hn::LoadU(du, from);
  } else if constexpr (sizeof(From) * 2 == sizeof(To) || sizeof(From) * sizeof(To) == 4) {
    return hn::PromoteTo(du, hn::LoadU(hn::Rebind<From, DU>(), from));
  } else {
    return hn::PromoteTo(du, LoadWide(hn::Rebind<uint32_t, DU>(), from));
  }
}

// Stores the low bits of integers.
template <class DU, typename To>
HWY_INLINE void StoreLow(DU /*du*/, hn::VFromD<DU> v, To* to) {
#if HWY_TARGET == HWY_AVX3
  // Highway 1.0.3 shuffles bytes, then lanes.
  if constexpr (sizeof(To) == 1 && hn::MaxLanes(DU()) * sizeof(hn::TFromD<DU>) == 64) {
    if constexpr (sizeof(hn::TFromD<DU>) == 4) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v.raw));
    } else {
      _mm_storeu_si64(to, _mm512_cvtepi64_epi8(v.raw));
    }
    return;
  }
#endif
  const hn::Rebind<To, DU> d;
  hn::StoreU(hn::TruncateTo(d, v), d, to);
}

// Loads f32 as T.
template <class D>
HWY_INLINE hn::VFromD<D> LoadF32(D d, const float* from) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::LoadU(d, from);
  } else {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), from));
  }
}

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

// Codes, in the low bits of integers as wide as the values that they stand for.
template <class D>
struct Narrowed {
  hn::VFromD<hn::RebindToUnsigned<D>> code;
  hn::VFromD<D> value;
};

// Returns what `v` rounds to half-even, of magnitudes that round to finite codes. The value of a
// negative code 0 may lack its sign. Unless kSigned, `v` is not negative.
template <MiniFormat kFormat, bool kSigned = true, class D, class V = hn::VFromD<D>>
HWY_INLINE Narrowed<D> NarrowQuickVec(D d, V v) {
  using F = FloatBits<hn::TFromD<D>>;
  using Bits = typename F::Bits;
  using VU = hn::VFromD<hn::RebindToUnsigned<D>>;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  constexpr int kMinExponent = F::kBias + 1 - kFormat.bias;
  constexpr int kShift = F::kMan - kFormat.man_bits;
  const VU bits = hn::BitCast(du, v);
  if constexpr (kMinExponent <= 1) {  // T's own exponents: the fields stay where they are
    static_assert(kFormat.sign_shift() + 1 + kShift == F::kWidth);
    const VU odd = hn::And(hn::ShiftRight<kShift>(bits), hn::Set(du, 1));
    const VU below_half = hn::Set(du, (Bits{1} << (kShift - 1)) - 1);
    const VU sum = hn::Add(hn::Add(bits, below_half), odd);
    const VU kept = hn::Set(du, static_cast<Bits>(~((Bits{1} << kShift) - 1)));
    return {hn::ShiftRight<kShift>(sum), hn::BitCast(d, hn::And(sum, kept))};
  } else {
    // The exponent, less that of the smallest normal, belongs above the mantissa of the code. It is
    // added as it is, kRaise too high; the magic number has the difference in its low bits, which
    // the sum, whose low bits the code is, takes along. It is even, so ties are still even.
    constexpr Bits kRaise = static_cast<Bits>(kShift);
    constexpr Bits kCodes = (Bits{1} << (kFormat.sign_shift() + 1)) - 1;
    constexpr Bits kOffset = (Bits{0} - ((kMinExponent + kRaise) << kFormat.man_bits)) & kCodes;
    const auto exponent =
        hn::Max(hn::BitCast(di, hn::And(bits, hn::Set(du, F::kInf))),
                hn::BitCast(di, hn::Set(du, static_cast<Bits>(kMinExponent) << F::kMan)));
    const VU raised =
        hn::Add(hn::BitCast(du, exponent), hn::Set(du, kRaise << F::kMan | kOffset));
    const V magic = kSigned ? hn::CopySignToAbs(hn::BitCast(d, raised), v) : hn::BitCast(d, raised);
    const V sum = hn::Add(v, magic);
    VU code = hn::Add(hn::BitCast(du, sum), hn::ShiftRight<kShift>(raised));
    if constexpr (kSigned) {
      const VU sign = hn::ShiftRight<F::kWidth - 1 - kFormat.sign_shift()>(bits);
      code = hn::OrAnd(code, sign, hn::Set(du, Bits{1} << kFormat.sign_shift()));
    }
    return {code, hn::Sub(sum, magic)};
  }
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
  const VU placed = hn::ShiftLeft<F::kMan - kFormat.man_bits>(magnitude);
  VU value = placed;
  if constexpr (F::kBias != kFormat.bias) {
    // Subnormals take the smallest normal's exponent and lose its leading one again.
    constexpr Bits kSmallest = static_cast<Bits>(F::kBias + 1 - kFormat.bias) << F::kMan;
    constexpr Bits kRebias = static_cast<Bits>(F::kBias - kFormat.bias) << F::kMan;
    const VU smallest = hn::Set(du, kSmallest);
    const auto raised = hn::BitCast(d, hn::Add(placed, smallest));
    const VU subnormal = hn::BitCast(du, hn::Sub(raised, hn::BitCast(d, smallest)));
    const auto is_normal =
        hn::Gt(hn::BitCast(di, placed),
               hn::Set(di, (static_cast<hwy::MakeSigned<T>>(1) << F::kMan) - 1));
    value = hn::IfThenElse(hn::RebindMask(du, is_normal), hn::Add(placed, hn::Set(du, kRebias)),
                           subnormal);
  }
  if constexpr (kFormat.max_code + 1 != 1u << kSignShift) {  // not all codes are finite
    const auto special = hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, kFormat.max_code));
    const VU mantissa = hn::And(placed, hn::Set(du, (Bits{1} << F::kMan) - 1));
    value =
        hn::IfThenElse(hn::RebindMask(du, special), hn::Or(mantissa, hn::Set(du, F::kInf)), value);
  }
  return hn::BitCast(d, hn::Or(sign, value));
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
