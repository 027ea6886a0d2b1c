// One kernel makes the codes of all elements, with the format in registers instead of in the code:
// the addition rounds, as in simd/convert-inl.h, where the exponent of the magic number is the
// value's own, or that of the least normal one.
//
//   5.2 in E2M1, one bit behind the leading one, least normal 2^0: 2^(2 + 22) + 5.2 has a last
//   place of 2 and is 2^24 + 6: as integers 3 apart, and (2 - 0) << 1 more is code 7, value 6
//
// Powers of two make products exact, so only this one step rounds; below 2^-126 the product may
// round, but every element is 0 there. Values are clipped often (a block whose largest is 7.1
// times a power of two has codes up to 6), so they are counted as they come.
//
// Entry: mx::ChosenTable. Tested by tests/core/scheme/reference_test.cc, segments_test.cc and
// golden_test.cc, through the schemes.
#include "core/scheme/mx_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/base/copy_bytes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/mx_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;
using mx::Element;
using mx::Habits;
using mx::kBlockElems;

// Returns 2^(code - 127), which of code 0 is subnormal in f32, or NaN.
template <typename T>
HWY_INLINE T PowerOf(int code) {
  using Bits = typename FloatBits<T>::Bits;
  if (code == mx::kNanScale) return std::numeric_limits<T>::quiet_NaN();
  const int exponent = code - mx::kScaleBias + FloatBits<T>::kBias;
  if (exponent <= 0) return std::numeric_limits<T>::min() / 2;
  return std::bit_cast<T>(static_cast<Bits>(exponent) << FloatBits<T>::kMan);
}

// The arithmetic of an element; only kHabits looks at Habits.
template <bool kHabits, class D>
class Coder {
 public:
  using T = hn::TFromD<D>;
  using F = FloatBits<T>;
  using Bits = typename F::Bits;
  using V = hn::VFromD<D>;
  using DU = hn::RebindToUnsigned<D>;
  using DI = hn::RebindToSigned<D>;
  using VU = hn::VFromD<DU>;

  HWY_INLINE Coder(const Element& element, const Habits& habits)
      : shift_(F::kMan - element.format.man_bits),
        least_(hn::Set(du_, static_cast<Bits>(F::kBias + 1 - element.format.bias) << F::kMan)),
        raise_(hn::Set(du_, static_cast<Bits>(shift_) << F::kMan)),
        sign_(hn::Set(du_, element.twos_complement ? 0 : Bits{1} << element.format.sign_shift())),
        negates_(hn::Set(du_, element.twos_complement ? ~Bits{0} : 0)),
        ties_(hn::Set(du_, habits.ties_toward_zero ? ~Bits{0} : 0)),
        element_(element),
        largest_(hn::Set(d_, static_cast<T>(element.largest))),
        clip_(hn::Set(d_, static_cast<T>(element.clip))),
        clipped_(hn::Zero(du_)) {}

  // Says of what scale the next values are.
  HWY_INLINE void Begin(int scale) {
    if constexpr (kHabits) {
      // 2^k is what f32 does not hold of the scale.
      const int k = 128 + mx::kScaleBias - scale;
      if (k > element_.max_exponent) {
        return Limit(element_.largest, element_.clip);
      }
      const double step = std::ldexp(1.0, k - 1 - element_.format.man_bits);
      Limit(std::ldexp(1.0, k) - step, std::ldexp(1.0, k) - step / 2);
    }
  }

  // Returns the codes of `v`, what was divided by the scale, and their values.
  HWY_INLINE Narrowed<D> Encode(V v) {
    const V magnitude = hn::Abs(v);
    const auto clips = hn::VecFromMask(d_, hn::Ge(magnitude, clip_));
    clipped_ = hn::Sub(clipped_, hn::BitCast(du_, clips));
    const V a = hn::Min(magnitude, largest_);
    const VU exponent = hn::BitCast(
        du_, hn::Max(hn::BitCast(di_, hn::And(hn::BitCast(du_, a), hn::Set(du_, F::kInf))),
                     hn::BitCast(di_, least_)));
    const VU magic_bits = hn::Add(exponent, raise_);
    const V magic = hn::BitCast(d_, magic_bits);
    const V sum = hn::Add(a, magic);
    V value = hn::Sub(sum, magic);
    VU code = hn::Add(hn::Sub(hn::BitCast(du_, sum), magic_bits),
                      hn::ShiftRightSame(hn::Sub(exponent, least_), shift_));
    const VU negative = hn::BitCast(du_, hn::BroadcastSignBit(hn::BitCast(di_, v)));
    VU sign = hn::And(negative, sign_);
    if constexpr (kHabits) {
      const V unit = hn::Mul(magic, hn::Set(d_, std::numeric_limits<T>::epsilon()));
      const V half = hn::Mul(unit, hn::Set(d_, static_cast<T>(0.5)));
      const VU up = hn::And(
          hn::BitCast(du_, hn::VecFromMask(d_, hn::Eq(hn::Sub(value, a), half))), ties_);
      value = hn::Sub(value, hn::And(hn::BitCast(d_, up), unit));
      code = hn::Add(code, up);
      const auto is_zero = hn::VecFromMask(du_, hn::Eq(code, hn::Zero(du_)));
      sign = hn::AndNot(hn::And(is_zero, ties_), sign);
    }
    const VU turned = hn::And(negative, negates_);
    return {hn::Or(hn::Sub(hn::Xor(code, turned), turned), sign), hn::CopySignToAbs(value, v)};
  }

  HWY_INLINE int64_t NumClipped() const {
    HWY_ALIGN Bits counts[hn::MaxLanes(D())];
    hn::Store(clipped_, du_, counts);
    int64_t sum = 0;
    for (const Bits count : counts) sum += static_cast<int64_t>(count);
    return sum;
  }

 private:
  HWY_INLINE void Limit(double largest, double clip) {
    largest_ = hn::Set(d_, static_cast<T>(largest));
    clip_ = hn::Set(d_, static_cast<T>(clip));
  }

  const D d_;
  const DU du_;
  const DI di_;
  const int shift_;
  const VU least_, raise_, sign_, negates_, ties_;
  const Element& element_;
  V largest_, clip_;
  VU clipped_;
};

template <bool kHabits, class Regs, typename T>
HWY_NOINLINE int64_t EncodeBlocks(const Element& element, const Habits& habits,
                                  const uint8_t* HWY_RESTRICT scales, const T* HWY_RESTRICT values,
                                  int64_t num_elems, uint8_t* HWY_RESTRICT codes,
                                  MeterLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const int64_t num_blocks = num_elems / kBlockElems, rest = num_elems % kBlockElems;
  T padded[kBlockElems] = {};
  CopyBytes(padded, values + num_blocks * kBlockElems, static_cast<size_t>(rest) * sizeof(T));
  Coder<kHabits, std::remove_const_t<decltype(d)>> coder(element, habits);
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    for (int64_t block = 0; block < num_blocks; ++block) {
      const auto inverse = hn::Set(d, PowerOf<T>(mx::kMaxScale - scales[block]));
      const auto scale = hn::Set(d, PowerOf<T>(scales[block]));
      const int64_t begin = block * kBlockElems + k;
      coder.Begin(scales[block]);
      for (int64_t i = begin; i < begin + kBlockElems; i += 16) {
        PrefetchBehind(values + i);
        const auto x = hn::LoadU(d, values + i);
        const auto made = coder.Encode(hn::Mul(x, inverse));
        StoreLow(du, made.code, codes + i);
        regs.Add(d, x, hn::Mul(made.value, scale));
      }
    }
    if (rest > 0) coder.Begin(scales[num_blocks]);
    for (int64_t i = k; rest > 0 && i < kBlockElems; i += 16) {
      const auto x = hn::LoadU(d, padded + i);
      const auto made =
          coder.Encode(hn::Mul(x, hn::Set(d, PowerOf<T>(mx::kMaxScale - scales[num_blocks]))));
      StoreLow(du, made.code, codes + num_blocks * kBlockElems + i);
      const auto scale = hn::Set(d, PowerOf<T>(scales[num_blocks]));
      const auto y = hn::Mul(made.value, scale);
      if (i < rest) regs.AddFirst(d, static_cast<size_t>(std::min(rest - i, kWidth)), x, y);
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  return coder.NumClipped();
}

template <typename T>
int64_t Encode(const Element& element, const Habits& habits, const uint8_t* scales,
               const T* values, int64_t num_elems, uint8_t* codes, MeterLanes<T>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) {
    const auto encode =
        habits.any ? EncodeBlocks<true, Regs, T> : EncodeBlocks<false, Regs, T>;
    return encode(element, habits, scales, values, num_elems, codes, lanes);
  });
}

template <typename T>
void Decode(const Element& element, const uint8_t* HWY_RESTRICT scales,
            const uint8_t* HWY_RESTRICT codes, int64_t num_elems, T* values) {
  using F = FloatBits<T>;
  using Bits = typename F::Bits;
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const MiniFormat& format = element.format;
  const int sign_shift = format.sign_shift(), man_shift = F::kMan - format.man_bits;
  const auto sign_bit = hn::Set(du, Bits{1} << sign_shift);
  const auto magnitudes = hn::Set(du, (Bits{1} << sign_shift) - 1);
  const auto twos = hn::Set(du, element.twos_complement ? (Bits{2} << sign_shift) - 1 : 0);
  const auto least = hn::Set(du, static_cast<Bits>(F::kBias + 1 - format.bias) << F::kMan);
  const auto rebias = hn::Set(du, static_cast<Bits>(F::kBias - format.bias) << F::kMan);
  const auto largest = hn::Set(di, static_cast<hwy::MakeSigned<T>>(
                                       element.twos_complement ? 0xFF : format.max_code));
  DecodeBlocks<kBlockElems>(num_elems, values, [&](int64_t block, T* HWY_RESTRICT out) HWY_ATTR {
    const auto scale = hn::Set(d, PowerOf<T>(scales[block]));
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      const auto code = LoadWide(du, codes + block * kBlockElems + i);
      const auto negative = hn::RebindMask(d, hn::Ne(hn::And(code, sign_bit), hn::Zero(du)));
      // -code where the sign is two's complement, of which 0x80 is left whole
      const auto turned = hn::And(hn::VecFromMask(du, hn::RebindMask(du, negative)), twos);
      const auto magnitude =
          hn::IfThenElse(hn::RebindMask(du, hn::Ne(turned, hn::Zero(du))),
                         hn::Sub(hn::Set(du, Bits{2} << sign_shift), code),
                         hn::And(code, magnitudes));
      const auto placed = hn::ShiftLeftSame(magnitude, man_shift);
      // Subnormals take the least normal exponent and lose its leading one again.
      const auto raised = hn::BitCast(d, hn::Add(placed, least));
      const auto subnormal = hn::Sub(raised, hn::BitCast(d, least));
      const auto is_normal = hn::RebindMask(
          d, hn::Gt(hn::BitCast(di, placed),
                    hn::Set(di, (static_cast<hwy::MakeSigned<T>>(1) << F::kMan) - 1)));
      auto value = hn::IfThenElse(is_normal, hn::BitCast(d, hn::Add(placed, rebias)), subnormal);
      const auto special = hn::RebindMask(d, hn::Gt(hn::BitCast(di, magnitude), largest));
      const auto mantissa = hn::And(placed, hn::Set(du, (Bits{1} << F::kMan) - 1));
      value = hn::IfThenElse(
          special, hn::BitCast(d, hn::Or(mantissa, hn::Set(du, F::kInf))), value);
      value = hn::IfThenElse(negative, hn::Neg(value), value);
      hn::StoreU(hn::Mul(value, scale), d, out + i);
    }
  });
}

const KernelTable<mx::Kernels>& Table() {
  static constexpr KernelTable<mx::Kernels> kTable = {{Encode<float>, Decode<float>},
                                                      {Encode<double>, Decode<double>}};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Table);

const KernelTable<mx::Kernels>& mx::ChosenTable() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace quantd
#endif  // HWY_ONCE
