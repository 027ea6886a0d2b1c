// One pass over the runs for each part of the meter's 16 lanes (simd/meter-inl.h). Whether values
// are clipped is not asked of each: the least and the largest quotient of all runs are kept, and
// only where these lie half a step outside are the clipped ones counted, in another pass. The end
// of a run that fills no vector is padded with its bias, whose quotient is 0.
//
// Entries: EncodeMlxRuns and DecodeMlxRuns. Tested by tests/core/scheme/segments_test.cc, through
// the schemes.
#include "core/scheme/mlx_codes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/mlx_codes.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/meter-inl.h"
#include "core/simd/prefetch.h"
#include "core/simd/rest-inl.h"

#ifndef QUANTD_CORE_SCHEME_MLX_CODES_KERNELS
#define QUANTD_CORE_SCHEME_MLX_CODES_KERNELS
namespace quantd {

template <typename T>
struct MlxKernelsOf {
  bool (*encode)(int max_code, const T* values, std::span<const MlxRun<T>> runs, uint8_t* codes,
                 MeterLanes<T>* lanes);  // true if some may be clipped
  void (*decode)(std::span<const MlxRun<T>> runs, const uint8_t* codes, T* values);
};
struct MlxKernels {
  MlxKernelsOf<float> f32;
  MlxKernelsOf<double> f64;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Regs, class D, typename T = hn::TFromD<D>>
bool EncodeMlxWith(D d, int max_code, const T* HWY_RESTRICT values, std::span<const MlxRun<T>> runs,
                   uint8_t* HWY_RESTRICT codes, MeterLanes<T>& lanes) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint8_t, D> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto limit = hn::Set(d, static_cast<T>(max_code));
  // Adding it leaves a whole number in the low bits.
  const auto magic = hn::Set(d, static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52));
  auto lowest = hn::Zero(d), highest = lowest;
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    const T* x_at = values;
    uint8_t* codes_at = codes;
    for (const MlxRun<T>& run : runs) {
      const auto scale = hn::Set(d, run.scale), bias = hn::Set(d, run.bias);
      const auto stored_scale = hn::Set(d, run.stored_scale);
      const auto stored_bias = hn::Set(d, run.stored_bias);
      const auto encode = [&](auto x) HWY_ATTR {
        const auto steps = hn::Div(hn::Sub(x, bias), scale);
        lowest = hn::Min(lowest, steps);
        highest = hn::Max(highest, steps);
        return hn::Round(hn::Min(hn::Max(steps, hn::Zero(d)), limit));
      };
      const auto decode = [&](auto code) HWY_ATTR {
        return hn::Add(hn::Mul(code, stored_scale), stored_bias);
      };
      const auto narrow = [&](auto code) HWY_ATTR {
        return hn::TruncateTo(d8, hn::BitCast(du, hn::Add(code, magic)));
      };
      const int64_t num_elems = run.num_elems;
      int64_t i = k;
      for (; i + kWidth <= num_elems; i += 16) {
        if (k == 0) PrefetchBehind(x_at + i);
        const auto x = hn::LoadU(d, x_at + i);
        const auto code = encode(x);
        hn::StoreU(narrow(code), d8, codes_at + i);
        regs.Add(d, x, decode(code));
      }
      if (const int64_t rest = num_elems - i; rest > 0) {
        const auto x = LoadRest(d, x_at + i, rest);
        const auto here = hn::FirstN(d, static_cast<size_t>(rest));
        const auto code = encode(hn::IfThenElse(here, x, bias));
        StoreRest(narrow(code), d8, codes_at + i, rest);
        regs.AddFirst(d, static_cast<size_t>(rest), x, decode(code));
      }
      x_at += num_elems;
      codes_at += num_elems;
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  const auto half = hn::Set(d, static_cast<T>(0.5));
  return !hn::AllFalse(
      d, hn::Or(hn::Le(lowest, hn::Neg(half)), hn::Ge(highest, hn::Add(limit, half))));
}

template <typename T>
bool EncodeMlxImpl(int max_code, const T* values, std::span<const MlxRun<T>> runs, uint8_t* codes,
                   MeterLanes<T>* lanes) {
  const hn::CappedTag<T, 16> d;
  if (lanes != nullptr) {
    return EncodeMlxWith<MeterRegs<decltype(d)>>(d, max_code, values, runs, codes, *lanes);
  }
  MeterLanes<T> none;
  return EncodeMlxWith<NullRegs<decltype(d)>>(d, max_code, values, runs, codes, none);
}

template <typename T>
void DecodeMlxImpl(std::span<const MlxRun<T>> runs, const uint8_t* HWY_RESTRICT codes,
                   T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  for (const MlxRun<T>& run : runs) {
    const auto scale = hn::Set(d, run.stored_scale), bias = hn::Set(d, run.stored_bias);
    const auto decode = [&](auto code8) HWY_ATTR {
      const auto code = hn::PromoteTo(di32, code8);
      if constexpr (sizeof(T) == 4) {
        return hn::Add(hn::Mul(hn::ConvertTo(d, code), scale), bias);
      } else {
        return hn::Add(hn::Mul(hn::PromoteTo(d, code), scale), bias);
      }
    };
    int64_t i = 0;
    for (; i + kWidth <= run.num_elems; i += kWidth) {
      hn::StoreU(decode(hn::LoadU(d8, codes + i)), d, values + i);
    }
    if (const int64_t rest = run.num_elems - i; rest > 0) {
      StoreRest(decode(LoadRest(d8, codes + i, rest)), d, values + i, rest);
    }
    codes += run.num_elems;
    values += run.num_elems;
  }
}

const MlxKernels& MlxKernelsOfTarget() {
  static constexpr MlxKernels kKernels = {{EncodeMlxImpl<float>, DecodeMlxImpl<float>},
                                          {EncodeMlxImpl<double>, DecodeMlxImpl<double>}};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(MlxKernelsOfTarget);

template <typename T>
const MlxKernelsOf<T>& Kernels() {
  const MlxKernels& kernels = HWY_DYNAMIC_DISPATCH(MlxKernelsOfTarget)();
  if constexpr (sizeof(T) == 4) {
    return kernels.f32;
  } else {
    return kernels.f64;
  }
}

template <typename T>
int64_t Encode(int max_code, const T* values, std::span<const MlxRun<T>> runs, uint8_t* codes,
               MeterLanes<T>* lanes) {
  if (!Kernels<T>().encode(max_code, values, runs, codes, lanes)) return 0;
  const T high = static_cast<T>(max_code + 0.5);
  int64_t clipped = 0, elem = 0;
  for (const MlxRun<T>& run : runs) {
    for (const int64_t end = elem + run.num_elems; elem < end; ++elem) {
      const T steps = (LoadAt(values, elem) - run.bias) / run.scale;
      clipped += steps <= static_cast<T>(-0.5) || steps >= high;
    }
  }
  return clipped;
}

}  // namespace

int64_t EncodeMlxRuns(int max_code, const float* values, std::span<const MlxRun<float>> runs,
                      uint8_t* codes, MeterLanes<float>* lanes) {
  return Encode(max_code, values, runs, codes, lanes);
}
int64_t EncodeMlxRuns(int max_code, const double* values, std::span<const MlxRun<double>> runs,
                      uint8_t* codes, MeterLanes<double>* lanes) {
  return Encode(max_code, values, runs, codes, lanes);
}
void DecodeMlxRuns(std::span<const MlxRun<float>> runs, const uint8_t* codes, float* values) {
  Kernels<float>().decode(runs, codes, values);
}
void DecodeMlxRuns(std::span<const MlxRun<double>> runs, const uint8_t* codes, double* values) {
  Kernels<double>().decode(runs, codes, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
