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

// Values next to each other with one scale, or scales of their own.
struct ScaledRun {
  int64_t begin, end;
  float scale;
};

// Calls fn(run) for the runs, or the one that stands for them.
template <typename Fn>
HWY_INLINE void ForEachScaledRun(const FloatCoding& coding, int64_t num_elems, Fn fn) {
  if (coding.ends.empty()) {
    fn(ScaledRun{0, num_elems, 1});
    return;
  }
  int64_t begin = 0;
  for (size_t i = 0; i < coding.ends.size(); ++i) {
    const int64_t end = coding.ends[i];
    fn(ScaledRun{begin, end, coding.scales[i]});
    begin = end;
  }
}

// One run of an encoding, the lanes from k on; `Step` is one vector, wherever its operands lie.
template <class Narrower, bool kStochastic, bool kScaled, bool kWatches, class Regs, typename T>
class RunEncoder {
 public:
  using D = hn::CappedTag<T, 16>;
  using V = hn::VFromD<D>;
  using Code = typename Narrower::Code;
  static constexpr int64_t kWidth = hn::MaxLanes(D());

  explicit RunEncoder(const FloatCoding& coding)
      : scales_(coding.elem_scales()), noise_(coding.noise), narrower_(coding.saturate) {}

  HWY_INLINE void Encode(const ScaledRun& run, const T* HWY_RESTRICT values,
                         Code* HWY_RESTRICT codes, int64_t k, Regs& regs) {
    const V scale = hn::Set(d_, static_cast<T>(run.scale));
    int64_t i = run.begin + k;
    for (; i + kWidth <= run.end; i += 16) {
      PrefetchBehind(values + i);
      const V x = hn::LoadU(d_, values + i);
      regs.Add(d_, x, Step(x, scale, scales_, noise_, i, codes + i));
    }
    if (i < run.end) {
      const int64_t rest = run.end - i;
      const V x = LoadRest(d_, values + i, rest);
      float scales[kWidth];
      uint32_t noise[kWidth] = {};
      Code pad[kWidth];
      if (kScaled && scales_ != nullptr) {
        std::fill(scales, scales + kWidth, 1.0f);
        std::copy_n(scales_ + i, rest, scales);
      }
      if (kStochastic) std::copy_n(noise_ + i, rest, noise);
      regs.AddFirst(d_, static_cast<size_t>(rest), x, Step(x, scale, scales, noise, 0, pad));
      CopyBytes(codes + i, pad, static_cast<size_t>(rest) * sizeof(Code));
    }
  }

  // True if all values, divided, were below `bound`, as far as they were watched.
  bool AllBelow(T bound) const { return below_.All(bound); }

 private:
  // Scales of elements, where there are any, and noise are taken from index `i` on.
  HWY_INLINE V Step(V x, V scale, const float* scales, const uint32_t* noise, int64_t i,
                    Code* codes) {
    if constexpr (kStochastic) noise += i;
    if constexpr (kScaled) {
      if (scales_ != nullptr) scale = LoadF32(d_, scales + i);
      x = hn::Div(x, scale);
    }
    if constexpr (kWatches) below_.Add(x);
    const V value = narrower_.Encode(x, noise, codes);
    return kScaled ? hn::Mul(value, scale) : value;
  }

  const D d_;
  const float* const scales_;  // of each value, or null
  const uint32_t* const noise_;
  const Narrower narrower_;
  Below<D> below_;
};

// Counts the finite values that are clipped.
template <MiniFormat kFormat, typename T>
HWY_NOINLINE int64_t CountClippedFloats(const FloatCoding& coding, const T* values,
                                        int64_t num_elems) {
  const T bound = FloatLimits<kFormat, T>::kClipped;
  const float* elem_scales = coding.elem_scales();
  int64_t clipped = 0;
  ForEachScaledRun(coding, num_elems, [&](const ScaledRun& run) {
    for (int64_t i = run.begin; i < run.end; ++i) {
      const T scale = static_cast<T>(elem_scales != nullptr ? elem_scales[i] : run.scale);
      const T value = LoadAt(values, i);
      clipped += std::fabs(value / scale) >= bound && std::isfinite(value);
    }
  });
  return clipped;
}

// Encodes all runs; true if nothing was clipped and all was finite.
template <class Narrower, bool kStochastic, bool kScaled, class Regs, MiniFormat kFormat,
          typename T>
HWY_NOINLINE bool EncodeFloatRuns(const FloatCoding& coding, const T* values, int64_t num_elems,
                             std::byte* codes, MeterLanes<T>& lanes) {
  using D = hn::CappedTag<T, 16>;
  const D d;
  constexpr T kBound = FloatLimits<kFormat, T>::kClipped;
  // The meter knows the extremes of what is not divided, and its signal whether there was NaN.
  constexpr bool kWatches = kScaled || !std::is_same_v<Regs, MeterRegs<D>>;
  RunEncoder<Narrower, kStochastic, kScaled, kWatches, Regs, T> encoder(coding);
  bool within = true;
  for (size_t k = 0; k < 16; k += hn::MaxLanes(d)) {
    Regs regs(d, lanes, k);
    const auto encode = [&](const ScaledRun& run) HWY_ATTR {
      encoder.Encode(run, values, reinterpret_cast<CodeOf<kFormat>*>(codes),
                     static_cast<int64_t>(k), regs);
    };
    ForEachScaledRun(coding, num_elems, encode);
    regs.Store(d, lanes, k);
  }
  if constexpr (kWatches) return encoder.AllBelow(kBound);
  for (size_t k = 0; k < 16; ++k) {
    within &= lanes.min[k] > -kBound && lanes.max[k] < kBound && !std::isnan(lanes.signal[k]);
  }
  return within;
}

template <MiniFormat kFormat, Rounding kRounding, bool kScaled, class Regs, typename T>
int64_t EncodeMeasured(const FloatCoding& coding, const T* values, int64_t n, std::byte* codes,
                       MeterLanes<T>& lanes) {
  if constexpr (kRounding == Rounding::kHalfEven) {
    MeterLanes<T> trial = lanes;
    if (EncodeFloatRuns<QuickNarrower<kFormat, T>, false, kScaled, Regs, kFormat>(
            coding, values, n, codes, trial)) {
      lanes = trial;
      return 0;
    }
  }
  constexpr bool kStochastic = kRounding == Rounding::kStochastic;
  const bool within =
      EncodeFloatRuns<CarefulNarrower<kFormat, kRounding, T>, kStochastic, kScaled, Regs, kFormat>(
          coding, values, n, codes, lanes);
  return within ? 0 : CountClippedFloats<kFormat>(coding, values, n);
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
