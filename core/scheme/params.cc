// How parameters are stored, and read as kernels want them (params.h). f32 scales of a part of one
// row are read where they lie; others are widened, or repeated, into scratch.
//
//   RoundScale(0.3)   f32 0.3   f16 0.30004883   bf16 0.30078125   pow2 0.5, up: nothing is clipped
//                     dyadic16 19661 * 2^-16 = 0.30000305
//
// What it gives is at least 2^-126, as subnormal scales have few bits. Those of f16 stay, down to
// 2^-24: weights of 0.001 in 8 bits have the scale 7.9e-6, which is one, and has seven bits. Those
// of dyadic16 end at 2^14 * 2^-127, where the shift does.
// Scales that are found are moved into that range; those that are given are refused outside of it.
//
// Entries: ParamMap, RoundScale, NearestScale, ReadScales, ReadDyadicScales and ReadZeroPoints.
// Tested by tests/core/scheme/params_test.cc, and affine_test.cc (RoundScaleTest, Dyadic16Test).
#include "core/scheme/params.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/simd/convert.h"

namespace quantd {
namespace {

constexpr double kLeastDyadic = 0x1p-113;     // 2^14 * 2^-127
constexpr double kLargestDyadic = 32767 * 0x1p113;  // just below 2^128

// Returns 2^exponent, of -1022 to 1023.
double PowerOfTwo(int exponent) {
  return std::bit_cast<double>(static_cast<uint64_t>(1023 + exponent) << 52);
}

}  // namespace

int64_t ParamMap::RunEnds(int32_t* ends) const {
  int64_t num_runs = 0;
  ForEachRowPart([&](const RowPart& part) {
    int64_t end = part.begin + part.first_run_elems;
    for (int64_t i = 1; i < part.num_groups; ++i, end += groups_.run_elems) {
      ends[num_runs++] = static_cast<int32_t>(end);
    }
    ends[num_runs++] = static_cast<int32_t>(part.begin + part.num_elems);
  });
  return num_runs;
}

double RoundScale(double scale, ScaleType type) {
  if (scale == 0) return 1;
  switch (type) {
    case ScaleType::kF32:
    case ScaleType::kNested8:  // before it becomes a code
      return static_cast<float>(std::clamp<double>(scale, std::numeric_limits<float>::min(),
                                                   std::numeric_limits<float>::max()));
    case ScaleType::kF16:
      scale = std::clamp(scale, 0x1p-24, 65504.0);
      return WidenFloat<double>(kHalfFormat,
                                NarrowFloat(kHalfFormat, scale, Rounding::kHalfEven, true));
    case ScaleType::kBf16:
      scale = std::clamp<double>(scale, std::numeric_limits<float>::min(),
                                 std::numeric_limits<float>::max());
      return WidenFloat<double>(kBfloatFormat,
                                NarrowFloat(kBfloatFormat, scale, Rounding::kHalfEven, true));
    case ScaleType::kPow2: {             // up, so that nothing is clipped
      scale = std::min(scale, 0x1p127);  // infinity has no exponent
      int exponent;
      const double fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
      return std::ldexp(1.0, std::clamp(fraction == 0.5 ? exponent - 1 : exponent, -126, 127));
    }
    case ScaleType::kDyadic16: {
      int exponent;
      const double fraction =
          std::frexp(std::clamp(scale, kLeastDyadic, kLargestDyadic), &exponent);
      return std::nearbyint(fraction * 0x1p15) * PowerOfTwo(exponent - 15);
    }
  }
  return scale;
}

absl::StatusOr<double> NearestScale(double scale, ScaleType type) {
  double least = std::numeric_limits<float>::min(), largest = std::numeric_limits<float>::max();
  if (type == ScaleType::kF16) {
    least = 0x1p-24;
    largest = 65504;
  } else if (type == ScaleType::kBf16) {
    largest = WidenFloat<double>(kBfloatFormat, kBfloatFormat.max_code);
  } else if (type == ScaleType::kPow2) {
    largest = 0x1p127;
  } else if (type == ScaleType::kDyadic16) {
    least = kLeastDyadic;
    largest = kLargestDyadic;
  }
  if (!(scale >= least && scale <= largest)) {
    return absl::InvalidArgumentError(
        absl::StrCat("scale=", FormatDouble(scale), " is not in the range of scale_type=",
                     NameOf(type), "; use ", FormatDouble(least), " to ", FormatDouble(largest)));
  }
  if (type != ScaleType::kPow2) return RoundScale(scale, type);
  int exponent;
  const double fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
  return std::ldexp(1.0, fraction < 0.75 ? exponent - 1 : exponent);
}

DType ScaleDType(ScaleType type) {
  switch (type) {
    case ScaleType::kF16:
      return DType::kF16;
    case ScaleType::kBf16:
      return DType::kBf16;
    case ScaleType::kF32:
    case ScaleType::kPow2:
      return DType::kF32;
    case ScaleType::kNested8:
      return DType::kUint8;
    case ScaleType::kDyadic16:
      return DType::kInt16;
  }
  return DType::kF32;
}

void StoreScale(DType dtype, double scale, std::byte* plane, size_t i) {
  if (dtype == DType::kF32) {
    const float value = static_cast<float>(scale);
    std::memcpy(plane + i * sizeof(value), &value, sizeof(value));
    return;
  }
  const MiniFormat& format = dtype == DType::kF16 ? kHalfFormat : kBfloatFormat;
  const uint16_t code =
      static_cast<uint16_t>(NarrowFloat(format, scale, Rounding::kHalfEven, /*saturate=*/true));
  std::memcpy(plane + i * sizeof(code), &code, sizeof(code));
}

Dyadic16 Dyadic16Of(double scale) {
  int exponent;
  const double fraction = std::frexp(scale, &exponent);  // in [0.5, 1)
  return {static_cast<int16_t>(fraction * 0x1p15), static_cast<int8_t>(15 - exponent)};
}

std::optional<int64_t> ParamMap::GroupsInPlace() const {
  std::optional<int64_t> first;
  int64_t num_parts = 0;
  ForEachRowPart([&](const RowPart& part) {
    ++num_parts;
    first = part.group;
  });
  const bool spread = per_elem() && groups_.run_elems > 1;
  return num_parts == 1 && !spread ? first : std::nullopt;
}

const float* ReadScales(const PlaneDesc& plane, std::span<const std::byte> bytes,
                        int64_t first_group, const ParamMap& map, float* scratch) {
  const int64_t elem_bytes = SizeOf(plane.dtype);
  if (plane.dtype == DType::kF32) {
    if (const std::optional<int64_t> group = map.GroupsInPlace()) {
      return reinterpret_cast<const float*>(bytes.data() + (*group - first_group) * elem_bytes);
    }
  }
  map.ReadAll(scratch, [&](int64_t group, int64_t count, float* out) {
    const std::byte* from = bytes.data() + (group - first_group) * elem_bytes;
    if (plane.dtype == DType::kF32) {
      std::memcpy(out, from, static_cast<size_t>(count) * sizeof(float));
    } else {
      WidenToF32(plane.dtype, from, count, out);
    }
  });
  return scratch;
}

const float* ReadDyadicScales(std::span<const std::byte> multipliers,
                              std::span<const std::byte> shifts, int64_t first_group,
                              const ParamMap& map, float* scratch) {
  const auto* multiplier = reinterpret_cast<const int16_t*>(multipliers.data());
  const auto* shift = reinterpret_cast<const int8_t*>(shifts.data());
  map.ReadAll(scratch, [&](int64_t group, int64_t count, float* out) {
    for (int64_t i = 0, from = group - first_group; i < count; ++i, ++from) {
      out[i] = static_cast<float>(LoadAt(multiplier, from) * PowerOfTwo(-shift[from]));
    }
  });
  return scratch;
}

void ReadZeroPoints(const PlaneDesc& plane, std::span<const std::byte> bytes, int64_t first_group,
                    const ParamMap& map, int32_t* zero_points) {
  const int64_t elem_bytes = SizeOf(plane.dtype);
  map.ReadAll(zero_points, [&](int64_t group, int64_t count, int32_t* out) {
    const std::byte* from = bytes.data() + (group - first_group) * elem_bytes;
    for (int64_t i = 0; i < count; ++i) {
      if (plane.dtype == DType::kInt8) {
        out[i] = LoadAt(reinterpret_cast<const int8_t*>(from), i);
      } else if (plane.dtype == DType::kUint8) {
        out[i] = LoadAt(reinterpret_cast<const uint8_t*>(from), i);
      } else if (plane.dtype == DType::kUint16) {
        out[i] = LoadAt(reinterpret_cast<const uint16_t*>(from), i);
      } else {
        out[i] = LoadAt(reinterpret_cast<const int16_t*>(from), i);
      }
    }
  });
}

}  // namespace quantd
