// The end of an array that does not fill a vector or a block. Compiled once per SIMD target.
#if defined(QUANTD_CORE_SIMD_REST_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_REST_INL_H_
#undef QUANTD_CORE_SIMD_REST_INL_H_
#else
#define QUANTD_CORE_SIMD_REST_INL_H_
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "core/base/copy_bytes.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Loads `count` values, fewer than a vector has, at any alignment; the other lanes are 0.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::VFromD<D> LoadRest(D d, const T* from, int64_t count) {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  if constexpr (sizeof(T) >= 4) {  // lanes that are masked off are not read
    return hn::MaskedLoad(hn::FirstN(d, static_cast<size_t>(count)), d, from);
  }
#endif
  HWY_ALIGN T pad[hn::MaxLanes(D())] = {};
  CopyBytes(pad, from, static_cast<size_t>(count) * sizeof(T));
  return hn::Load(d, pad);
}

// Stores the first `count` lanes, at any alignment.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void StoreRest(hn::VFromD<D> v, D d, T* to, int64_t count) {
  HWY_ALIGN T pad[hn::MaxLanes(D())];
  hn::Store(v, d, pad);
  CopyBytes(to, pad, static_cast<size_t>(count) * sizeof(T));
}

// Calls decode(block, out) for the blocks that hold `num_elems` values. The last one, if the values
// end in it, is decoded aside.
template <int64_t kBlockElems, typename T, class Decode>
HWY_INLINE void DecodeBlocks(int64_t num_elems, T* values, Decode decode) {
  T aside[kBlockElems];
  for (int64_t block = 0; num_elems > 0; ++block, num_elems -= kBlockElems) {
    const bool whole = num_elems >= kBlockElems;
    decode(block, whole ? values : aside);
    if (!whole) CopyBytes(values, aside, static_cast<size_t>(num_elems) * sizeof(T));
    values += kBlockElems;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
