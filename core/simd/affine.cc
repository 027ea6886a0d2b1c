#include "core/simd/affine.h"

#include <algorithm>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/affine.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/prefetch.h"
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

// Loads int32 as T, and as integers as wide as T.
template <class D>
HWY_INLINE hn::VFromD<D> LoadWhole(D d, const int32_t* from) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::ConvertTo(d, hn::LoadU(hn::RebindToSigned<D>(), from));
  } else {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<int32_t, D>(), from));
  }
}
template <class D>
HWY_INLINE hn::VFromD<D> LoadScale(D d, const float* from) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::LoadU(d, from);
  } else {
    return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), from));
  }
}
// The upper 24 bits as a fraction.
template <class D>
HWY_INLINE hn::VFromD<D> LoadNoise(D d, const uint32_t* from) {
  const hn::Rebind<int32_t, D> di32;
  const auto bits =
      hn::BitCast(di32, hn::ShiftRight<8>(hn::LoadU(hn::Rebind<uint32_t, D>(), from)));
  const auto unit = hn::Set(d, static_cast<hn::TFromD<D>>(0x1p-24));
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return hn::Mul(hn::ConvertTo(d, bits), unit);
  } else {
    return hn::Mul(hn::PromoteTo(d, bits), unit);
  }
}

// How x / scale is made. kByReciprocal gives the same bits wherever rounding to a whole number
// could tell, in a quarter of the time of a division on some machines; for scales that
// MayUseReciprocal allows.
enum class Quotient { kByDivision, kByReciprocal };

// True where neither the reciprocal nor what is left after a division comes near the ends of f32's
// range, as long as the quotient is at least 1/4; smaller ones round to zero in any case.
inline bool MayUseReciprocal(float scale) { return scale >= 0x1p-80f && scale <= 0x1p80f; }

// One vector of values to codes; keeps the extremes of x, or of x / scale relative to the clamp
// where each element has a scale of its own.
template <Rounding kRounding, bool kPerElem, Quotient kQuotient, typename T, typename Code>
class AffineEncoder {
 public:
  using D = hn::ScalableTag<T>;
  using V = hn::VFromD<D>;
  explicit AffineEncoder(const AffineParams& params)
      : params_(params),
        scale_(hn::Set(d_, static_cast<T>(params.scale))),
        low_(hn::Set(d_, static_cast<T>(params.min_code - params.zero_point))),
        high_(hn::Set(d_, static_cast<T>(params.max_code - params.zero_point))),
        reciprocal_(hn::Set(d_, T{1} / static_cast<T>(params.scale))),
        lowest_(hn::Mul(low_, scale_)),
        highest_(hn::Mul(high_, scale_)),
        magic_(hn::Set(d_, Magic<T>() + static_cast<T>(params.zero_point))),
        below_(hn::Set(d_, std::numeric_limits<T>::infinity())),
        above_(hn::Neg(below_)) {}

  // Encodes `x`, element `i` of the parameters and what follows; returns code - zero_point.
  HWY_INLINE V Encode(V x, int64_t i, const uint32_t* noise, Code* codes) {
    const hn::RebindToUnsigned<D> du;
    const hn::Rebind<Code, D> dc;
    V scale = scale_, low = low_, high = high_, magic = magic_;
    if constexpr (kPerElem) {
      scale = LoadScale(d_, params_.scales + i);
      const V zero_point = LoadWhole(d_, params_.zero_points + i);
      low = hn::Sub(hn::Set(d_, static_cast<T>(params_.min_code)), zero_point);
      high = hn::Sub(hn::Set(d_, static_cast<T>(params_.max_code)), zero_point);
      magic = hn::Add(hn::Set(d_, Magic<T>()), zero_point);
    }
    V v;
    if constexpr (kQuotient == Quotient::kByDivision) {
      v = hn::Div(x, scale);
    } else {
      v = DivideByReciprocal(hn::Min(hn::Max(x, lowest_), highest_));
    }
    if constexpr (kPerElem) {
      below_ = hn::Min(below_, hn::Sub(v, low));
      above_ = hn::Max(above_, hn::Sub(v, high));
    } else {
      below_ = hn::Min(below_, x);
      above_ = hn::Max(above_, x);
    }
    if constexpr (kQuotient == Quotient::kByDivision) v = hn::Min(hn::Max(v, low), high);
    const V random = kRounding == Rounding::kStochastic ? LoadNoise(d_, noise + i) : hn::Zero(d_);
    const V whole = RoundToWholeVec<kRounding>(d_, v, random);
    hn::StoreU(hn::TruncateTo(dc, hn::BitCast(du, hn::Add(whole, magic))), dc, codes);
    return whole;
  }

  V below() const { return below_; }
  V above() const { return above_; }

  // True where some lane of x / scale may lie half a step or more outside.
  bool MayHaveClipped() const {
    const V half = hn::Set(d_, static_cast<T>(0.5));
    if constexpr (kPerElem) {
      return !hn::AllFalse(d_, hn::Or(hn::Le(below_, hn::Neg(half)), hn::Ge(above_, half)));
    } else {
      return !hn::AllFalse(d_, hn::Or(hn::Le(hn::Div(below_, scale_), hn::Sub(low_, half)),
                                      hn::Ge(hn::Div(above_, scale_), hn::Add(high_, half))));
    }
  }

 private:
  // A quotient that is faithful becomes the one that is rounded to nearest by one step with the
  // correctly rounded reciprocal (Markstein; Muller et al., Handbook of Floating-Point Arithmetic,
  // on division with a fused multiply-add). The step before makes it faithful. `x` has been clamped
  // to what the outermost codes stand for, whose quotients round to those codes.
  HWY_INLINE V DivideByReciprocal(V x) const {
    V q = hn::Mul(x, reciprocal_);
    q = hn::MulAdd(hn::NegMulAdd(q, scale_, x), reciprocal_, q);
    return hn::MulAdd(hn::NegMulAdd(q, scale_, x), reciprocal_, q);
  }

  const D d_;
  const AffineParams& params_;
  const V scale_, low_, high_, reciprocal_, lowest_, highest_, magic_;
  V below_, above_;
};

// Encodes whole vectors; true if some value may be clipped. Not inlined, for the compiler's sake.
template <Rounding kRounding, bool kPerElem, Quotient kQuotient, typename T, typename Code>
HWY_NOINLINE bool EncodeVectors(const T* HWY_RESTRICT values, int64_t num_elems,
                                const AffineParams& params, const uint32_t* HWY_RESTRICT noise,
                                Code* HWY_RESTRICT codes) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  AffineEncoder<kRounding, kPerElem, kQuotient, T, Code> encoder(params);
  for (int64_t i = 0; i < num_elems; i += lanes) {
    PrefetchBehind(values + i);
    encoder.Encode(hn::LoadU(d, values + i), i, noise, codes + i);
  }
  return encoder.MayHaveClipped();
}

// Encodes and measures, one vector of lanes after the other, so that registers hold its sums: the
// tile stays in the L1 cache. True if some value may be clipped.
template <Quotient kQuotient, typename Code>
HWY_NOINLINE bool EncodeMeasuredVectors(const float* HWY_RESTRICT values, int64_t num_elems,
                                        const AffineParams& params, Code* HWY_RESTRICT codes,
                                        FigureLanes<float>& lanes) {
  using Encoder = AffineEncoder<Rounding::kHalfEven, false, kQuotient, float, Code>;
  using V = typename Encoder::V;
  const typename Encoder::D d;
  const hn::RebindToSigned<typename Encoder::D> di;
  static_assert(hn::MaxLanes(typename Encoder::D()) <= 16, "a lane has a place of its own");
  const V scale = hn::Set(d, params.scale);
  bool may_have_clipped = false;
  for (size_t k = 0; k < 16; k += hn::Lanes(d)) {
    Encoder encoder(params);
    V sum = hn::LoadU(d, lanes.sum.data() + k), signal = hn::LoadU(d, lanes.signal.data() + k),
      error = hn::LoadU(d, lanes.error.data() + k), cross = hn::LoadU(d, lanes.cross.data() + k);
    // Magnitudes are compared as integers, as in figures.cc.
    auto max_error = hn::BitCast(di, hn::LoadU(d, lanes.max_error.data() + k));
    for (int64_t i = static_cast<int64_t>(k); i < num_elems; i += 16) {
      if (k == 0) PrefetchBehind(values + i);
      const V x = hn::LoadU(d, values + i);
      const V y = hn::Mul(encoder.Encode(x, i, nullptr, codes + i), scale);
      const V e = hn::Sub(x, y);
      sum = hn::Add(sum, x);
      signal = hn::Add(signal, hn::Mul(x, x));
      error = hn::Add(error, hn::Mul(e, e));
      cross = hn::Add(cross, hn::Mul(x, y));
      max_error = hn::Max(max_error, hn::BitCast(di, hn::Abs(e)));
    }
    const V min = hn::Min(hn::LoadU(d, lanes.min.data() + k), encoder.below());
    const V max = hn::Max(hn::LoadU(d, lanes.max.data() + k), encoder.above());
    hn::StoreU(sum, d, lanes.sum.data() + k);
    hn::StoreU(signal, d, lanes.signal.data() + k);
    hn::StoreU(error, d, lanes.error.data() + k);
    hn::StoreU(cross, d, lanes.cross.data() + k);
    hn::StoreU(min, d, lanes.min.data() + k);
    hn::StoreU(max, d, lanes.max.data() + k);
    hn::StoreU(hn::Max(hn::Abs(min), hn::Abs(max)), d, lanes.max_signal.data() + k);
    hn::StoreU(hn::BitCast(d, max_error), d, lanes.max_error.data() + k);
    may_have_clipped = may_have_clipped || encoder.MayHaveClipped();
  }
  return may_have_clipped;
}

// Counts the values whose x / scale lies half a step or more outside.
template <typename T>
HWY_NOINLINE int64_t CountClipped(const T* HWY_RESTRICT values, int64_t num_elems,
                                  const AffineParams& params) {
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const bool per_elem = params.scales != nullptr;
    const T scale = static_cast<T>(per_elem ? params.scales[i] : params.scale);
    const int32_t zero_point = per_elem ? params.zero_points[i] : params.zero_point;
    const T v = values[i] / scale;
    clipped += v <= static_cast<T>(params.min_code - zero_point) - static_cast<T>(0.5) ||
               v >= static_cast<T>(params.max_code - zero_point) + static_cast<T>(0.5);
  }
  return clipped;
}

template <Rounding kRounding, bool kPerElem, Quotient kQuotient, typename T, typename Code>
int64_t EncodeAffineWith(const T* values, int64_t num_elems, const AffineParams& params,
                         const uint32_t* noise, Code* codes) {
  constexpr int64_t kMax = hn::MaxLanes(hn::ScalableTag<T>());
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  const int64_t whole = num_elems / lanes * lanes;
  bool may_have_clipped =
      EncodeVectors<kRounding, kPerElem, kQuotient>(values, whole, params, noise, codes);
  if (const int64_t rest = num_elems - whole; rest > 0) {
    T pad[kMax] = {};
    Code pad_codes[kMax];
    float scales[kMax];
    int32_t zero_points[kMax];
    uint32_t pad_noise[kMax] = {};
    std::copy_n(values + whole, rest, pad);
    if (kRounding == Rounding::kStochastic) std::copy_n(noise + whole, rest, pad_noise);
    AffineParams pad_params = params;
    if (kPerElem) {  // zeros that any parameters encode without clipping
      std::fill_n(scales, kMax, 1.0f);
      std::fill_n(zero_points, kMax, std::max(0, params.min_code));
      std::copy_n(params.scales + whole, rest, scales);
      std::copy_n(params.zero_points + whole, rest, zero_points);
      pad_params.scales = scales;
      pad_params.zero_points = zero_points;
    }
    may_have_clipped |=
        EncodeVectors<kRounding, kPerElem, kQuotient>(pad, lanes, pad_params, pad_noise, pad_codes);
    std::copy_n(pad_codes, rest, codes + whole);
  }
  return may_have_clipped ? CountClipped(values, num_elems, params) : 0;
}

template <Rounding kRounding, typename T, typename Code>
int64_t EncodeAffineEither(const T* values, int64_t num_elems, const AffineParams& params,
                           const uint32_t* noise, Code* codes) {
  constexpr Quotient kByDivision = Quotient::kByDivision;
  if (params.scales != nullptr) {
    return EncodeAffineWith<kRounding, true, kByDivision>(values, num_elems, params, noise, codes);
  }
  // Without a fused multiply-add the steps would be rounded, and only rounding to the nearest whole
  // number does not mind what becomes of tiny quotients.
  if constexpr (HWY_NATIVE_FMA && kRounding == Rounding::kHalfEven && sizeof(T) == 4) {
    if (MayUseReciprocal(params.scale)) {
      return EncodeAffineWith<kRounding, false, Quotient::kByReciprocal>(values, num_elems, params,
                                                                         noise, codes);
    }
  }
  return EncodeAffineWith<kRounding, false, kByDivision>(values, num_elems, params, noise, codes);
}

template <typename T, typename Code>
int64_t EncodeAffineImpl(Rounding rounding, const T* values, int64_t num_elems,
                         const AffineParams& params, const uint32_t* noise, Code* codes) {
  switch (rounding) {
    case Rounding::kHalfEven:
      return EncodeAffineEither<Rounding::kHalfEven>(values, num_elems, params, noise, codes);
    case Rounding::kHalfAway:
      return EncodeAffineEither<Rounding::kHalfAway>(values, num_elems, params, noise, codes);
    case Rounding::kHalfUp:
      return EncodeAffineEither<Rounding::kHalfUp>(values, num_elems, params, noise, codes);
    case Rounding::kHalfDown:
      return EncodeAffineEither<Rounding::kHalfDown>(values, num_elems, params, noise, codes);
    case Rounding::kTruncate:
      return EncodeAffineEither<Rounding::kTruncate>(values, num_elems, params, noise, codes);
    case Rounding::kFloor:
      return EncodeAffineEither<Rounding::kFloor>(values, num_elems, params, noise, codes);
    case Rounding::kCeil:
      return EncodeAffineEither<Rounding::kCeil>(values, num_elems, params, noise, codes);
    case Rounding::kStochastic:
      return EncodeAffineEither<Rounding::kStochastic>(values, num_elems, params, noise, codes);
  }
  return 0;
}

template <typename Code>
int64_t EncodeMeasuredImpl(const float* values, int64_t num_elems, const AffineParams& params,
                           Code* codes, FigureLanes<float>& lanes) {
  constexpr Quotient kFast = HWY_NATIVE_FMA ? Quotient::kByReciprocal : Quotient::kByDivision;
  const bool may_have_clipped =
      MayUseReciprocal(params.scale)
          ? EncodeMeasuredVectors<kFast>(values, num_elems, params, codes, lanes)
          : EncodeMeasuredVectors<Quotient::kByDivision>(values, num_elems, params, codes, lanes);
  return may_have_clipped ? CountClipped(values, num_elems, params) : 0;
}

template <typename Code, typename T>
void DecodeAffineImpl(const Code* HWY_RESTRICT codes, int64_t num_elems, const AffineParams& params,
                      T* HWY_RESTRICT values) {
  const hn::ScalableTag<T> d;
  const hn::Rebind<int32_t, decltype(d)> di32;
  const hn::Rebind<Code, decltype(d)> dc;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const bool per_elem = params.scales != nullptr;
  const auto scale = hn::Set(d, static_cast<T>(params.scale));
  const auto zero_point = hn::Set(di32, params.zero_point);
  int64_t i = 0;
  for (; i + lanes <= num_elems; i += lanes) {
    const auto code = hn::PromoteTo(di32, hn::LoadU(dc, codes + i));
    const auto steps =
        hn::Sub(code, per_elem ? hn::LoadU(di32, params.zero_points + i) : zero_point);
    const auto factor = per_elem ? LoadScale(d, params.scales + i) : scale;
    if constexpr (sizeof(T) == 4) {
      hn::StoreU(hn::Mul(hn::ConvertTo(d, steps), factor), d, values + i);
    } else {
      hn::StoreU(hn::Mul(hn::PromoteTo(d, steps), factor), d, values + i);
    }
  }
  for (; i < num_elems; ++i) {
    const int32_t steps = codes[i] - (per_elem ? params.zero_points[i] : params.zero_point);
    values[i] = static_cast<T>(steps) * static_cast<T>(per_elem ? params.scales[i] : params.scale);
  }
}

void PackNibblesImpl(const uint8_t* HWY_RESTRICT codes, int64_t num_codes, bool first_high,
                     uint8_t* HWY_RESTRICT packed) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no vectors of pairs
  const hn::ScalableTag<uint16_t> d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const int64_t pairs_per_vec = static_cast<int64_t>(hn::Lanes(d));
  const auto nibble = hn::Set(d, 0x0F);
  for (; i + 2 * pairs_per_vec <= num_codes; i += 2 * pairs_per_vec) {
    const auto pair = hn::BitCast(d, hn::LoadU(hn::Repartition<uint8_t, decltype(d)>(), codes + i));
    const auto first = hn::And(pair, nibble);
    const auto second = hn::And(hn::ShiftRight<8>(pair), nibble);
    const auto byte = first_high ? hn::Or(hn::ShiftLeft<4>(first), second)
                                 : hn::Or(first, hn::ShiftLeft<4>(second));
    hn::StoreU(hn::TruncateTo(d8, byte), d8, packed + i / 2);
  }
#endif
  for (; i < num_codes; i += 2) {
    const unsigned first = codes[i] & 0x0F, second = i + 1 < num_codes ? codes[i + 1] & 0x0F : 0;
    packed[i / 2] = static_cast<uint8_t>(first_high ? first << 4 | second : first | second << 4);
  }
}

void UnpackNibblesImpl(const uint8_t* HWY_RESTRICT packed, int64_t num_codes, bool first_high,
                       uint8_t* HWY_RESTRICT codes) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR  // which has no vectors of pairs
  const hn::ScalableTag<uint16_t> d;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  const int64_t pairs_per_vec = static_cast<int64_t>(hn::Lanes(d));
  const auto nibble = hn::Set(d, 0x0F);
  for (; i + 2 * pairs_per_vec <= num_codes; i += 2 * pairs_per_vec) {
    const auto byte = hn::PromoteTo(d, hn::LoadU(d8, packed + i / 2));
    const auto low = hn::And(byte, nibble), high = hn::ShiftRight<4>(byte);
    const auto pair =
        first_high ? hn::Or(high, hn::ShiftLeft<8>(low)) : hn::Or(low, hn::ShiftLeft<8>(high));
    const hn::Repartition<uint8_t, decltype(d)> d_out;
    hn::StoreU(hn::BitCast(d_out, pair), d_out, codes + i);
  }
#endif
  for (; i < num_codes; ++i) {
    const bool high = (i % 2 == 0) == first_high;
    codes[i] = static_cast<uint8_t>(high ? packed[i / 2] >> 4 : packed[i / 2] & 0x0F);
  }
}

int64_t EncodeF32To8(Rounding r, const float* x, int64_t n, const AffineParams& p,
                     const uint32_t* noise, uint8_t* codes) {
  return EncodeAffineImpl(r, x, n, p, noise, codes);
}
int64_t EncodeF32To16(Rounding r, const float* x, int64_t n, const AffineParams& p,
                      const uint32_t* noise, uint16_t* codes) {
  return EncodeAffineImpl(r, x, n, p, noise, codes);
}
int64_t EncodeF64To8(Rounding r, const double* x, int64_t n, const AffineParams& p,
                     const uint32_t* noise, uint8_t* codes) {
  return EncodeAffineImpl(r, x, n, p, noise, codes);
}
int64_t EncodeF64To16(Rounding r, const double* x, int64_t n, const AffineParams& p,
                      const uint32_t* noise, uint16_t* codes) {
  return EncodeAffineImpl(r, x, n, p, noise, codes);
}
int64_t EncodeMeasuredTo8(const float* x, int64_t n, const AffineParams& p, uint8_t* codes,
                          FigureLanes<float>& lanes) {
  return EncodeMeasuredImpl(x, n, p, codes, lanes);
}
int64_t EncodeMeasuredTo16(const float* x, int64_t n, const AffineParams& p, uint16_t* codes,
                           FigureLanes<float>& lanes) {
  return EncodeMeasuredImpl(x, n, p, codes, lanes);
}
void DecodeS8ToF32(const int8_t* c, int64_t n, const AffineParams& p, float* x) {
  DecodeAffineImpl(c, n, p, x);
}
void DecodeU8ToF32(const uint8_t* c, int64_t n, const AffineParams& p, float* x) {
  DecodeAffineImpl(c, n, p, x);
}
void DecodeS16ToF32(const int16_t* c, int64_t n, const AffineParams& p, float* x) {
  DecodeAffineImpl(c, n, p, x);
}
void DecodeS8ToF64(const int8_t* c, int64_t n, const AffineParams& p, double* x) {
  DecodeAffineImpl(c, n, p, x);
}
void DecodeU8ToF64(const uint8_t* c, int64_t n, const AffineParams& p, double* x) {
  DecodeAffineImpl(c, n, p, x);
}
void DecodeS16ToF64(const int16_t* c, int64_t n, const AffineParams& p, double* x) {
  DecodeAffineImpl(c, n, p, x);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(EncodeF32To8);
HWY_EXPORT(EncodeF32To16);
HWY_EXPORT(EncodeF64To8);
HWY_EXPORT(EncodeF64To16);
HWY_EXPORT(EncodeMeasuredTo8);
HWY_EXPORT(EncodeMeasuredTo16);
HWY_EXPORT(DecodeS8ToF32);
HWY_EXPORT(DecodeU8ToF32);
HWY_EXPORT(DecodeS16ToF32);
HWY_EXPORT(DecodeS8ToF64);
HWY_EXPORT(DecodeU8ToF64);
HWY_EXPORT(DecodeS16ToF64);
HWY_EXPORT(PackNibblesImpl);
HWY_EXPORT(UnpackNibblesImpl);

int64_t EncodeAffine(Rounding r, const float* x, int64_t n, const AffineParams& p,
                     const uint32_t* noise, uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeF32To8)(r, x, n, p, noise, codes);
}
int64_t EncodeAffine(Rounding r, const float* x, int64_t n, const AffineParams& p,
                     const uint32_t* noise, uint16_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeF32To16)(r, x, n, p, noise, codes);
}
int64_t EncodeAffine(Rounding r, const double* x, int64_t n, const AffineParams& p,
                     const uint32_t* noise, uint8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeF64To8)(r, x, n, p, noise, codes);
}
int64_t EncodeAffine(Rounding r, const double* x, int64_t n, const AffineParams& p,
                     const uint32_t* noise, uint16_t* codes) {
  return HWY_DYNAMIC_DISPATCH(EncodeF64To16)(r, x, n, p, noise, codes);
}
int64_t EncodeAffineMeasured(const float* x, int64_t n, const AffineParams& p, uint8_t* codes,
                             FigureLanes<float>& lanes) {
  return HWY_DYNAMIC_DISPATCH(EncodeMeasuredTo8)(x, n, p, codes, lanes);
}
int64_t EncodeAffineMeasured(const float* x, int64_t n, const AffineParams& p, uint16_t* codes,
                             FigureLanes<float>& lanes) {
  return HWY_DYNAMIC_DISPATCH(EncodeMeasuredTo16)(x, n, p, codes, lanes);
}
void DecodeAffine(const int8_t* c, int64_t n, const AffineParams& p, float* x) {
  HWY_DYNAMIC_DISPATCH(DecodeS8ToF32)(c, n, p, x);
}
void DecodeAffine(const uint8_t* c, int64_t n, const AffineParams& p, float* x) {
  HWY_DYNAMIC_DISPATCH(DecodeU8ToF32)(c, n, p, x);
}
void DecodeAffine(const int16_t* c, int64_t n, const AffineParams& p, float* x) {
  HWY_DYNAMIC_DISPATCH(DecodeS16ToF32)(c, n, p, x);
}
void DecodeAffine(const int8_t* c, int64_t n, const AffineParams& p, double* x) {
  HWY_DYNAMIC_DISPATCH(DecodeS8ToF64)(c, n, p, x);
}
void DecodeAffine(const uint8_t* c, int64_t n, const AffineParams& p, double* x) {
  HWY_DYNAMIC_DISPATCH(DecodeU8ToF64)(c, n, p, x);
}
void DecodeAffine(const int16_t* c, int64_t n, const AffineParams& p, double* x) {
  HWY_DYNAMIC_DISPATCH(DecodeS16ToF64)(c, n, p, x);
}
void PackNibbles(const uint8_t* codes, int64_t num_codes, bool first_high, uint8_t* packed) {
  HWY_DYNAMIC_DISPATCH(PackNibblesImpl)(codes, num_codes, first_high, packed);
}
void UnpackNibbles(const uint8_t* packed, int64_t num_codes, bool first_high, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(UnpackNibblesImpl)(packed, num_codes, first_high, codes);
}

}  // namespace quantd
#endif  // HWY_ONCE
