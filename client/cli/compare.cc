#include "client/cli/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/base/minifloat.h"

namespace quantd::cli {
namespace {

template <typename T>
T Load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Returns the element as a double; NaN for a type that Quantize does not take.
double ReadElem(DType dtype, const std::byte* from) {
  switch (dtype) {
    case DType::kF64:
      return Load<double>(from);
    case DType::kF32:
      return Load<float>(from);
    case DType::kF16:
      return WidenFloat<double>(kHalfFormat, Load<uint16_t>(from));
    case DType::kBf16:
      return WidenFloat<double>(kBfloatFormat, Load<uint16_t>(from));
    case DType::kInt8:
      return Load<int8_t>(from);
    case DType::kInt16:
      return Load<int16_t>(from);
    case DType::kInt32:
      return Load<int32_t>(from);
    case DType::kInt64:
      return static_cast<double>(Load<int64_t>(from));
    case DType::kUint8:
      return Load<uint8_t>(from);
    case DType::kUint16:
      return Load<uint16_t>(from);
    case DType::kUint32:
      return Load<uint32_t>(from);
    case DType::kUint64:
    case DType::kBool:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
      break;
  }
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

DType ComparisonType(DType dtype) {
  const bool needs_double = dtype == DType::kF64 || dtype == DType::kInt32 ||
                            dtype == DType::kUint32 || dtype == DType::kInt64;
  return needs_double ? DType::kF64 : DType::kF32;
}

CompareSink::CompareSink(const TensorDesc& original, std::span<const std::byte> values)
    : original_dtype_(original.dtype),
      decoded_dtype_(ComparisonType(original.dtype)),
      original_(values) {}

absl::Status CompareSink::Begin(std::span<const PlaneDesc>) { return absl::OkStatus(); }

absl::Status CompareSink::Restart() {
  next_elem_ = 0;
  carry_.clear();
  figures_ = Figures();
  return absl::OkStatus();
}

absl::Status CompareSink::Write(int, int64_t, std::span<const std::byte> piece) {
  const auto elem_bytes = static_cast<size_t>(SizeOf(decoded_dtype_));
  while (!carry_.empty() && !piece.empty()) {
    carry_.push_back(piece.front());
    piece = piece.subspan(1);
    if (carry_.size() == elem_bytes) {
      Take(carry_);
      carry_.clear();
    }
  }
  for (; piece.size() >= elem_bytes; piece = piece.subspan(elem_bytes)) {
    Take(piece.first(elem_bytes));
  }
  carry_.insert(carry_.end(), piece.begin(), piece.end());
  return absl::OkStatus();
}

void CompareSink::Take(std::span<const std::byte> elem) {
  const int64_t index = next_elem_++;
  const double x = ReadElem(original_dtype_, original_.data() + index * SizeOf(original_dtype_));
  if (!std::isfinite(x)) return;
  const double y = ReadElem(decoded_dtype_, elem.data());
  const double error = x - y;
  ++figures_.count;
  figures_.signal_energy += x * x;
  figures_.error_energy += error * error;
  figures_.cross_energy += x * y;
  if (std::abs(error) > figures_.max_error) {
    figures_.max_error = std::abs(error);
    figures_.max_error_elem = index;
  }
}

}  // namespace quantd::cli
