// Encoding of values to float codes in runs that share a scale, or with a scale for each value:
// what all formats share. A Narrower says how a vector becomes codes. Compiled once per SIMD
// target.
#if defined(QUANTD_CORE_SIMD_FLOAT_RUNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_FLOAT_RUNS_INL_H_
#undef QUANTD_CORE_SIMD_FLOAT_RUNS_INL_H_
#else
#define QUANTD_CORE_SIMD_FLOAT_RUNS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/base/copy_bytes.h"
#include "core/simd/float_codes.h"
#include "core/simd/narrower-inl.h"
#include "core/simd/runs-inl.h"

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

  RunEncoder(const FloatCoding& coding, const Narrower& narrower)
      : scales_(coding.elem_scales()), noise_(coding.noise), narrower_(narrower) {}

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
      if (kStochastic && noise_ != nullptr) std::copy_n(noise_ + i, rest, noise);
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
    if (kStochastic && noise != nullptr) noise += i;
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

// Counts the finite values that are clipped: divided, they reach `bound`.
template <typename T>
HWY_NOINLINE int64_t CountClippedFloats(const FloatCoding& coding, T bound, const T* values,
                                        int64_t num_elems) {
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

// Encodes all runs; true if all was finite and below `bound`, the first magnitude that is clipped.
template <class Narrower, bool kStochastic, bool kScaled, class Regs, typename T>
HWY_NOINLINE bool EncodeFloatRuns(const FloatCoding& coding, const Narrower& narrower, T bound,
                                  const T* values, int64_t num_elems, std::byte* codes,
                                  MeterLanes<T>& lanes) {
  using D = hn::CappedTag<T, 16>;
  const D d;
  // The meter knows the extremes of what is not divided, and its signal whether there was NaN.
  constexpr bool kWatches = kScaled || !std::is_same_v<Regs, MeterRegs<D>>;
  RunEncoder<Narrower, kStochastic, kScaled, kWatches, Regs, T> encoder(coding, narrower);
  bool within = true;
  for (size_t k = 0; k < 16; k += hn::MaxLanes(d)) {
    Regs regs(d, lanes, k);
    const auto encode = [&](const ScaledRun& run) HWY_ATTR {
      encoder.Encode(run, values, reinterpret_cast<typename Narrower::Code*>(codes),
                     static_cast<int64_t>(k), regs);
    };
    ForEachScaledRun(coding, num_elems, encode);
    regs.Store(d, lanes, k);
  }
  if constexpr (kWatches) return encoder.AllBelow(bound);
  for (size_t k = 0; k < 16; ++k) {
    within &= lanes.min[k] > -bound && lanes.max[k] < bound && !std::isnan(lanes.signal[k]);
  }
  return within;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
