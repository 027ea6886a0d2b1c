#ifndef QUANTD_CORE_SIMD_BITS_H_
#define QUANTD_CORE_SIMD_BITS_H_

#include <cstdint>

// Packing of small codes. Packed bytes may lie at any alignment.

namespace quantd {

// Packs codes of 4 bits (upper bits are ignored), two to a byte. `first_high`: the first of a pair
// goes to the high nibble, else to the low one. An odd last code has a zero beside it.
void PackNibbles(const uint8_t* codes, int64_t num_codes, bool first_high, uint8_t* packed);

// The reverse; writes codes 0 to 15, or in two's complement -8 to 7.
void UnpackNibbles(const uint8_t* packed, int64_t num_codes, bool first_high, uint8_t* codes);
void UnpackSignedNibbles(const uint8_t* packed, int64_t num_codes, bool first_high, int8_t* codes);

// Packs codes of `width` bits, 1 to 8 (upper bits are ignored), one after the other, least
// significant bit first, across bytes; the last byte is filled with zeros:
//
//   width 3:  | c2 c2 c1 c1 c1 c0 c0 c0 | c5 c4 c4 c4 c3 c3 c3 c2 | ...   bits 7 to 0
void PackBits(const uint8_t* codes, int64_t num_codes, int width, uint8_t* packed);

// The reverse; reads and writes no byte but those of the codes.
void UnpackBits(const uint8_t* packed, int64_t num_codes, int width, uint8_t* codes);

// The same of codes in two's complement, of 2 bits or more.
void UnpackSignedBits(const uint8_t* packed, int64_t num_codes, int width, int8_t* codes);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_BITS_H_
