#ifndef QUANTD_CORE_SCHEME_MLX_H_
#define QUANTD_CORE_SCHEME_MLX_H_

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// MLX's affine formats, a family of widths: what Apple's MLX makes of the weights of its models.
// Groups of 32, 64 or 128 on the last axis, n = 2^bits - 1:
//
//   scale = max((max - min) / n, 1e-7), negative unless |min| > |max|
//   edge = what is further from zero of min and max,  q0 = round(edge / scale)
//   q0 != 0: scale = edge / q0, bias = edge;  q0 = 0: bias = 0         so that 0 and edge are exact
//   code = clamp(round((x - bias) / scale), 0, n),  x' = code * scale' + bias'
//
// all in f32 with true divisions, half-even. Codes are made with these f32 parameters; stored, and
// decoded with, are scale' and bias', which are rounded to the dtype of the tensor (f32, f16, bf16;
// others: f32). The codes of a row are one stream of bits, the first in the lowest bits, seen as
// little-endian u32 words, in 3, 5 and 6 bits across bytes and words:
//
//   3 bits   byte 0: |code 2, low 2|code 1|code 0|   byte 1: |c5, 1|code 4|code 3|c2, 1|   ...
//
// f64 values are compared with the f32 parameters in f64. Beyond MLX: max - min that f32 cannot
// hold is the largest f32, parameters that the dtype cannot hold are its largest, and a scale of
// which f32 cannot hold n is the largest of which it can. Tiny groups lose all: 1e-7 is the least
// scale. mlx_codes.h has the kernels.
//
// Source: what mx.quantize of MLX 0.32.4 gives. Costs what uint4 by group does, and the packing of
// eight codes in a register.

// Returns the row's info; `bits` is 2 to 6 or 8.
SchemeInfo MlxInfo(absl::string_view name, absl::string_view summary, int bits);

// Returns the row with the functions of this family.
Scheme MlxScheme(SchemeInfo info);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MLX_H_
