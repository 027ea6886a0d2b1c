#include "client/cli/compare.h"

#include <cstring>
#include <limits>

#include "core/base/minifloat.h"
#include "core/scheme/scheme.h"
#include "core/simd/meter.h"

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

DType DefaultOutputType(DType dtype) { return IsDequantizeTarget(dtype) ? dtype : DType::kF32; }

CompareSink::CompareSink(const TensorDesc& original, std::span<const std::byte> values)
    : original_dtype_(original.dtype),
      decoded_dtype_(DefaultOutputType(original.dtype)),
      original_(values) {}

absl::Status CompareSink::Begin(std::span<const PlaneDesc>) { return absl::OkStatus(); }

absl::Status CompareSink::Restart() {
  measured_elems_ = 0;
  carry_.clear();
  x_.clear();
  y_.clear();
  figures_ = Figures();
  return absl::OkStatus();
}

absl::Status CompareSink::End() {
  MeasureTaken();
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
  const int64_t index = measured_elems_ + std::ssize(x_);
  x_.push_back(ReadElem(original_dtype_, original_.data() + index * SizeOf(original_dtype_)));
  y_.push_back(ReadElem(decoded_dtype_, elem.data()));
  if (std::ssize(x_) == kTileElems) MeasureTaken();
}

void CompareSink::MeasureTaken() {
  if (x_.empty()) return;
  const TileFigures tile = MeasureTile(x_.data(), y_.data(), std::ssize(x_));
  Figures figures = ToFigures(tile);
  if (tile.max_error_idx >= 0) figures.max_error_elem = measured_elems_ + tile.max_error_idx;
  figures_.Merge(figures);
  measured_elems_ += std::ssize(x_);
  x_.clear();
  y_.clear();
}

}  // namespace quantd::cli
