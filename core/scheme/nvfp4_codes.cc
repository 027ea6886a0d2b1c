// The entry is nvfp4::ChosenTable. Tested by tests/core/scheme/golden_test.cc and
// reference_test.cc, through the scheme.
#include "core/scheme/nvfp4_codes.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/copy_bytes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/nvfp4_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/nibbles-inl.h"
#include "core/simd/runs-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;
using nvfp4::Factors;
using nvfp4::Habits;
using nvfp4::kBlockElems;

constexpr int kClipBound = 7;          // half a step beyond the outermost code

void FindScales(const Habits& habits, const float* HWY_RESTRICT absmax, int64_t num_blocks,
                float global, std::byte* HWY_RESTRICT scales) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t i = 0; i < num_blocks; i += kWidth) {
    const size_t bytes = static_cast<size_t>(std::min(num_blocks - i, kWidth));
    float pad[kWidth] = {};
    uint8_t codes[kWidth];
    std::memcpy(pad, absmax + i, bytes * sizeof(float));
    const auto reach = hn::LoadU(d, pad);
    auto scale = hn::Zero(d);
    if (habits.multiplies) {  // what is not 0 stays so
      scale = hn::Div(reach, hn::Set(d, nvfp4::kMaxCode * global));
      const auto least = hn::Max(scale, hn::Set(d, 0x1p-9f));
      scale = hn::IfThenZeroElse(hn::Eq(scale, hn::Zero(d)), least);
    } else {
      scale = hn::Mul(hn::Set(d, global), hn::Div(reach, hn::Set(d, nvfp4::kMaxCode)));
    }
    scale = hn::Min(scale, hn::Set(d, float{nvfp4::kMaxScale}));
    const auto stored = NarrowQuickVec<kE4m3Format, false>(d, scale);
    const auto is_zero = hn::RebindMask(du, hn::Eq(stored.value, hn::Zero(d)));
    const auto code = hn::IfThenElse(is_zero, hn::Set(du, habits.zero_scale), stored.code);
    hn::StoreU(hn::TruncateTo(d8, code), d8, codes);
    std::memcpy(scales + i, codes, bytes);
  }
}

void FindFactors(const Habits& habits, const std::byte* HWY_RESTRICT scales, int64_t num_blocks,
                 float global, Factors& factors) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (int64_t i = 0; i < num_blocks; i += kWidth) {
    uint8_t codes[kWidth] = {};
    std::memcpy(codes, scales + i, static_cast<size_t>(std::min(num_blocks - i, kWidth)));
    const auto scale = WidenFloatVec<kE4m3Format>(d, LoadWide(du, codes));
    const auto above = hn::Set(d, global);
    const auto factor = habits.multiplies ? hn::Mul(scale, above) : hn::Div(scale, above);
    hn::StoreU(factor, d, factors.values + i);
  }
}

// One vector of values to codes; returns what they stand for. `reach` grows to the largest |x / d|.
template <bool kMlx, class D, typename T = hn::TFromD<D>, class V = hn::VFromD<D>>
HWY_INLINE V EncodeVec(D d, V x, T of_block, V& reach, uint8_t* packed, int64_t i) {
  const hn::RebindToUnsigned<D> du;
  const V factor = hn::Set(d, of_block);
  V divisor = factor;
  if (of_block == 0) divisor = hn::Set(d, std::numeric_limits<T>::infinity());
  const V q = hn::Div(x, divisor);
  V magnitude = hn::Abs(q);
  reach = hn::Max(reach, magnitude);
  if constexpr (kMlx) {  // the ties that would go up
    for (const double tie : {0.75, 1.75, 3.5}) {
      const auto at = hn::Eq(magnitude, hn::Set(d, static_cast<T>(tie)));
      magnitude = hn::IfThenElse(at, hn::Set(d, static_cast<T>(tie * 0.875)), magnitude);
    }
  }
  const auto narrowed =
      NarrowQuickVec<kE2m1Format, false>(d, hn::Min(magnitude, hn::Set(d, T{nvfp4::kMaxCode})));
  const auto negative = hn::RebindMask(du, hn::Lt(q, hn::Zero(d)));
  auto sign = hn::IfThenElseZero(negative, hn::Set(du, 8));
  if constexpr (kMlx) {
    const auto is_zero = hn::RebindMask(du, hn::Eq(narrowed.value, hn::Zero(d)));
    sign = hn::IfThenZeroElse(is_zero, sign);
  }
  StoreNibbles(du, hn::OrAnd(sign, narrowed.code, hn::Set(du, 7)), packed, i);
  V y = hn::Mul(narrowed.value, factor);
  if constexpr (sizeof(T) == 4) y = hn::Min(y, hn::Set(d, std::numeric_limits<float>::max()));
  return hn::CopySignToAbs(y, q);
}

template <typename T>
int64_t CountClipped(const T* values, int64_t num_elems, const Factors& factors) {
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const T q = LoadAt(values, i) / static_cast<T>(factors.values[i / kBlockElems]);
    clipped += factors.values[i / kBlockElems] != 0 && std::fabs(q) >= T{kClipBound};
  }
  return clipped;
}

template <bool kMlx, class Regs, typename T>
HWY_NOINLINE int64_t EncodeBlocks(const T* values, int64_t num_elems, const Factors& factors,
                                  std::byte* out, MeterLanes<T>& lanes) {
  const hn::CappedTag<T, 16> d;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const int64_t num_blocks = num_elems / kBlockElems, rest = num_elems % kBlockElems;
  auto* const packed = reinterpret_cast<uint8_t*>(out);
  T padded[kBlockElems] = {};
  CopyBytes(padded, values + num_blocks * kBlockElems, static_cast<size_t>(rest) * sizeof(T));
  auto reach = hn::Zero(d);
  for (int64_t k = 0; k < kBlockElems; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    for (int64_t block = 0; block < num_blocks; ++block) {
      const int64_t i = block * kBlockElems + k;
      PrefetchBehind(values + i);
      const auto x = hn::LoadU(d, values + i);
      const T factor = static_cast<T>(factors.values[block]);
      regs.Add(d, x, EncodeVec<kMlx>(d, x, factor, reach, packed, i));
    }
    if (rest > 0) {
      const auto x = hn::LoadU(d, padded + k);
      const T factor = static_cast<T>(factors.values[num_blocks]);
      const auto y = EncodeVec<kMlx>(d, x, factor, reach, packed, num_blocks * kBlockElems + k);
      if (k < rest) regs.AddFirst(d, static_cast<size_t>(std::min(rest - k, kWidth)), x, y);
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  const auto bound = hn::Set(d, T{kClipBound});
  return hn::AllTrue(d, hn::Lt(reach, bound)) ? 0 : CountClipped(values, num_elems, factors);
}

template <typename T>
int64_t Encode(const Habits& habits, const T* values, int64_t num_elems, const Factors& factors,
               std::byte* codes, MeterLanes<T>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) {
    const auto encode = habits.mlx ? EncodeBlocks<true, Regs, T> : EncodeBlocks<false, Regs, T>;
    return encode(values, num_elems, factors, codes, lanes);
  });
}

template <typename T>
void Decode(const std::byte* HWY_RESTRICT codes, int64_t num_elems, const Factors& factors,
            T* values) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  DecodeBlocks<kBlockElems>(num_elems, values, [&](int64_t block, T* HWY_RESTRICT out) HWY_ATTR {
    const auto* packed = reinterpret_cast<const uint8_t*>(codes) + block * kBlockElems / 2;
    const auto factor = hn::Set(d, static_cast<T>(factors.values[block]));
    for (int64_t i = 0; i < kBlockElems; i += kWidth) {
      auto y = hn::Mul(WidenFloatVec<kE2m1Format>(d, LoadNibbles(du, packed, i)), factor);
      if constexpr (sizeof(T) == 4) {
        const auto infinity = hn::Set(d, std::numeric_limits<float>::infinity());
        const auto largest = hn::Set(d, std::numeric_limits<float>::max());
        y = hn::IfThenElse(hn::Eq(hn::Abs(y), infinity), hn::CopySign(largest, y), y);
      }
      hn::StoreU(y, d, out + i);
    }
  });
}

const nvfp4::Table& Table() {
  static constexpr nvfp4::Table kTable = {
      {{Encode<float>, Decode<float>}, {Encode<double>, Decode<double>}}, FindScales, FindFactors};
  return kTable;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Table);

const nvfp4::Table& nvfp4::ChosenTable() { return HWY_DYNAMIC_DISPATCH(Table)(); }

}  // namespace quantd
#endif  // HWY_ONCE
