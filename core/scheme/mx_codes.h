#ifndef QUANTD_CORE_SCHEME_MX_CODES_H_
#define QUANTD_CORE_SCHEME_MX_CODES_H_

#include <cstdint>

#include "core/base/minifloat.h"
#include "core/scheme/scheme.h"
#include "core/simd/kernel_table.h"
#include "core/simd/meter.h"

// The kernels of the MX rows (mx.h), one for all elements: blocks of 32 with a power of two each.

namespace quantd {
namespace mx {

inline constexpr int64_t kBlockElems = 32;
inline constexpr int kScaleBias = 127;  // of E8M0
inline constexpr uint8_t kMaxScale = 254;
inline constexpr uint8_t kNanScale = 255;

// How an element is coded. int8 is E1M6 with the sign in two's complement: 64 is 1, and 0x80, which
// is decoded as -2, is never made.
struct Element {
  MiniFormat format;
  int max_exponent;  // of the largest value
  bool twos_complement;
  double largest;  // magnitude
  double clip;     // half a step beyond: the first that is clipped

  constexpr int bits() const { return format.sign_shift() + 1; }
};

// What else there is to do than to round to even and to saturate at the largest value. If `any`,
// values saturate where f32 holds the product with the scale.
struct Habits {
  bool any = false;
  bool ties_toward_zero = false;  // and then code 0 has no sign
};

template <typename T>
struct Kernels {
  // Writes a byte for each of the values, at any alignment, in blocks of which the last may be
  // short: its codes are filled up with 0. `scales` has E8M0 codes up to kMaxScale. Returns how
  // many values are clipped. Adds values and what is decoded of their codes to `lanes`, unless that
  // is null.
  int64_t (*encode)(const Element&, const Habits&, const uint8_t* scales, const T* values,
                    int64_t num_elems, uint8_t* codes, MeterLanes<T>* lanes);
  // Reads whole blocks of codes and writes `num_elems` values.
  void (*decode)(const Element&, const uint8_t* scales, const uint8_t* codes, int64_t num_elems,
                 T* values);
};

// Returns the kernels of the SIMD target in use.
const KernelTable<Kernels>& ChosenTable();

}  // namespace mx
}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MX_CODES_H_
