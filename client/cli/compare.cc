#include "client/cli/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/minifloat.h"
#include "core/base/status_macros.h"

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

CompareSink::CompareSink(const TensorDesc& original, std::unique_ptr<ByteSource> values)
    : original_dtype_(original.dtype),
      decoded_dtype_(ComparisonType(original.dtype)),
      source_(std::move(values)) {}

absl::Status CompareSink::Begin(std::span<const PlaneDesc>) { return absl::OkStatus(); }

absl::Status CompareSink::End() {
  original_ = {};  // of many tensors, this would be much
  return absl::OkStatus();
}

absl::Status CompareSink::Restart() {
  next_elem_ = 0;
  carry_.clear();
  original_.clear();
  original_begin_elem_ = 0;
  figures_ = Figures();
  return source_->Rewind();
}

// Reads so many elements of the original, which follow those that were compared.
absl::Status CompareSink::ReadOriginal(size_t num_elems) {
  original_begin_elem_ = next_elem_;
  original_.resize(num_elems * static_cast<size_t>(SizeOf(original_dtype_)));
  if (num_elems == 0) return absl::OkStatus();
  QUANTD_ASSIGN_OR_RETURN(const size_t got, source_->Read(original_));
  if (got == original_.size()) return absl::OkStatus();
  return absl::DataLossError("the original has fewer values");
}

absl::Status CompareSink::Write(int, int64_t, std::span<const std::byte> piece) {
  const auto elem_bytes = static_cast<size_t>(SizeOf(decoded_dtype_));
  QUANTD_RETURN_IF_ERROR(ReadOriginal((carry_.size() + piece.size()) / elem_bytes));
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
  const double x = ReadElem(original_dtype_, original_.data() + (index - original_begin_elem_) *
                                                              SizeOf(original_dtype_));
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
