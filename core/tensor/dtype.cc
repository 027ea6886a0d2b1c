#include "core/tensor/dtype.h"

#include <array>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd {
namespace {

struct Row {
  DType dtype;
  const char* name;
  int8_t size_bytes;
  bool is_float, quantizable, dequantize_target;
};

constexpr std::array<Row, kNumDTypes> kRows = {{
    {DType::kF64, "f64", 8, true, true, true},
    {DType::kF32, "f32", 4, true, true, true},
    {DType::kF16, "f16", 2, true, true, true},
    {DType::kBf16, "bf16", 2, true, true, true},
    {DType::kInt8, "int8", 1, false, true, false},
    {DType::kInt16, "int16", 2, false, true, false},
    {DType::kInt32, "int32", 4, false, true, false},
    {DType::kInt64, "int64", 8, false, true, false},
    {DType::kUint8, "uint8", 1, false, true, false},
    {DType::kUint16, "uint16", 2, false, true, false},
    {DType::kUint32, "uint32", 4, false, true, false},
    {DType::kUint64, "uint64", 8, false, false, false},
    {DType::kBool, "bool", 1, false, false, false},
    {DType::kF8E4M3, "f8_e4m3", 1, true, false, false},
    {DType::kF8E5M2, "f8_e5m2", 1, true, false, false},
}};

const Row& RowOf(DType dtype) { return kRows[static_cast<size_t>(dtype)]; }

}  // namespace

std::span<const DType> AllDTypes() {
  static constexpr auto kAll = [] {
    std::array<DType, kNumDTypes> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = kRows[i].dtype;
    return all;
  }();
  return kAll;
}

int64_t SizeOf(DType dtype) { return RowOf(dtype).size_bytes; }
absl::string_view NameOf(DType dtype) { return RowOf(dtype).name; }
bool IsFloat(DType dtype) { return RowOf(dtype).is_float; }
bool IsQuantizable(DType dtype) { return RowOf(dtype).quantizable; }
bool IsDequantizeTarget(DType dtype) { return RowOf(dtype).dequantize_target; }

absl::StatusOr<DType> ParseDType(absl::string_view name) {
  for (const Row& row : kRows) {
    if (name == row.name) return row.dtype;
  }
  const auto append_name = [](std::string* out, const Row& row) { out->append(row.name); };
  return absl::NotFoundError(absl::StrCat("unknown dtype \"", name,
                                          "\"; known: ", absl::StrJoin(kRows, ", ", append_name)));
}

}  // namespace quantd
