// The entries are EncodeFbgemmRow and DecodeFbgemmRow. Tested by
// tests/core/scheme/segments_test.cc, through the scheme.
#include "core/scheme/fbgemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/scheme/fbgemm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/fused-inl.h"
#include "core/simd/meter-inl.h"
#include "core/simd/prefetch.h"
#include "core/simd/rest-inl.h"

#ifndef QUANTD_CORE_SCHEME_FBGEMM_KERNELS
#define QUANTD_CORE_SCHEME_FBGEMM_KERNELS
namespace quantd {

template <typename T>
struct FbgemmKernelsOf {
  bool (*encode)(const FbgemmRow& row, const T* values, int64_t num_elems, uint8_t* codes,
                 MeterLanes<T>* lanes);  // true if some may be clipped
  void (*decode)(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems, T* values);
};
struct FbgemmKernels {
  FbgemmKernelsOf<float> f32;
  FbgemmKernelsOf<double> f64;
};

}  // namespace quantd
#endif

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Returns code * scale + bias; in f64 the product is exact.
template <class D, class V = hn::VFromD<D>>
HWY_INLINE V RowValue(D d, V code, V scale, V bias) {
  if constexpr (sizeof(hn::TFromD<D>) == 4) {
    return FusedMulAdd(d, code, scale, bias);
  } else {
    return hn::Add(hn::Mul(code, scale), bias);
  }
}

template <class Regs, class D, typename T = hn::TFromD<D>>
bool EncodeRowWith(D d, const FbgemmRow& row, const T* HWY_RESTRICT values, int64_t num_elems,
                   uint8_t* HWY_RESTRICT codes, MeterLanes<T>& lanes) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<uint8_t, D> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto bias = hn::Set(d, static_cast<T>(row.stored.bias));
  const auto scale = hn::Set(d, static_cast<T>(row.stored.scale));
  const auto inverse = hn::Set(d, static_cast<T>(row.inverse));
  const auto max_code = hn::Set(d, T{255});
  // Adding it leaves a whole number in the low bits.
  const auto magic = hn::Set(d, static_cast<T>(sizeof(T) == 4 ? 0x1.8p23 : 0x1.8p52));
  auto lowest = hn::Zero(d), highest = lowest;
  const auto encode = [&](auto x) HWY_ATTR {
    const auto steps = hn::Mul(hn::Sub(x, bias), inverse);
    lowest = hn::Min(lowest, steps);
    highest = hn::Max(highest, steps);
    return hn::Round(hn::Min(hn::Max(steps, hn::Zero(d)), max_code));
  };
  const auto narrow = [&](auto code) HWY_ATTR {
    return hn::TruncateTo(d8, hn::BitCast(du, hn::Add(code, magic)));
  };
  for (int64_t k = 0; k < 16; k += kWidth) {
    Regs regs(d, lanes, static_cast<size_t>(k));
    int64_t i = k;
    for (; i + kWidth <= num_elems; i += 16) {
      if (k == 0) PrefetchBehind(values + i);
      const auto x = hn::LoadU(d, values + i);
      const auto code = encode(x);
      hn::StoreU(narrow(code), d8, codes + i);
      regs.Add(d, x, RowValue(d, code, scale, bias));
    }
    if (const int64_t rest = num_elems - i; rest > 0) {
      const auto x = LoadRest(d, values + i, rest);
      const auto code = encode(hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(rest)), x, bias));
      StoreRest(narrow(code), d8, codes + i, rest);
      regs.AddFirst(d, static_cast<size_t>(rest), x, RowValue(d, code, scale, bias));
    }
    regs.Store(d, lanes, static_cast<size_t>(k));
  }
  const auto half = hn::Set(d, static_cast<T>(0.5));
  return !hn::AllFalse(
      d, hn::Or(hn::Le(lowest, hn::Neg(half)), hn::Ge(highest, hn::Add(max_code, half))));
}

template <typename T>
bool EncodeRow(const FbgemmRow& row, const T* values, int64_t num_elems, uint8_t* codes,
               MeterLanes<T>* lanes) {
  const hn::CappedTag<T, 16> d;
  if (lanes != nullptr) {
    return EncodeRowWith<MeterRegs<decltype(d)>>(d, row, values, num_elems, codes, *lanes);
  }
  MeterLanes<T> none;
  return EncodeRowWith<NullRegs<decltype(d)>>(d, row, values, num_elems, codes, none);
}

template <typename T>
void DecodeRow(const FbgemmTrailer& row, const uint8_t* HWY_RESTRICT codes, int64_t num_elems,
               T* HWY_RESTRICT values) {
  const hn::CappedTag<T, 16> d;
  const hn::Rebind<int32_t, decltype(d)> di32;
  const hn::Rebind<uint8_t, decltype(d)> d8;
  constexpr int64_t kWidth = hn::MaxLanes(d);
  const auto scale = hn::Set(d, static_cast<T>(row.scale));
  const auto bias = hn::Set(d, static_cast<T>(row.bias));
  const auto decode = [&](auto code8) HWY_ATTR {
    const auto code = hn::PromoteTo(di32, code8);
    if constexpr (sizeof(T) == 4) {
      return RowValue(d, hn::ConvertTo(d, code), scale, bias);
    } else {
      return RowValue(d, hn::PromoteTo(d, code), scale, bias);
    }
  };
  int64_t i = 0;
  for (; i + kWidth <= num_elems; i += kWidth) {
    hn::StoreU(decode(hn::LoadU(d8, codes + i)), d, values + i);
  }
  if (const int64_t rest = num_elems - i; rest > 0) {
    StoreRest(decode(LoadRest(d8, codes + i, rest)), d, values + i, rest);
  }
}

const FbgemmKernels& FbgemmKernelsOfTarget() {
  static constexpr FbgemmKernels kKernels = {{EncodeRow<float>, DecodeRow<float>},
                                           {EncodeRow<double>, DecodeRow<double>}};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(FbgemmKernelsOfTarget);

template <typename T>
const FbgemmKernelsOf<T>& Kernels() {
  const FbgemmKernels& kernels = HWY_DYNAMIC_DISPATCH(FbgemmKernelsOfTarget)();
  if constexpr (sizeof(T) == 4) {
    return kernels.f32;
  } else {
    return kernels.f64;
  }
}

template <typename T>
int64_t Encode(const FbgemmRow& row, const T* values, int64_t num_elems, uint8_t* codes,
               MeterLanes<T>* lanes) {
  if (!Kernels<T>().encode(row, values, num_elems, codes, lanes)) return 0;
  int64_t clipped = 0;
  for (int64_t i = 0; i < num_elems; ++i) {
    const T steps = (LoadAt(values, i) - row.stored.bias) * row.inverse;
    clipped += steps <= static_cast<T>(-0.5) || steps >= static_cast<T>(255.5);
  }
  return clipped;
}

}  // namespace

int64_t EncodeFbgemmRow(const FbgemmRow& row, const float* values, int64_t num_elems,
                        uint8_t* codes, MeterLanes<float>* lanes) {
  return Encode(row, values, num_elems, codes, lanes);
}
int64_t EncodeFbgemmRow(const FbgemmRow& row, const double* values, int64_t num_elems,
                        uint8_t* codes, MeterLanes<double>* lanes) {
  return Encode(row, values, num_elems, codes, lanes);
}
void DecodeFbgemmRow(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems,
                     float* values) {
  Kernels<float>().decode(row, codes, num_elems, values);
}
void DecodeFbgemmRow(const FbgemmTrailer& row, const uint8_t* codes, int64_t num_elems,
                     double* values) {
  Kernels<double>().decode(row, codes, num_elems, values);
}

}  // namespace quantd
#endif  // HWY_ONCE
