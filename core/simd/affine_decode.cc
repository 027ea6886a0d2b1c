// Entry: DecodeAffine. Tested by tests/core/simd/affine_test.cc.
#include <algorithm>
#include <type_traits>

#include "core/simd/affine.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/affine_decode.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/affine-inl.h"

#ifndef QUANTD_CORE_SIMD_AFFINE_DECODE_TABLE
#define QUANTD_CORE_SIMD_AFFINE_DECODE_TABLE
namespace quantd {

template <typename T>
using AffineDecodeFn = void (*)(const void* codes, int64_t num_elems, const AffineParams&,
                                T* values);

struct AffineDecodeKernels {  // by AffineCode
  AffineDecodeFn<float> f32[4];
  AffineDecodeFn<double> f64[4];
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace {
namespace hn = hwy::HWY_NAMESPACE;

template <typename Code, typename T>
void Decode(const void* from, int64_t num_elems, const AffineParams& params,
            T* HWY_RESTRICT values) {
  const AffineTag<T> d;
  using D = std::remove_const_t<decltype(d)>;
  const hn::Rebind<int32_t, D> di;
  const hn::Rebind<Code, D> dc;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const Code* HWY_RESTRICT codes = static_cast<const Code*>(from);
  const auto widen = [&](auto code, auto zero, auto scale) HWY_ATTR {
    const auto steps = hn::Sub(hn::PromoteTo(di, code), zero);
    if constexpr (sizeof(T) == 4) {
      return hn::Mul(hn::ConvertTo(d, steps), scale);
    } else {
      return hn::Mul(hn::PromoteTo(d, steps), scale);
    }
  };
  if (params.ends == nullptr) {
    const auto zeros = [&](int64_t i, int64_t count) HWY_ATTR {
      if (params.zero_points == nullptr) return hn::Set(di, params.zero_point);
      if (count < kWidth) return LoadRest(di, params.zero_points + i, count);
      return hn::LoadU(di, params.zero_points + i);
    };
    int64_t i = 0;
    for (; i + kWidth <= num_elems; i += kWidth) {
      hn::StoreU(widen(hn::LoadU(dc, codes + i), zeros(i, kWidth),
                       LoadScale(d, params.scales + i, kWidth)),
                 d, values + i);
    }
    if (const int64_t rest = num_elems - i; rest > 0) {
      StoreRest(widen(LoadRest(dc, codes + i, rest), zeros(i, rest),
                      LoadScale(d, params.scales + i, rest)),
                d, values + i, rest);
    }
    return;
  }
  int64_t i = 0;
  for (int64_t r = 0; r < params.num_runs; ++r) {
    const int64_t end = params.ends[r];
    const auto scale = hn::Set(d, static_cast<T>(LoadAt(params.scales, r)));
    const auto zero = hn::Set(di, ZeroOfRun(params, r));
    // What is written beyond the run's end the next one writes again.
    for (; i < end && i + kWidth <= num_elems; i += kWidth) {
      hn::StoreU(widen(hn::LoadU(dc, codes + i), zero, scale), d, values + i);
    }
    if (i < end) {
      const int64_t rest = end - i;
      StoreRest(widen(LoadRest(dc, codes + i, rest), zero, scale), d, values + i, rest);
    }
    i = end;
  }
}

const AffineDecodeKernels& Kernels() {
  static constexpr AffineDecodeKernels kKernels = {
      {Decode<int8_t, float>, Decode<uint8_t, float>, Decode<int16_t, float>,
       Decode<uint16_t, float>},
      {Decode<int8_t, double>, Decode<uint8_t, double>, Decode<int16_t, double>,
       Decode<uint16_t, double>}};
  return kKernels;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {

HWY_EXPORT(Kernels);

void DecodeAffine(AffineCode type, const void* codes, int64_t num_elems, const AffineParams& params,
                  float* values) {
  const AffineDecodeKernels& kernels = HWY_DYNAMIC_DISPATCH(Kernels)();
  kernels.f32[static_cast<size_t>(type)](codes, num_elems, params, values);
}
void DecodeAffine(AffineCode type, const void* codes, int64_t num_elems, const AffineParams& params,
                  double* values) {
  const AffineDecodeKernels& kernels = HWY_DYNAMIC_DISPATCH(Kernels)();
  kernels.f64[static_cast<size_t>(type)](codes, num_elems, params, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
