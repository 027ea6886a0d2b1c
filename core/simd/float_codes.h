#ifndef QUANTD_CORE_SIMD_FLOAT_CODES_H_
#define QUANTD_CORE_SIMD_FLOAT_CODES_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/rounding.h"
#include "core/simd/meter.h"
#include "core/tensor/dtype.h"

// Float codes: values rounded to a float format of one or two bytes (f16, bf16, f8_e4m3), and back.
// Without a scale a code is the value, rounded once. E4M3 also takes scales:
//
//   code = E4M3(x / scale),  y = value of the code * scale,   both in the type of x
//
// What lies beyond the largest finite code by half a step or more is clipped: it becomes that code,
// or infinity where the caller keeps what is not finite and the format has it.

namespace quantd {

// How values become codes.
struct FloatCoding {
  DType dtype = DType::kF16;  // kF16, kBf16, kF8E4M3
  Rounding rounding = Rounding::kHalfEven;
  // Overflow becomes the largest finite code, and codes of NaN mean nothing; else NaN and infinity
  // are kept where the format has them.
  bool saturate = true;
  const uint32_t* noise = nullptr;  // 32 random bits an element, for kStochastic
  // One for each run of values next to each other, which is measured from lane 0, or for each
  // value. Null: codes are not scaled.
  const float* scales = nullptr;
  std::span<const int32_t> ends;  // one past the last value of each run; empty: one for each value

  const float* elem_scales() const { return ends.empty() ? scales : nullptr; }
};

// Writes the codes of `num_elems` values, both at any alignment; adds values and what decoding
// gives to `lanes`, unless that is null. Returns how many finite values were clipped.
int64_t EncodeFloats(const FloatCoding& coding, const float* values, int64_t num_elems,
                     std::byte* codes, MeterLanes<float>* lanes);
int64_t EncodeFloats(const FloatCoding& coding, const double* values, int64_t num_elems,
                     std::byte* codes, MeterLanes<double>* lanes);

// Writes what `num_elems` codes stand for; without scales exactly, NaN with its payload.
void DecodeFloats(const FloatCoding& coding, const std::byte* codes, int64_t num_elems,
                  float* values);
void DecodeFloats(const FloatCoding& coding, const std::byte* codes, int64_t num_elems,
                  double* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_FLOAT_CODES_H_
