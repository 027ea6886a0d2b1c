#ifndef QUANTD_CORE_SCHEME_AFFINE_H_
#define QUANTD_CORE_SCHEME_AFFINE_H_

#include <cstddef>

#include "core/scheme/params.h"
#include "core/scheme/scheme.h"

namespace quantd {

// The uniform integer schemes of 2 to 6, 8 and 16 bits.
//
// Dialect `onnx` (QuantizeLinear, opset 21; of 2 bits 25), with the range [min, max] of a group:
//
//   code = clamp(round(x / scale) + zero_point, min_code, max_code)
//   x' = (code - zero_point) * scale
//
//   mode         codes, of b bits signed        scale                            zero_point
//   symmetric    -(2^(b-1)-1) .. 2^(b-1)-1      max(|min|, |max|) / (2^(b-1)-1)  the middle code
//   full         -2^(b-1) .. 2^(b-1)-1          max(|min|, |max|) / ((2^b-1)/2)  the middle code
//   asymmetric   the same                       (max - min) / (2^b-1)            of 0, rounded
//
// where the range is widened to hold 0. Scales are RoundScale's, made in double; an all-zero group
// has scale 1. x / scale is divided in f32 for inputs that work as f32, in f64 for the others.
// f32 holds all that codes stand for: a scale whose outermost step count overflows it, of values
// near f32's end, is the largest that does not (full: absmax / 128, not absmax / 127.5), and values
// beyond the last code are clipped. Of inputs that work as f64 the products are f64's. Found scales
// are at least 2^-126, in f16 2^-24: below these, ONNX Runtime's quantizer (1.32) takes 1.
//
// Dialect `compressed_tensors` (0.20.0), of the signed ones of up to 8 bits, differs: the zero
// point is added before rounding, code = round(clamp(x / scale + zero_point)), which for 0.5 and a
// zero point of 1 gives 2 where onnx gives 1; "full" is the default; scales are made in f32, kept
// where they are subnormal, and 2^-23 for 0.
//
// Planes: "codes", "scale" (one per group) and, unless it is the same by construction,
// "zero_point" (one per group, in the type of the codes). Codes of fewer than 8 bits are one stream
// of bits over the flat tensor, the lowest first: those of 4 bits lie two to a byte, the first in
// the low nibble, and those of 3 bits cross bytes (simd/bits.h). The last byte is filled with 0.
//
// Under layout=words signed codes lie as compressed-tensors' pack-quantized has them (pack_to_int32
// of 0.20.0; earlier ones cut codes of 3, 5 and 6 bits at words): each row of the last axis is a
// stream of bits of its own, with 2^(b-1) added to codes, in words of 32 bits, the last one filled
// with 0. In dialect compressed_tensors that is the default of 2, 3, 5 and 6 bits.

// scale_type=dyadic16 has two planes for "scale", which integer-only inference reads: "multiplier"
// and "shift", scale = multiplier * 2^-shift (params.h). Codes are made with that scale; decoded
// values are the integer (code - zero_point) * multiplier, which 32 bits hold, times 2^-shift,
// rounded once to the output's type. As f32 holds such scales, (code - zero_point) * scale is the
// same. Source: arXiv 2103.13630, section III-C; I-BERT's batch_frexp with 15 bits; of 32 bits,
// TensorFlow Lite's QuantizeMultiplier.

inline constexpr absl::string_view kCompressedTensors = "compressed_tensors";

// Returns the row's info; `bits` is 2 to 6, 8 or 16.
SchemeInfo AffineInfo(absl::string_view name, absl::string_view summary, int bits, bool is_signed);

// Returns the row with the functions of this family.
Scheme AffineScheme(SchemeInfo info);

// What codes there are, and the zero point of the symmetric modes.
struct AffineCodeRange {
  int32_t min;
  int32_t max;
  int32_t centre;
};
AffineCodeRange RangeOfAffineCodes(const SchemeInfo& info, const QuantSpec& spec);

// Where parameters lie: the scale, or multiplier and shift, and zero points, where there are any.
inline constexpr size_t kAffineScalePlane = 1;
inline constexpr size_t kAffineShiftPlane = 2;
inline size_t AffineZeroPlane(const QuantSpec& spec) {
  return spec.scale_type == ScaleType::kDyadic16 ? 3 : 2;
}

// Parts of the row, in files of their own: affine_resolve.cc, and affine_ref.cc, which has the
// scalar definitions.
void ResolveAffine(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out);
void EncodeAffineRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                     Counts* counts);
void DecodeAffineRef(const Resolved& resolved, std::span<const std::byte> codes,
                     const ParamView& params, int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_AFFINE_H_
