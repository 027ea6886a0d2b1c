// Vectors of codes of 4 bits to and from bytes of two, the first in the low nibble. Compiled once
// per SIMD target.
#if defined(QUANTD_CORE_SIMD_NIBBLES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef QUANTD_CORE_SIMD_NIBBLES_INL_H_
#undef QUANTD_CORE_SIMD_NIBBLES_INL_H_
#else
#define QUANTD_CORE_SIMD_NIBBLES_INL_H_
#endif

#include <hwy/highway.h>

#include "core/simd/convert-inl.h"

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Stores codes, the upper bits of their lanes 0, as those of elements i, i + 1 ... of `packed`. An
// odd i, which vectors of one lane have, comes after the even one below it.
template <class DU, class VU = hn::VFromD<DU>>
HWY_INLINE void StoreNibbles(DU du, VU codes, uint8_t* packed, int64_t i) {
#if HWY_TARGET == HWY_SCALAR
  (void)du;
  const auto code = static_cast<uint8_t>(hn::GetLane(codes));
  packed[i / 2] = i % 2 == 0 ? code : static_cast<uint8_t>(packed[i / 2] | code << 4);
#else
  if constexpr (sizeof(hn::TFromD<DU>) == 8) {
    const hn::Rebind<uint32_t, DU> du32;
    StoreNibbles(du32, hn::TruncateTo(du32, codes), packed, i);
  } else {
    const hn::Repartition<uint64_t, DU> pairs;
    const auto pair = hn::BitCast(pairs, codes);
    StoreLow(pairs, hn::Or(pair, hn::ShiftRight<28>(pair)), packed + i / 2);
  }
#endif
}

// Returns the codes of elements i, i + 1 ...
template <class DU>
HWY_INLINE hn::VFromD<DU> LoadNibbles(DU du, const uint8_t* packed, int64_t i) {
#if HWY_TARGET == HWY_SCALAR
  return hn::Set(du, static_cast<hn::TFromD<DU>>(packed[i / 2] >> (i % 2 == 0 ? 0 : 4) & 0x0F));
#else
  if constexpr (sizeof(hn::TFromD<DU>) == 8) {
    return hn::PromoteTo(du, LoadNibbles(hn::Rebind<uint32_t, DU>(), packed, i));
  } else {
    const hn::Repartition<uint64_t, DU> pairs;
    const auto bytes = LoadWide(pairs, packed + i / 2);
    const auto pair = hn::Or(bytes, hn::ShiftLeft<28>(bytes));
    return hn::And(hn::BitCast(du, pair), hn::Set(du, 0x0F));
  }
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#endif  // include guard
