// Narrowing of whole vectors to float codes in memory, with the values that the codes stand for,
// which error figures want at once. Compiled once per SIMD target.
//
// QuickNarrower rounds half-even what is finite and not clipped, which is nearly everything, in a
// third of the operations; Below tells afterwards whether that was all. CarefulNarrower knows the
// rest, and all roundings.
#if defined(QUANTD_CORE_SIMD_NARROWER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_NARROWER_INL_H_
#undef QUANTD_CORE_SIMD_NARROWER_INL_H_
#else
#define QUANTD_CORE_SIMD_NARROWER_INL_H_
#endif

#include <hwy/highway.h>

#include <bit>
#include <type_traits>

#include "core/simd/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Targets whose own conversions between f16 and f32 round to even and keep subnormals. They quiet
// NaN, which ours does not.
#undef QUANTD_NATIVE_F16
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
#define QUANTD_NATIVE_F16 1
#else
#define QUANTD_NATIVE_F16 0
#endif

template <MiniFormat kFormat, typename T>
constexpr bool IsNative() {
  return QUANTD_NATIVE_F16 && kFormat.man_bits == 10 && sizeof(T) == 4;
}

template <MiniFormat kFormat>
using CodeOf = std::conditional_t<kFormat.sign_shift() < 8, uint8_t, uint16_t>;

// The end of a format's finite values.
template <MiniFormat kFormat, typename T>
struct FloatLimits {
  static constexpr MiniFormat kNamed = kFormat;
  static constexpr T kLargest = WidenFloat<T>(kNamed, kNamed.max_code);
  static constexpr T kStep = kLargest - WidenFloat<T>(kNamed, kNamed.max_code - 1);
  static constexpr T kClipped = kLargest + kStep / 2;  // the first value that is
};

// Whether magnitudes of values stay below a bound; NaN does not.
template <class D>
class Below {
 public:
  using Int = hwy::MakeSigned<hn::TFromD<D>>;

  HWY_INLINE Below() : max_(hn::Zero(hn::RebindToSigned<D>())) {}
  HWY_INLINE void Add(hn::VFromD<D> v) {
    max_ = hn::Max(max_, hn::BitCast(hn::RebindToSigned<D>(), hn::Abs(v)));
  }
  HWY_INLINE bool All(hn::TFromD<D> bound) const {
    const hn::RebindToSigned<D> di;
    return hn::AllTrue(di, hn::Lt(max_, hn::Set(di, std::bit_cast<Int>(bound))));
  }

 private:
  hn::VFromD<hn::RebindToSigned<D>> max_;
};

template <MiniFormat kFormat, typename T>
class QuickNarrower {
 public:
  using D = hn::CappedTag<T, 16>;
  using V = hn::VFromD<D>;
  using Code = CodeOf<kFormat>;

  explicit QuickNarrower(bool /*saturate*/) {}

  // Writes the codes of `v` and returns what they stand for, but for the sign of zeros.
  HWY_INLINE V Encode(V v, const uint32_t* /*noise*/, Code* codes) const {
    if constexpr (IsNative<kFormat, T>()) {
      const hn::Rebind<hwy::float16_t, D> d16;
      const auto half = hn::DemoteTo(d16, v);
      hn::StoreU(half, d16, reinterpret_cast<hwy::float16_t*>(codes));
      return hn::PromoteTo(d_, half);
    } else {
      const Narrowed<D> narrowed = NarrowQuickVec<kFormat>(d_, v);
      StoreLow(hn::RebindToUnsigned<D>(), narrowed.code, codes);
      return narrowed.value;
    }
  }

 private:
  const D d_;
};

template <MiniFormat kFormat, Rounding kRounding, typename T>
class CarefulNarrower {
 public:
  using D = hn::CappedTag<T, 16>;
  using V = hn::VFromD<D>;
  using Code = CodeOf<kFormat>;

  explicit CarefulNarrower(bool saturate) : saturate_(saturate) {}

  HWY_INLINE V Encode(V v, const uint32_t* noise, Code* codes) const {
    const hn::RebindToUnsigned<D> du;
    auto random = hn::Zero(du);
    if constexpr (kRounding == Rounding::kStochastic) random = LoadWide(du, noise);
    const auto code = NarrowFloatVec<kFormat, kRounding>(d_, v, saturate_, random);
    StoreLow(du, code, codes);
    return WidenFloatVec<kFormat>(d_, code);
  }

 private:
  const D d_;
  const bool saturate_;
};

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
