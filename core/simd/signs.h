#ifndef QUANTD_CORE_SIMD_SIGNS_H_
#define QUANTD_CORE_SIMD_SIGNS_H_

#include <cstdint>

// Codes that keep little but the sign of a value, a byte each. Values and scales lie at any
// alignment.

namespace quantd {

// Codes of two levels: 1 stands for a scale, 0 for its negative.
struct SignCoding {
  bool zero = false;              // what the code of a 0 is; 1 of what is above, 0 of what is below
  const float* scales = nullptr;  // of each value; null: 1
};

// Writes the codes of `num_elems` values. Returns how many are clipped: not 0, and at least twice
// their scale in magnitude.
int64_t EncodeSigns(const SignCoding& coding, const float* values, int64_t num_elems,
                    uint8_t* codes);
int64_t EncodeSigns(const SignCoding& coding, const double* values, int64_t num_elems,
                    uint8_t* codes);

// Writes what codes stand for.
void DecodeSigns(const SignCoding& coding, const uint8_t* codes, int64_t num_elems, float* values);
void DecodeSigns(const SignCoding& coding, const uint8_t* codes, int64_t num_elems,
                 double* values);

// Codes of three levels: 1 stands for a scale, 3 (-1 of 2 bits) for its negative, others for 0.
struct ThirdCoding {
  float threshold = 0;  // of the magnitude; what is above it is not 0
  float scale = 0;
};

// Writes the codes of `num_elems` values. Returns how many are clipped: not 0, and at least 1.5
// times the scale in magnitude.
int64_t EncodeThirds(const ThirdCoding& coding, const float* values, int64_t num_elems,
                     uint8_t* codes);
int64_t EncodeThirds(const ThirdCoding& coding, const double* values, int64_t num_elems,
                     uint8_t* codes);

// Writes what codes stand for.
void DecodeThirds(const ThirdCoding& coding, const uint8_t* codes, int64_t num_elems,
                  float* values);
void DecodeThirds(const ThirdCoding& coding, const uint8_t* codes, int64_t num_elems,
                  double* values);

// Turns the bits of each byte around, the first one last.
void ReverseBits(int64_t num_bytes, uint8_t* bytes);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_SIGNS_H_
