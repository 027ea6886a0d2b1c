#ifndef QUANTD_CORE_SIMD_SMALL_FLOATS_H_
#define QUANTD_CORE_SIMD_SMALL_FLOATS_H_

#include <cstdint>

#include "core/base/minifloat.h"
#include "core/simd/float_codes.h"

// Float codes of up to 8 bits, a byte each, of any format: what float_codes.h says of E4M3, whose
// kernels know their format when they are compiled, holds here. Of `coding` the dtype is not read.

namespace quantd {

// Writes the codes of `num_elems` values, at any alignment, in the low bits of bytes whose other
// bits may be anything; adds values and what decoding gives to `lanes`, unless that is null.
// Returns how many finite values were clipped.
int64_t EncodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const float* values,
                          int64_t num_elems, uint8_t* codes, MeterLanes<float>* lanes);
int64_t EncodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const double* values,
                          int64_t num_elems, uint8_t* codes, MeterLanes<double>* lanes);

// Writes what codes stand for, the other bits of their bytes being 0.
void DecodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const uint8_t* codes,
                       int64_t num_elems, float* values);
void DecodeSmallFloats(const MiniFormat& format, const FloatCoding& coding, const uint8_t* codes,
                       int64_t num_elems, double* values);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_SMALL_FLOATS_H_
