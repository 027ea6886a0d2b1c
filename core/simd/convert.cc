#include "core/simd/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/convert.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/convert-inl.h"
#include "core/simd/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Loads 16- or 32-bit integers into unsigned ones as wide as D's lanes.
template <class DU, typename From>
HWY_INLINE hn::VFromD<DU> LoadWide(DU du, const From* from) {
  if constexpr (sizeof(From) == sizeof(hn::TFromD<DU>)) {
    return hn::LoadU(du, from);
  } else if constexpr (sizeof(From) * 2 == sizeof(hn::TFromD<DU>)) {
    return hn::PromoteTo(du, hn::LoadU(hn::Rebind<From, DU>(), from));
  } else {
    const hn::Rebind<uint32_t, DU> du32;
    return hn::PromoteTo(du, hn::PromoteTo(du32, hn::LoadU(hn::Rebind<From, DU>(), from)));
  }
}

// Targets whose own conversions between f16 and f32 round to even and keep subnormals. They quiet
// NaN, which ours does not, so tiles with NaN take the integer path.
#undef QUANTD_NATIVE_F16
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
#define QUANTD_NATIVE_F16 1
#else
#define QUANTD_NATIVE_F16 0
#endif

#if QUANTD_NATIVE_F16
// Narrows whole vectors; returns the number of elements done, 0 if there is NaN.
int64_t NarrowNative(bool saturate, const float* HWY_RESTRICT values, int64_t num_elems,
                     uint16_t* HWY_RESTRICT codes, uint32_t& max_magnitude) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto limit = hn::Set(d, saturate ? 65504.0f : std::numeric_limits<float>::infinity());
  auto max = hn::Zero(di);
  int64_t i = 0;
  for (; i + lanes <= num_elems; i += lanes) {
    PrefetchBehind(values + i);
    const auto v = hn::LoadU(d, values + i);
    const auto magnitude = hn::Abs(v);
    max = hn::Max(max, hn::BitCast(di, magnitude));
    const auto half = hn::DemoteTo(d16, hn::CopySign(hn::Min(magnitude, limit), v));
    hn::StoreU(half, d16, reinterpret_cast<hwy::float16_t*>(codes + i));
  }
  int32_t lanes_max[hn::MaxLanes(di)];
  hn::StoreU(max, di, lanes_max);
  for (int64_t k = 0; k < lanes; ++k) {
    max_magnitude = std::max(max_magnitude, static_cast<uint32_t>(lanes_max[k]));
  }
  return max_magnitude > FloatBits<float>::kInf ? 0 : i;
}
#endif

// Narrows whole vectors; returns the number of elements done, and raises `max_magnitude`.
template <MiniFormat kFormat, Rounding kRounding, typename T>
int64_t NarrowVectors(bool saturate, const T* HWY_RESTRICT values, int64_t num_elems,
                      const uint32_t* HWY_RESTRICT noise, uint16_t* HWY_RESTRICT codes,
                      hwy::MakeUnsigned<T>& max_magnitude) {
  const hn::ScalableTag<T> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<uint16_t, decltype(d)> d16;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto max = hn::Zero(di);
  int64_t i = 0;
#if QUANTD_NATIVE_F16
  if constexpr (kFormat.man_bits == 10 && kRounding == Rounding::kHalfEven && sizeof(T) == 4) {
    i = NarrowNative(saturate, values, num_elems, codes, max_magnitude);
  }
#endif
  for (; i + lanes <= num_elems; i += lanes) {
    PrefetchBehind(values + i);
    const auto v = hn::LoadU(d, values + i);
    auto random = hn::Zero(du);
    if constexpr (kRounding == Rounding::kStochastic) random = LoadWide(du, noise + i);
    max = hn::Max(max, hn::BitCast(di, hn::Abs(v)));
    const auto code = NarrowFloatVec<kFormat, kRounding>(d, v, saturate, random);
    hn::StoreU(hn::TruncateTo(d16, code), d16, codes + i);
  }
  hwy::MakeSigned<T> lanes_max[hn::MaxLanes(di)];
  hn::StoreU(max, di, lanes_max);
  for (int64_t k = 0; k < lanes; ++k) {
    max_magnitude = std::max(max_magnitude, static_cast<hwy::MakeUnsigned<T>>(lanes_max[k]));
  }
  return i;
}

template <MiniFormat kFormat, Rounding kRounding, typename T>
int64_t NarrowWith(bool saturate, const T* values, int64_t num_elems, const uint32_t* noise,
                   uint16_t* codes) {
  constexpr int64_t kMax = hn::MaxLanes(hn::ScalableTag<T>());
  hwy::MakeUnsigned<T> max_magnitude = 0;
  const int64_t done =
      NarrowVectors<kFormat, kRounding>(saturate, values, num_elems, noise, codes, max_magnitude);
  if (done < num_elems) {
    T pad[kMax] = {};
    uint32_t pad_noise[kMax] = {};
    uint16_t pad_codes[kMax];
    std::copy(values + done, values + num_elems, pad);
    if (kRounding == Rounding::kStochastic) std::copy(noise + done, noise + num_elems, pad_noise);
    NarrowVectors<kFormat, kRounding>(saturate, pad, kMax, pad_noise, pad_codes, max_magnitude);
    std::copy(pad_codes, pad_codes + (num_elems - done), codes + done);
  }
  // The largest finite code and half a step, which is the bit below its mantissa.
  constexpr MiniFormat kWide = kFormat;
  const double limit = WidenFloat<double>(kWide, kWide.max_code) +
                       0.5 * (WidenFloat<double>(kWide, kWide.max_code) -
                              WidenFloat<double>(kWide, kWide.max_code - 1));
  const T bound = static_cast<T>(limit);  // exact
  if (max_magnitude < std::bit_cast<hwy::MakeUnsigned<T>>(bound)) return 0;
  return std::count_if(values, values + num_elems, [bound](T value) {
    return std::isfinite(value) && std::fabs(value) >= bound;
  });
}

template <MiniFormat kFormat, typename T>
int64_t NarrowRounding(Rounding rounding, bool saturate, const T* values, int64_t n,
                       const uint32_t* noise, uint16_t* codes) {
  switch (rounding) {
    case Rounding::kHalfEven:
      return NarrowWith<kFormat, Rounding::kHalfEven>(saturate, values, n, noise, codes);
    case Rounding::kHalfAway:
      return NarrowWith<kFormat, Rounding::kHalfAway>(saturate, values, n, noise, codes);
    case Rounding::kHalfUp:
      return NarrowWith<kFormat, Rounding::kHalfUp>(saturate, values, n, noise, codes);
    case Rounding::kHalfDown:
      return NarrowWith<kFormat, Rounding::kHalfDown>(saturate, values, n, noise, codes);
    case Rounding::kTruncate:
      return NarrowWith<kFormat, Rounding::kTruncate>(saturate, values, n, noise, codes);
    case Rounding::kFloor:
      return NarrowWith<kFormat, Rounding::kFloor>(saturate, values, n, noise, codes);
    case Rounding::kCeil:
      return NarrowWith<kFormat, Rounding::kCeil>(saturate, values, n, noise, codes);
    case Rounding::kStochastic:
      return NarrowWith<kFormat, Rounding::kStochastic>(saturate, values, n, noise, codes);
  }
  return 0;
}

template <typename T>
int64_t NarrowKind(HalfKind kind, Rounding rounding, bool saturate, const T* values, int64_t n,
                   const uint32_t* noise, uint16_t* codes) {
  switch (kind) {
    case HalfKind::kF16:
      return NarrowRounding<kHalfFormat>(rounding, saturate, values, n, noise, codes);
    case HalfKind::kBf16:
      return NarrowRounding<kBfloatFormat>(rounding, saturate, values, n, noise, codes);
  }
  return 0;
}

#if QUANTD_NATIVE_F16
// Widens whole vectors; returns the number of elements done, 0 if there is NaN.
int64_t WidenNative(const uint16_t* HWY_RESTRICT codes, int64_t num_elems,
                    float* HWY_RESTRICT values) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto max = hn::Zero(di);
  int64_t i = 0;
  for (; i + lanes <= num_elems; i += lanes) {
    const auto v =
        hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(codes + i)));
    max = hn::Max(max, hn::BitCast(di, hn::Abs(v)));
    hn::StoreU(v, d, values + i);
  }
  const auto inf = hn::Set(di, static_cast<int32_t>(FloatBits<float>::kInf));
  return hn::AllFalse(di, hn::Gt(max, inf)) ? i : 0;
}
#endif

template <MiniFormat kFormat, typename T>
void WidenFormat(const uint16_t* HWY_RESTRICT codes, int64_t num_elems, T* HWY_RESTRICT values) {
  const hn::ScalableTag<T> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
#if QUANTD_NATIVE_F16
  if constexpr (kFormat.man_bits == 10 && sizeof(T) == 4) {
    i = WidenNative(codes, num_elems, values);
  }
#endif
  for (; i + lanes <= num_elems; i += lanes) {
    hn::StoreU(WidenFloatVec<kFormat>(d, LoadWide(du, codes + i)), d, values + i);
  }
  if (i < num_elems) {
    uint16_t pad[hn::MaxLanes(d)] = {};
    T pad_values[hn::MaxLanes(d)];
    std::copy(codes + i, codes + num_elems, pad);
    hn::StoreU(WidenFloatVec<kFormat>(d, LoadWide(du, pad)), d, pad_values);
    std::memcpy(values + i, pad_values, static_cast<size_t>(num_elems - i) * sizeof(T));
  }
}

template <typename T>
void WidenKind(HalfKind kind, const uint16_t* codes, int64_t num_elems, T* values) {
  switch (kind) {
    case HalfKind::kF16:
      return WidenFormat<kHalfFormat>(codes, num_elems, values);
    case HalfKind::kBf16:
      return WidenFormat<kBfloatFormat>(codes, num_elems, values);
  }
}

template <typename From>
void WidenIntImpl(const From* HWY_RESTRICT from, int64_t num_elems, float* HWY_RESTRICT wide) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<From, decltype(d)> d_from;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= num_elems; i += lanes) {
    const auto whole = hn::PromoteTo(di, hn::LoadU(d_from, from + i));
    hn::StoreU(hn::ConvertTo(d, whole), d, wide + i);
  }
  for (; i < num_elems; ++i) wide[i] = static_cast<float>(from[i]);
}

void WidenInts(DType dtype, const std::byte* from, int64_t num_elems, float* wide) {
  if (dtype == DType::kInt8) {
    WidenIntImpl(reinterpret_cast<const int8_t*>(from), num_elems, wide);
  } else if (dtype == DType::kUint8) {
    WidenIntImpl(reinterpret_cast<const uint8_t*>(from), num_elems, wide);
  } else if (dtype == DType::kInt16) {
    WidenIntImpl(reinterpret_cast<const int16_t*>(from), num_elems, wide);
  } else {
    WidenIntImpl(reinterpret_cast<const uint16_t*>(from), num_elems, wide);
  }
}

int64_t NarrowF32(HalfKind kind, Rounding rounding, bool saturate, const float* values, int64_t n,
                  const uint32_t* noise, uint16_t* codes) {
  return NarrowKind(kind, rounding, saturate, values, n, noise, codes);
}
int64_t NarrowF64(HalfKind kind, Rounding rounding, bool saturate, const double* values, int64_t n,
                  const uint32_t* noise, uint16_t* codes) {
  return NarrowKind(kind, rounding, saturate, values, n, noise, codes);
}
void WidenHalfF32(HalfKind kind, const uint16_t* codes, int64_t n, float* values) {
  WidenKind(kind, codes, n, values);
}
void WidenHalfF64(HalfKind kind, const uint16_t* codes, int64_t n, double* values) {
  WidenKind(kind, codes, n, values);
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(NarrowF32);
HWY_EXPORT(NarrowF64);
HWY_EXPORT(WidenHalfF32);
HWY_EXPORT(WidenHalfF64);
HWY_EXPORT(WidenInts);

bool WorksAsF32(DType dtype) {
  return dtype != DType::kF64 && dtype != DType::kInt32 && dtype != DType::kUint32 &&
         dtype != DType::kInt64;
}

void WidenToF32(DType dtype, const std::byte* values, int64_t num_elems, float* wide) {
  const auto* codes = reinterpret_cast<const uint16_t*>(values);
  if (dtype == DType::kF32) {
    std::memcpy(wide, values, static_cast<size_t>(num_elems) * sizeof(float));
  } else if (dtype == DType::kF16) {
    WidenHalf(HalfKind::kF16, codes, num_elems, wide);
  } else if (dtype == DType::kBf16) {
    WidenHalf(HalfKind::kBf16, codes, num_elems, wide);
  } else {
    HWY_DYNAMIC_DISPATCH(WidenInts)(dtype, values, num_elems, wide);
  }
}

int64_t WidenToF64(DType dtype, const std::byte* values, int64_t num_elems, double* wide) {
  if (dtype == DType::kF64) {
    std::memcpy(wide, values, static_cast<size_t>(num_elems) * sizeof(double));
  } else if (dtype == DType::kInt32) {
    const auto* from = reinterpret_cast<const int32_t*>(values);
    std::copy(from, from + num_elems, wide);
  } else if (dtype == DType::kUint32) {
    const auto* from = reinterpret_cast<const uint32_t*>(values);
    std::copy(from, from + num_elems, wide);
  } else {
    const auto* from = reinterpret_cast<const int64_t*>(values);
    int64_t inexact = 0;
    for (int64_t i = 0; i < num_elems; ++i) {
      wide[i] = static_cast<double>(from[i]);
      // 2^63 itself does not fit back; only values next to it round there.
      inexact += wide[i] >= 0x1p63 || static_cast<int64_t>(wide[i]) != from[i];
    }
    return inexact;
  }
  return 0;
}

int64_t NarrowToHalf(HalfKind kind, Rounding rounding, bool saturate, const float* values,
                     int64_t num_elems, const uint32_t* noise, uint16_t* codes) {
  return HWY_DYNAMIC_DISPATCH(NarrowF32)(kind, rounding, saturate, values, num_elems, noise, codes);
}
int64_t NarrowToHalf(HalfKind kind, Rounding rounding, bool saturate, const double* values,
                     int64_t num_elems, const uint32_t* noise, uint16_t* codes) {
  return HWY_DYNAMIC_DISPATCH(NarrowF64)(kind, rounding, saturate, values, num_elems, noise, codes);
}
void WidenHalf(HalfKind kind, const uint16_t* codes, int64_t num_elems, float* values) {
  HWY_DYNAMIC_DISPATCH(WidenHalfF32)(kind, codes, num_elems, values);
}
void WidenHalf(HalfKind kind, const uint16_t* codes, int64_t num_elems, double* values) {
  HWY_DYNAMIC_DISPATCH(WidenHalfF64)(kind, codes, num_elems, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
