#ifndef QUANTD_CORE_TENSOR_DTYPE_H_
#define QUANTD_CORE_TENSOR_DTYPE_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Element types of tensors and planes. A closed set; the wire has the same list.
enum class DType : uint8_t {
  kF64,
  kF32,
  kF16,
  kBf16,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kBool,
  kF8E4M3,
  kF8E5M2,
};
inline constexpr int kNumDTypes = 15;

// Returns all element types, in the order of the enum.
std::span<const DType> AllDTypes();

// Returns the size of one element in bytes.
int64_t SizeOf(DType dtype);

// Returns the lower-case name: "f32", "bf16", "int8", "f8_e4m3" ...
absl::string_view NameOf(DType dtype);

// Returns the type called `name`, or kNotFound that lists the known names.
absl::StatusOr<DType> ParseDType(absl::string_view name);

// True for f64, f32, f16, bf16 and the fp8 types.
bool IsFloat(DType dtype);

// True where `Quantize` takes elements of this type.
bool IsQuantizable(DType dtype);

// True where `Dequantize` gives elements of this type: f64, f32, f16, bf16.
bool IsDequantizeTarget(DType dtype);

}  // namespace quantd

#endif  // QUANTD_CORE_TENSOR_DTYPE_H_
