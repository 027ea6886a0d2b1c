#ifndef QUANTD_CORE_SCHEME_EMBEDDINGS_H_
#define QUANTD_CORE_SCHEME_EMBEDDINGS_H_

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// Dialects of int8 and uint8 that are not affine: how projects of search store embeddings, vectors
// of the last axis.
//
// `sentence_transformers` (6.2.0, quantize_embeddings) counts steps from the least value of each
// column:
//
//   scale = (max - min) / 255, 1 for 0;  start = min                  of a column, in f32
//   code = clamp(floor((x - start) / scale), 0, 255), less 128 for int8
//   x' = (code, and 128 for int8) * scale + start                     in f64
//
//   column -1, 0.5, 3:   scale = f32(4 / 255), codes 0, 95, 254;  x' = -1, 0.490196, 2.98431
//
// A value is what its code stands for or up to a step more; the largest one falls a whole step
// short where the scale was rounded up, as here: 4 / 0.015686275f is 254.99998f.
//
// `usearch` (2.26.6) has no parameters: each vector is brought to length 1, and forgets it.
//
//   norm = sqrt of the sum of x * x, one after the other;  code = trunc(x * 127 / norm)    in f64
//   x' = code / 127
//
//   3, -4:   norm 5, codes 76, -101;  x' = 0.598425, -0.795276
//
// The package's own sum is in an order that its compiler chose (-ffast-math), so that its code may
// be another where x * 127 / norm is whole but for the last place of f64.
//
// Rows without an info: affine.cc takes their functions, and adds the dialects and definitions.
const Scheme& SentenceTransformersRow();
const Scheme& UsearchRow();

// Returns the dialect of signed or unsigned codes.
Dialect SentenceTransformersDialect(bool is_signed);
Dialect UsearchDialect();

// `$0` is what codes are less by, `$1` a code without it.
extern const absl::string_view kSentenceTransformersDefinition;
extern const absl::string_view kUsearchDefinition;

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_EMBEDDINGS_H_
