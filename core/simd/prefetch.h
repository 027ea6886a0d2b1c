#ifndef QUANTD_CORE_SIMD_PREFETCH_H_
#define QUANTD_CORE_SIMD_PREFETCH_H_

#include <hwy/cache_control.h>

#include <cstdint>

namespace quantd {

// Fetches what lies 16 KiB behind `p` into the cache: further than the hardware looks, whose
// prefetchers stop at pages, and between two tiles. Kernels that go over a tile the first time call
// it once a vector, so that memory is read while they compute. Any address is allowed.
template <typename T>
HWY_INLINE void PrefetchBehind(const T* p) {
  constexpr uintptr_t kBytes = 16384;
  // An integer, for the address may lie outside of the array.
  hwy::Prefetch(reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(p) + kBytes));
}

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_PREFETCH_H_
