#include "core/tensor/dtype.h"

#include <array>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/similar.h"

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

// What other projects call the types, in lower case.
struct Alias {
  absl::string_view name, ours;
};
constexpr Alias kAliases[] = {
    {"float64", "f64"},       {"fp64", "f64"},          {"double", "f64"},
    {"float32", "f32"},       {"fp32", "f32"},          {"float", "f32"},
    {"single", "f32"},        {"float16", "f16"},       {"fp16", "f16"},
    {"half", "f16"},          {"bfloat16", "bf16"},     {"i8", "int8"},
    {"i16", "int16"},         {"i32", "int32"},         {"int", "int32"},
    {"i64", "int64"},         {"long", "int64"},        {"u8", "uint8"},
    {"byte", "uint8"},        {"u16", "uint16"},        {"u32", "uint32"},
    {"u64", "uint64"},        {"float8_e4m3fn", "f8_e4m3"}, {"float8_e4m3", "f8_e4m3"},
    {"fp8_e4m3", "f8_e4m3"},  {"float8_e5m2", "f8_e5m2"}, {"fp8_e5m2", "f8_e5m2"},
};

// Returns "; did you mean f32?", or nothing.
std::string Suggestion(absl::string_view name) {
  std::string word = absl::AsciiStrToLower(name);
  for (const absl::string_view prefix : {"torch.", "np.", "numpy.", "jnp."}) {
    if (absl::StartsWith(word, prefix)) word.erase(0, prefix.size());
  }
  for (const Alias& alias : kAliases) {
    if (word == alias.name) return absl::StrCat("; did you mean ", alias.ours, "?");
  }
  std::vector<std::string> known;
  for (const Row& row : kRows) known.emplace_back(row.name);
  return DidYouMean(word, known);
}

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
  return absl::NotFoundError(absl::StrCat("unknown dtype \"", name, "\"", Suggestion(name),
                                          "; known: ", absl::StrJoin(kRows, ", ", append_name)));
}

}  // namespace quantd
