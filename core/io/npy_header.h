#ifndef QUANTD_CORE_IO_NPY_HEADER_H_
#define QUANTD_CORE_IO_NPY_HEADER_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/io/container_index.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

namespace quantd {

// The header of a npy file (numpy/lib/format.py):
// | "\x93NUMPY" | u8 major | u8 minor | u16 (v1) or u32 (v2, v3) N | N bytes of a Python dict |
inline constexpr absl::string_view kNpyMagic("\x93NUMPY", 6);

// The longest header that is read: the dict takes some 400 bytes at the highest rank, and numpy
// itself refuses more than 10,000.
inline constexpr int64_t kMaxNpyHeaderBytes = 65536 + 12;

struct NpyHeader {
  DType dtype;
  Shape shape;
  int64_t data_offset_bytes;  // where the values begin
  ValueOrder order;           // the default where the other one would be the same
};

// Returns what the header in `head`, the beginning of a file or all of it, says. `dtype` names the
// type of elements that npy has no name for ('<V2' and '|V1'), or that are kept as unsigned
// integers of the same size. kInvalidArgument for a header that breaks the format, kDataLoss for
// one that is cut short, kUnimplemented for arrays of complex numbers, text, times, objects and
// structures.
absl::StatusOr<NpyHeader> ParseNpyHeader(std::span<const std::byte> head,
                                         std::optional<DType> dtype);

// Returns a version 1.0 header whose length is a multiple of 64. bf16 is written as '<V2', as numpy
// writes ml_dtypes' bfloat16, and fp8 as '|V1': numpy loads both without knowing the type.
std::string FormatNpyHeader(DType dtype, const Shape& shape);

}  // namespace quantd

#endif  // QUANTD_CORE_IO_NPY_HEADER_H_
