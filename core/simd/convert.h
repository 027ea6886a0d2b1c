#ifndef QUANTD_CORE_SIMD_CONVERT_H_
#define QUANTD_CORE_SIMD_CONVERT_H_

#include <cstddef>
#include <cstdint>

#include "core/base/rounding.h"
#include "core/tensor/dtype.h"

// What tensors come in and go out as. Elements lie at any alignment.

namespace quantd {

// True where elements of `dtype` are worked on as f32, exactly; the others as f64.
bool WorksAsF32(DType dtype);

// Widens `num_elems` elements of a type that WorksAsF32, but for f8_e5m2, exactly.
void WidenToF32(DType dtype, const std::byte* values, int64_t num_elems, float* wide);

// Widens elements of f64, int32, uint32 or int64; returns how many int64 f64 does not hold exactly.
int64_t WidenToF64(DType dtype, const std::byte* values, int64_t num_elems, double* wide);

// The 16-bit float formats.
enum class HalfKind : uint8_t { kF16, kBf16 };

// Writes the codes of `values`, each rounded once, and returns how many finite values lie beyond
// the largest finite code by half a step or more. These become that code where `saturate`, else
// infinity. `noise` holds 32 random bits per element under kStochastic and is else unused.
int64_t NarrowToHalf(HalfKind kind, Rounding rounding, bool saturate, const double* values,
                     int64_t num_elems, const uint32_t* noise, uint16_t* codes);

}  // namespace quantd

#endif  // QUANTD_CORE_SIMD_CONVERT_H_
