// Entries: those of small_floats.h. Tested by tests/core/simd/small_floats_test.cc and
// tests/core/scheme/reference_test.cc.
//
// The arithmetic is that of convert-inl.h, with what it takes from the format in registers: one
// kernel for E5M2, E2M3, E3M2 and E2M1, where shifts by constants would need one each. That costs
// about a tenth of the speed. Values that are not scaled are divided by 1.
#include "core/simd/small_floats.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/small_floats.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/float_runs-inl.h"
#include "core/simd/kernel_table.h"

#ifndef QUANTD_CORE_SIMD_SMALL_FLOATS_TABLE
#define QUANTD_CORE_SIMD_SMALL_FLOATS_TABLE
namespace quantd {

template <typename T>
struct SmallFloatKernels {
  int64_t (*encode)(const MiniFormat&, const FloatCoding&, const T*, int64_t, uint8_t*,
                    MeterLanes<T>*);
  void (*decode)(const MiniFormat&, const FloatCoding&, const uint8_t*, int64_t, T*);
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

// A format, as vectors of T want to know it.
template <typename T>
struct SmallFormat {
  using D = hn::CappedTag<T, 16>;
  using DU = hn::RebindToUnsigned<D>;
  using F = FloatBits<T>;
  using Bits = typename F::Bits;

  explicit SmallFormat(const MiniFormat& format)
      : mini(format),
        min_exponent(F::kBias + 1 - format.bias),
        shift(F::kMan - format.man_bits),
        sign_shift(format.sign_shift()) {}

  const MiniFormat mini;
  const int min_exponent;  // of the smallest normal, as T has it
  const int shift;         // bits of T's mantissa behind those of the format
  const int sign_shift;
};

// WidenFloatVec.
template <typename T>
class SmallWidener {
 public:
  using S = SmallFormat<T>;
  using D = typename S::D;
  using V = hn::VFromD<D>;
  using VU = hn::VFromD<typename S::DU>;
  using F = typename S::F;
  using Bits = typename S::Bits;

  explicit SmallWidener(const S& format) : format_(format) {}

  HWY_INLINE V Widen(VU codes) const {
    const D d;
    const typename S::DU du;
    const hn::RebindToSigned<D> di;
    using Int = hn::TFromD<decltype(di)>;
    const int sign_shift = format_.sign_shift;
    const VU magnitude = hn::And(codes, hn::Set(du, (Bits{1} << sign_shift) - 1));
    const VU sign = hn::ShiftLeft<F::kWidth - 1>(hn::ShiftRightSame(codes, sign_shift));
    const VU placed = hn::ShiftLeftSame(magnitude, format_.shift);
    const VU smallest = hn::Set(du, static_cast<Bits>(format_.min_exponent) << F::kMan);
    const VU rebias = hn::Set(du, static_cast<Bits>(format_.min_exponent - 1) << F::kMan);
    const auto raised = hn::BitCast(d, hn::Add(placed, smallest));
    const VU subnormal = hn::BitCast(du, hn::Sub(raised, hn::BitCast(d, smallest)));
    const auto is_normal = hn::Gt(hn::BitCast(di, placed), hn::Set(di, (Int{1} << F::kMan) - 1));
    VU value =
        hn::IfThenElse(hn::RebindMask(du, is_normal), hn::Add(placed, rebias), subnormal);
    const auto special = hn::Gt(hn::BitCast(di, magnitude),
                                hn::Set(di, static_cast<Int>(format_.mini.max_code)));
    const VU mantissa = hn::And(placed, hn::Set(du, (Bits{1} << F::kMan) - 1));
    value =
        hn::IfThenElse(hn::RebindMask(du, special), hn::Or(mantissa, hn::Set(du, F::kInf)), value);
    return hn::BitCast(d, hn::Or(sign, value));
  }

 private:
  const S format_;
};

// NarrowQuickVec: half-even, to finite codes.
template <typename T>
class QuickSmallNarrower {
 public:
  using S = SmallFormat<T>;
  using D = typename S::D;
  using V = hn::VFromD<D>;
  using Code = uint8_t;
  using F = typename S::F;
  using Bits = typename S::Bits;

  explicit QuickSmallNarrower(const S& format)
      : format_(format),
        least_(static_cast<Bits>(format.min_exponent) << F::kMan),
        raise_(static_cast<Bits>(format.shift) << F::kMan |
               ((Bits{0} - (static_cast<Bits>(format.min_exponent + format.shift)
                            << format.mini.man_bits)) &
                ((Bits{2} << format.sign_shift) - 1))) {}

  HWY_INLINE V Encode(V v, const uint32_t* /*noise*/, uint8_t* codes) const {
    const D d;
    const typename S::DU du;
    const hn::RebindToSigned<D> di;
    const auto bits = hn::BitCast(du, v);
    const auto exponent = hn::Max(hn::BitCast(di, hn::And(bits, hn::Set(du, F::kInf))),
                                  hn::BitCast(di, hn::Set(du, least_)));
    const auto raised = hn::Add(hn::BitCast(du, exponent), hn::Set(du, raise_));
    const V magic = hn::CopySignToAbs(hn::BitCast(d, raised), v);
    const V sum = hn::Add(v, magic);
    const auto code = hn::Add(hn::BitCast(du, sum), hn::ShiftRightSame(raised, format_.shift));
    const auto sign = hn::ShiftRightSame(bits, F::kWidth - 1 - format_.sign_shift);
    StoreLow(du, hn::OrAnd(code, sign, hn::Set(du, Bits{1} << format_.sign_shift)), codes);
    return hn::Sub(sum, magic);
  }

 private:
  const S format_;
  const Bits least_, raise_;
};

// NarrowFloatVec: any rounding, infinity, NaN.
template <typename T>
class CarefulSmallNarrower {
 public:
  using S = SmallFormat<T>;
  using D = typename S::D;
  using DU = typename S::DU;
  using V = hn::VFromD<D>;
  using VU = hn::VFromD<DU>;
  using Code = uint8_t;
  using F = typename S::F;
  using Bits = typename S::Bits;

  CarefulSmallNarrower(const S& format, const FloatCoding& coding)
      : format_(format),
        widener_(format),
        rounding_(coding.rounding),
        overflow_(coding.saturate || format.mini.inf_code == 0 ? format.mini.max_code
                                                               : format.mini.inf_code) {}

  HWY_INLINE V Encode(V v, const uint32_t* noise, uint8_t* codes) const {
    const DU du;
    VU random = hn::Zero(du);
    if (rounding_ == Rounding::kStochastic) random = LoadWide(du, noise);
    const VU code = Narrow(v, random);
    StoreLow(du, code, codes);
    return widener_.Widen(code);
  }

 private:
  HWY_INLINE VU Narrow(V v, VU noise) const {
    const DU du;
    const hn::RebindToSigned<D> di;
    using Int = hn::TFromD<decltype(di)>;
    constexpr int kMaxShift = sizeof(T) == 4 ? 31 : 60;
    const VU one = hn::Set(du, 1), zero = hn::Zero(du);
    const VU bits = hn::BitCast(du, v);
    const VU magnitude = hn::And(bits, hn::Set(du, static_cast<Bits>(~F::kSign)));
    const VU sign =
        hn::ShiftLeftSame(hn::ShiftRight<F::kWidth - 1>(bits), format_.sign_shift);
    const VU stored_exponent = hn::ShiftRight<F::kMan>(magnitude);
    const VU fraction = hn::And(magnitude, hn::Set(du, (Bits{1} << F::kMan) - 1));
    const auto subnormal = hn::Eq(stored_exponent, zero);
    VU mantissa =
        hn::IfThenElse(subnormal, fraction, hn::Or(fraction, hn::Set(du, Bits{1} << F::kMan)));
    const VU exponent = hn::Add(stored_exponent, hn::IfThenElseZero(subnormal, one));
    const auto delta =
        hn::Sub(hn::BitCast(di, exponent), hn::Set(di, static_cast<Int>(format_.min_exponent)));
    const auto below = hn::Lt(delta, hn::Zero(di));
    const VU raised = hn::BitCast(du, hn::IfThenZeroElse(below, delta));
    const auto wanted =
        hn::Sub(hn::Set(di, static_cast<Int>(format_.shift)), hn::IfThenElseZero(below, delta));
    const auto far = hn::Gt(wanted, hn::Set(di, kMaxShift));
    const VU shift = hn::BitCast(du, hn::IfThenElse(far, hn::Set(di, kMaxShift), wanted));
    const VU sticky =
        hn::IfThenElse(hn::Eq(mantissa, zero), zero, hn::Set(du, Bits{1} << (F::kMan - 23)));
    mantissa = hn::IfThenElse(hn::RebindMask(du, far), sticky, mantissa);
    const VU odd = hn::And(hn::Shr(mantissa, shift), one);
    const VU increment = Increment(shift, odd, hn::Ne(sign, zero), noise);
    const VU rounded = hn::Shr(hn::Add(mantissa, increment), shift);
    const VU code = hn::Add(hn::ShiftLeftSame(raised, format_.mini.man_bits), rounded);
    const auto over =
        hn::Gt(hn::BitCast(di, code), hn::Set(di, static_cast<Int>(format_.mini.max_code)));
    const VU held =
        hn::IfThenElse(hn::RebindMask(du, over), hn::Set(du, static_cast<Bits>(overflow_)), code);
    const auto is_nan = hn::RebindMask(
        du, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, static_cast<Int>(F::kInf))));
    const VU nan = format_.mini.nan_code == 0
                       ? zero
                       : hn::Or(sign, hn::Set(du, static_cast<Bits>(format_.mini.nan_code)));
    return hn::IfThenElse(is_nan, nan, hn::Or(sign, held));
  }

  template <class M>
  HWY_INLINE VU Increment(VU shift, VU odd, M negative, VU noise) const {
    const DU du;
    switch (rounding_) {
#define QUANTD_ROUNDING(name) \
  case Rounding::name:        \
    return RoundingIncrementVec<Rounding::name>(du, shift, odd, negative, noise)
      QUANTD_ROUNDING(kHalfEven);
      QUANTD_ROUNDING(kHalfAway);
      QUANTD_ROUNDING(kHalfUp);
      QUANTD_ROUNDING(kHalfDown);
      QUANTD_ROUNDING(kTruncate);
      QUANTD_ROUNDING(kFloor);
      QUANTD_ROUNDING(kCeil);
      QUANTD_ROUNDING(kStochastic);
#undef QUANTD_ROUNDING
    }
    return noise;
  }

  const S format_;
  const SmallWidener<T> widener_;
  const Rounding rounding_;
  const uint32_t overflow_;
};

template <typename T>
int64_t Encode(const MiniFormat& mini, const FloatCoding& coding, const T* values, int64_t n,
               uint8_t* codes, MeterLanes<T>* meter) {
  const SmallFormat<T> format(mini);
  const T largest = WidenFloat<T>(mini, mini.max_code);
  const T bound = largest + (largest - WidenFloat<T>(mini, mini.max_code - 1)) / 2;
  std::byte* to = reinterpret_cast<std::byte*>(codes);
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) {
    if (coding.rounding == Rounding::kHalfEven) {
      MeterLanes<T> trial = lanes;
      if (EncodeFloatRuns<QuickSmallNarrower<T>, false, true, Regs>(
              coding, QuickSmallNarrower<T>(format), bound, values, n, to, trial)) {
        lanes = trial;
        return int64_t{0};
      }
    }
    const bool within = EncodeFloatRuns<CarefulSmallNarrower<T>, true, true, Regs>(
        coding, CarefulSmallNarrower<T>(format, coding), bound, values, n, to, lanes);
    return within ? 0 : CountClippedFloats(coding, bound, values, n);
  });
}

template <typename T>
void Decode(const MiniFormat& mini, const FloatCoding& coding, const uint8_t* HWY_RESTRICT codes,
            int64_t num_elems, T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const SmallWidener<T> widener{SmallFormat<T>(mini)};
  const float* elem_scales = coding.elem_scales();
  const bool scaled = coding.scales != nullptr;
  ForEachScaledRun(coding, num_elems, [&](const ScaledRun& run) HWY_ATTR {
    const auto run_scale = hn::Set(d, static_cast<T>(run.scale));
    const auto step = [&](const uint8_t* from, const float* scales, int64_t i) HWY_ATTR {
      const auto value = widener.Widen(LoadWide(du, from));
      if (!scaled) return value;
      return hn::Mul(value, elem_scales != nullptr ? LoadF32(d, scales + i) : run_scale);
    };
    int64_t i = run.begin;
    for (; i + kWidth <= run.end; i += kWidth) {
      hn::StoreU(step(codes + i, elem_scales, i), d, values + i);
    }
    if (i < run.end) {
      const int64_t rest = run.end - i;
      uint8_t pad[kWidth] = {};
      float scales[kWidth] = {};
      CopyBytes(pad, codes + i, static_cast<size_t>(rest));
      if (elem_scales != nullptr) std::copy_n(elem_scales + i, rest, scales);
      StoreRest(step(pad, scales, 0), d, values + i, rest);
    }
  });
}

const KernelTable<SmallFloatKernels>& SmallFloatTable() {
  static constexpr KernelTable<SmallFloatKernels> kTable = {{Encode<float>, Decode<float>},
                                                            {Encode<double>, Decode<double>}};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(SmallFloatTable);

int64_t EncodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const float* values,
                          int64_t num_elems, uint8_t* codes, MeterLanes<float>* lanes) {
  return HWY_DYNAMIC_DISPATCH(SmallFloatTable)().f32.encode(format, coding, values, num_elems,
                                                            codes, lanes);
}
int64_t EncodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const double* values,
                          int64_t num_elems, uint8_t* codes, MeterLanes<double>* lanes) {
  return HWY_DYNAMIC_DISPATCH(SmallFloatTable)().f64.encode(format, coding, values, num_elems,
                                                            codes, lanes);
}
void DecodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const uint8_t* codes,
                       int64_t num_elems, float* values) {
  HWY_DYNAMIC_DISPATCH(SmallFloatTable)().f32.decode(format, coding, codes, num_elems, values);
}
void DecodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const uint8_t* codes,
                       int64_t num_elems, double* values) {
  HWY_DYNAMIC_DISPATCH(SmallFloatTable)().f64.decode(format, coding, codes, num_elems, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
