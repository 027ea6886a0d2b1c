// Entries: the functions of float_codes.h, by one table for each SIMD target. Tested by
// tests/core/simd/float_codes_test.cc and tests/core/scheme/reference_test.cc.
#include "core/simd/float_codes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/float_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/base/copy_bytes.h"
#include "core/simd/float_runs-inl.h"
#include "core/simd/kernel_table.h"
#include "core/simd/narrower-inl.h"
#include "core/simd/runs-inl.h"

#ifndef QUANTD_CORE_SIMD_FLOAT_CODES_TABLE
#define QUANTD_CORE_SIMD_FLOAT_CODES_TABLE
namespace quantd {

template <typename T>
struct FloatKernels {
  int64_t (*encode)(const FloatCoding&, const T*, int64_t, std::byte*, MeterLanes<T>*);
  void (*decode)(const FloatCoding&, const std::byte*, int64_t, T*);
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <MiniFormat kFormat, Rounding kRounding, bool kScaled, class Regs, typename T>
int64_t EncodeMeasured(const FloatCoding& coding, const T* values, int64_t n, std::byte* codes,
                       MeterLanes<T>& lanes) {
  constexpr T kBound = FloatLimits<kFormat, T>::kClipped;
  if constexpr (kRounding == Rounding::kHalfEven) {
    MeterLanes<T> trial = lanes;
    using Quick = QuickNarrower<kFormat, T>;
    if (EncodeFloatRuns<Quick, false, kScaled, Regs>(coding, Quick(coding.saturate), kBound, values,
                                                     n, codes, trial)) {
      lanes = trial;
      return 0;
    }
  }
  using Careful = CarefulNarrower<kFormat, kRounding, T>;
  const bool within =
      EncodeFloatRuns<Careful, kRounding == Rounding::kStochastic, kScaled, Regs>(
          coding, Careful(coding.saturate), kBound, values, n, codes, lanes);
  return within ? 0 : CountClippedFloats(coding, kBound, values, n);
}

template <MiniFormat kFormat, Rounding kRounding, bool kScaled, typename T>
int64_t EncodeRounding(const FloatCoding& coding, const T* values, int64_t n, std::byte* codes,
                       MeterLanes<T>* meter) {
  return WithMeter(meter, [&]<class Regs>(std::type_identity<Regs>, MeterLanes<T>& lanes) {
    return EncodeMeasured<kFormat, kRounding, kScaled, Regs>(coding, values, n, codes, lanes);
  });
}

template <MiniFormat kFormat, bool kScaled, typename T>
int64_t EncodeFormat(const FloatCoding& c, const T* values, int64_t n, std::byte* codes,
                     MeterLanes<T>* meter) {
  static constexpr auto kEncode = []<size_t... kRounding>(std::index_sequence<kRounding...>) {
    return std::array{EncodeRounding<kFormat, static_cast<Rounding>(kRounding), kScaled, T>...};
  }(std::make_index_sequence<kNumRoundings>());
  return kEncode[static_cast<size_t>(c.rounding)](c, values, n, codes, meter);
}

template <typename T>
int64_t EncodeAny(const FloatCoding& c, const T* values, int64_t n, std::byte* codes,
                  MeterLanes<T>* meter) {
  const bool scaled = c.dtype == DType::kF8E4M3 && c.scales != nullptr;
  const auto encode = c.dtype == DType::kF16    ? EncodeFormat<kHalfFormat, false, T>
                      : c.dtype == DType::kBf16 ? EncodeFormat<kBfloatFormat, false, T>
                      : scaled                  ? EncodeFormat<kE4m3Format, true, T>
                                                : EncodeFormat<kE4m3Format, false, T>;
  return encode(c, values, n, codes, meter);
}

// Widens whole vectors; returns the number of elements done, 0 if there is NaN.
template <typename T>
int64_t WidenNative(const uint16_t* HWY_RESTRICT codes, int64_t num_elems, T* HWY_RESTRICT values) {
  int64_t i = 0;
#if QUANTD_NATIVE_F16
  const hn::CappedTag<T, 16> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<hwy::float16_t, decltype(d)> d16;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  auto max = hn::Zero(di);
  for (; i + kWidth <= num_elems; i += kWidth) {
    const auto half = hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(codes + i));
    const auto v = hn::PromoteTo(d, half);
    max = hn::Max(max, hn::BitCast(di, hn::Abs(v)));
    hn::StoreU(v, d, values + i);
  }
  const auto inf = hn::Set(di, static_cast<hwy::MakeSigned<T>>(FloatBits<T>::kInf));
  if (!hn::AllFalse(di, hn::Gt(max, inf))) i = 0;
#else
  (void)codes, (void)num_elems, (void)values;
#endif
  return i;
}

template <MiniFormat kFormat, bool kScaled, typename T>
void DecodeFormat(const FloatCoding& coding, const std::byte* packed, int64_t num_elems,
                  T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  using Code = CodeOf<kFormat>;
  const auto* HWY_RESTRICT codes = reinterpret_cast<const Code*>(packed);
  const float* elem_scales = coding.elem_scales();
  const auto decode = [&](const ScaledRun& run) HWY_ATTR {
    const auto run_scale = hn::Set(d, static_cast<T>(run.scale));
    const auto step = [&](const Code* from, const float* scales, int64_t k) HWY_ATTR {
      const auto value = WidenFloatVec<kFormat>(d, LoadWide(du, from));
      if constexpr (!kScaled) return value;
      return hn::Mul(value, elem_scales != nullptr ? LoadF32(d, scales + k) : run_scale);
    };
    int64_t i = run.begin;
    if constexpr (IsNative<kFormat, T>()) {
      i += WidenNative(codes + i, run.end - run.begin, values + i);
    }
    for (; i + kWidth <= run.end; i += kWidth) {
      hn::StoreU(step(codes + i, elem_scales, i), d, values + i);
    }
    if (i < run.end) {
      const int64_t rest = run.end - i;
      Code pad[kWidth] = {};
      float scales[kWidth] = {};
      CopyBytes(pad, codes + i, static_cast<size_t>(rest) * sizeof(Code));
      if (kScaled && elem_scales != nullptr) std::copy_n(elem_scales + i, rest, scales);
      StoreRest(step(pad, scales, 0), d, values + i, rest);
    }
  };
  ForEachScaledRun(coding, num_elems, decode);
}

template <typename T>
void DecodeAny(const FloatCoding& c, const std::byte* codes, int64_t n, T* values) {
  if (c.dtype == DType::kF16) return DecodeFormat<kHalfFormat, false>(c, codes, n, values);
  if (c.dtype == DType::kBf16) return DecodeFormat<kBfloatFormat, false>(c, codes, n, values);
  c.scales != nullptr ? DecodeFormat<kE4m3Format, true>(c, codes, n, values)
             : DecodeFormat<kE4m3Format, false>(c, codes, n, values);
}

const KernelTable<FloatKernels>& FloatCodeTable() {
  static constexpr KernelTable<FloatKernels> kTable = {{EncodeAny<float>, DecodeAny<float>},
                                                       {EncodeAny<double>, DecodeAny<double>}};
  return kTable;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(FloatCodeTable);

int64_t EncodeFloats(const FloatCoding& coding, const float* values, int64_t num_elems,
                     std::byte* codes, MeterLanes<float>* lanes) {
  return HWY_DYNAMIC_DISPATCH(FloatCodeTable)().f32.encode(coding, values, num_elems, codes, lanes);
}
int64_t EncodeFloats(const FloatCoding& coding, const double* values, int64_t num_elems,
                     std::byte* codes, MeterLanes<double>* lanes) {
  return HWY_DYNAMIC_DISPATCH(FloatCodeTable)().f64.encode(coding, values, num_elems, codes, lanes);
}
void DecodeFloats(const FloatCoding& coding, const std::byte* codes, int64_t num_elems,
                  float* values) {
  HWY_DYNAMIC_DISPATCH(FloatCodeTable)().f32.decode(coding, codes, num_elems, values);
}
void DecodeFloats(const FloatCoding& coding, const std::byte* codes, int64_t num_elems,
                  double* values) {
  HWY_DYNAMIC_DISPATCH(FloatCodeTable)().f64.decode(coding, codes, num_elems, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
