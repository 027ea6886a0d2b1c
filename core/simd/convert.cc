// What tensors hold as what kernels work on, exactly: types of at most 24 significant bits as f32,
// the others as f64.
//
//   f16 bf16 f8            f32, by the kernels of float_codes.h
//   int8 uint8 int16 ..    f32, a vector at a time
//   int32 uint32           f64
//   int64                  f64, rounded beyond 2^53: 9007199254740993 becomes ..992 and is counted
//
// f32 and f64 are read in place by whoever can, which saves all of this; see tiles.h of sessions.
//
// Entries: WidenToF32, WidenToF64 and, the other way, NarrowToHalf. Tested by
// tests/core/simd/convert_test.cc.
#include "core/simd/convert.h"

#include "core/base/copy_bytes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/convert.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "core/simd/float_codes.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename From>
void WidenIntsOf(const From* HWY_RESTRICT from, int64_t num_elems, float* HWY_RESTRICT wide) {
  const hn::ScalableTag<float> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<From, decltype(d)> d_from;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= num_elems; i += lanes) {
    const auto whole = hn::PromoteTo(di, hn::LoadU(d_from, from + i));
    hn::StoreU(hn::ConvertTo(d, whole), d, wide + i);
  }
  for (; i < num_elems; ++i) wide[i] = static_cast<float>(LoadAt(from, i));
}

void WidenInts(DType dtype, const std::byte* from, int64_t num_elems, float* wide) {
  if (dtype == DType::kInt8) {
    WidenIntsOf(reinterpret_cast<const int8_t*>(from), num_elems, wide);
  } else if (dtype == DType::kUint8) {
    WidenIntsOf(reinterpret_cast<const uint8_t*>(from), num_elems, wide);
  } else if (dtype == DType::kInt16) {
    WidenIntsOf(reinterpret_cast<const int16_t*>(from), num_elems, wide);
  } else {
    WidenIntsOf(reinterpret_cast<const uint16_t*>(from), num_elems, wide);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace quantd {
namespace {

HWY_EXPORT(WidenInts);

template <typename From>
void CopyAsF64(const std::byte* values, int64_t num_elems, double* wide) {
  const auto* from = reinterpret_cast<const From*>(values);
  for (int64_t i = 0; i < num_elems; ++i) wide[i] = static_cast<double>(LoadAt(from, i));
}

}  // namespace

bool WorksAsF32(DType dtype) {
  return dtype != DType::kF64 && dtype != DType::kInt32 && dtype != DType::kUint32 &&
         dtype != DType::kInt64;
}

void WidenToF32(DType dtype, const std::byte* values, int64_t num_elems, float* wide) {
  if (dtype == DType::kF32) {
    CopyBytes(wide, values, static_cast<size_t>(num_elems) * sizeof(float));
  } else if (IsFloat(dtype)) {
    DecodeFloats({.dtype = dtype}, values, num_elems, wide);
  } else {
    HWY_DYNAMIC_DISPATCH(WidenInts)(dtype, values, num_elems, wide);
  }
}

int64_t WidenToF64(DType dtype, const std::byte* values, int64_t num_elems, double* wide) {
  if (dtype == DType::kF64) {
    CopyBytes(wide, values, static_cast<size_t>(num_elems) * sizeof(double));
  } else if (dtype == DType::kInt32) {
    CopyAsF64<int32_t>(values, num_elems, wide);
  } else if (dtype == DType::kUint32) {
    CopyAsF64<uint32_t>(values, num_elems, wide);
  } else {
    CopyAsF64<int64_t>(values, num_elems, wide);
    const auto* from = reinterpret_cast<const int64_t*>(values);
    int64_t inexact = 0;
    for (int64_t i = 0; i < num_elems; ++i) {
      // 2^63 itself does not fit back; only values next to it round there.
      inexact += wide[i] >= 0x1p63 || static_cast<int64_t>(wide[i]) != LoadAt(from, i);
    }
    return inexact;
  }
  return 0;
}

int64_t NarrowToHalf(HalfKind kind, Rounding rounding, bool saturate, const double* values,
                     int64_t num_elems, const uint32_t* noise, uint16_t* codes) {
  const FloatCoding coding = {.dtype = kind == HalfKind::kF16 ? DType::kF16 : DType::kBf16,
                              .rounding = rounding,
                              .saturate = saturate,
                              .noise = noise};
  return EncodeFloats(coding, values, num_elems, reinterpret_cast<std::byte*>(codes), nullptr);
}

}  // namespace quantd
#endif  // HWY_ONCE
