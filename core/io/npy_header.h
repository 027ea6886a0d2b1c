#ifndef QUANTD_CORE_IO_NPY_HEADER_H_
#define QUANTD_CORE_IO_NPY_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// The header of a npy file (numpy/lib/format.py):
// | "\x93NUMPY" | u8 major | u8 minor | u16 (v1) or u32 (v2, v3) N | N bytes of a Python dict |
inline constexpr absl::string_view kNpyMagic("\x93NUMPY", 6);

struct NpyHeader {
  DType dtype;
  Shape shape;
  int64_t data_offset_bytes;  // where the values begin
};

// Returns what the header at the beginning of `file` says. `dtype` names the type of elements that
// npy has no name for ('<V2' and '|V1'), or that are kept as unsigned integers of the same size.
// kInvalidArgument for a header that breaks the format, kDataLoss for one that is cut short,
// kUnimplemented for big-endian, object, structured and Fortran-ordered arrays.
absl::StatusOr<NpyHeader> ParseNpyHeader(std::span<const std::byte> file,
                                         std::optional<DType> dtype);

// Returns a version 1.0 header whose length is a multiple of 64. bf16 is written as '<V2', as numpy
// writes ml_dtypes' bfloat16, and fp8 as '|V1': numpy loads both without knowing the type.
std::string FormatNpyHeader(DType dtype, const Shape& shape);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_NPY_HEADER_H_
