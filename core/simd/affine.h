#ifndef QUANTD_CORE_SIMD_AFFINE_H_
#define QUANTD_CORE_SIMD_AFFINE_H_

#include <cstdint>

#include "core/base/rounding.h"
#include "core/simd/figures.h"

namespace quantd {

// One scale and zero point for every element, or an array of each.
struct AffineParams {
  float scale = 1;
  int32_t zero_point = 0;
  const float* scales = nullptr;         // per element; then `scale` does not count
  const int32_t* zero_points = nullptr;  // per element, with `scales`
  int32_t min_code = -127;
  int32_t max_code = 127;
};

// Writes the codes clamp(round(x / scale) + zero_point), cut to 8 or 16 bits, and returns how many
// x / scale + zero_point lie half a step or more outside [min_code, max_code]. `values` are finite;
// `noise` holds 32 random bits per element under kStochastic and is else unused.
int64_t EncodeAffine(Rounding rounding, const float* values, int64_t num_elems,
                     const AffineParams& params, const uint32_t* noise, uint8_t* codes);
int64_t EncodeAffine(Rounding rounding, const float* values, int64_t num_elems,
                     const AffineParams& params, const uint32_t* noise, uint16_t* codes);
int64_t EncodeAffine(Rounding rounding, const double* values, int64_t num_elems,
                     const AffineParams& params, const uint32_t* noise, uint8_t* codes);
int64_t EncodeAffine(Rounding rounding, const double* values, int64_t num_elems,
                     const AffineParams& params, const uint32_t* noise, uint16_t* codes);

// Likewise for kHalfEven and one scale, and adds the values and their decoded counterparts to
// `lanes`. `num_elems` is a multiple of 16, and so is the place of `values` in its tile. Values
// that are not finite make the signal of a lane so.
int64_t EncodeAffineMeasured(const float* values, int64_t num_elems, const AffineParams& params,
                             uint8_t* codes, FigureLanes<float>& lanes);
int64_t EncodeAffineMeasured(const float* values, int64_t num_elems, const AffineParams& params,
                             uint16_t* codes, FigureLanes<float>& lanes);

// Writes (code - zero_point) * scale, rounded once.
void DecodeAffine(const int8_t* codes, int64_t num_elems, const AffineParams& params,
                  float* values);
void DecodeAffine(const uint8_t* codes, int64_t num_elems, const AffineParams& params,
                  float* values);
void DecodeAffine(const int16_t* codes, int64_t num_elems, const AffineParams& params,
                  float* values);
void DecodeAffine(const int8_t* codes, int64_t num_elems, const AffineParams& params,
                  double* values);
void DecodeAffine(const uint8_t* codes, int64_t num_elems, const AffineParams& params,
                  double* values);
void DecodeAffine(const int16_t* codes, int64_t num_elems, const AffineParams& params,
                  double* values);

// Packs codes of 4 bits (upper bits are ignored), two to a byte. `first_high`: the first of a pair
// goes to the high nibble, else to the low one. An odd last code has a zero beside it.
void PackNibbles(const uint8_t* codes, int64_t num_codes, bool first_high, uint8_t* packed);

// The reverse; writes codes 0 to 15.
void UnpackNibbles(const uint8_t* packed, int64_t num_codes, bool first_high, uint8_t* codes);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_AFFINE_H_
