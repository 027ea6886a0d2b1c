// Entry: ResolveAffine, by the rules of affine.h. Tested by tests/core/scheme/affine_test.cc and
// golden_test.cc, its kernel by tests/core/simd/affine_scales_test.cc.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "core/scheme/affine.h"
#include "core/simd/affine_scales.h"
#include "core/simd/convert.h"

namespace quantd {
namespace {

static_assert(sizeof(Range) == 2 * sizeof(double), "ResolveScales takes pairs");

// compressed-tensors' calculate_qparams (0.20.0), all in f32. Ranges of f64 become f32 first, and a
// width that f32 does not hold, which overflows there, is divided in double.
std::pair<double, int32_t> CompressedTensorsParams(const AffineCodeRange& codes, bool symmetric,
                                                   Range range) {
  constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
  constexpr double kLargest = std::numeric_limits<float>::max();
  if (!(range.min <= range.max)) range = {0, 0};  // no finite value
  const float low = static_cast<float>(std::clamp(range.min, -kLargest, 0.0));
  const float high = static_cast<float>(std::clamp(range.max, 0.0, kLargest));
  const float steps = static_cast<float>(codes.max - codes.min);
  if (symmetric) {
    const float scale = std::max(-low, high) / (steps / 2);
    return {scale == 0 ? kEpsilon : scale, 0};
  }
  const double width = double{high} - double{low};
  const float scale =
      width > kLargest ? static_cast<float>(width / steps) : static_cast<float>(width) / steps;
  // With the scale as it is: 0 / 0 gives 0, and what is below 0 is infinitely far.
  const float zero_point = static_cast<float>(codes.min) - low / scale;
  const float held = std::isnan(zero_point)
                         ? 0
                         : std::clamp(zero_point, static_cast<float>(codes.min),
                                      static_cast<float>(codes.max));
  return {scale == 0 ? kEpsilon : scale, static_cast<int32_t>(std::nearbyint(held))};
}

// Returns the largest scale of `type` that f32 holds `steps` of.
double LargestScale(int32_t steps, ScaleType type) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const double exact = double{kLargest} / steps;
  float held = static_cast<float>(exact);
  if (held > exact) held = std::nextafter(held, 0.0f);
  // Of f32's mantissa bf16 has the upper 7 bits, dyadic16 14, a power of two none; f16 ends before
  // all this.
  const uint32_t kept_bits = type == ScaleType::kBf16       ? 0xFFFF0000
                             : type == ScaleType::kPow2     ? 0xFF800000
                             : type == ScaleType::kDyadic16 ? 0xFFFFFE00
                                                            : 0xFFFFFFFF;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(held) & kept_bits);
}

// Returns the zero point of a range of which a code is `step`.
int32_t ZeroPointOf(const AffineCodeRange& codes, double low, double step) {
  const double zero_point = std::nearbyint(codes.min - low / step);
  return static_cast<int32_t>(std::clamp<double>(zero_point, codes.min, codes.max));
}

// Returns the scale and zero point of a group with the range `range`, by the rule alone.
std::pair<double, int32_t> FindParams(const Resolved& resolved, Range range) {
  const SchemeInfo& info = *resolved.info;
  const QuantSpec& spec = resolved.spec;
  const AffineCodeRange codes = RangeOfAffineCodes(info, spec);
  if (spec.scale.has_value()) {  // as it is stored
    return {*spec.scale, static_cast<int32_t>(spec.zero_point.value_or(0))};
  }
  if (spec.dialect == kCompressedTensors) {
    return CompressedTensorsParams(codes, *spec.mode != Mode::kAsymmetric, range);
  }
  if (!(range.min <= range.max)) range = {0, 0};  // no finite value
  const double steps = (1 << info.bits) - 1;
  if (*spec.mode != Mode::kAsymmetric) {
    const double reach = std::max(std::fabs(range.min), std::fabs(range.max));
    const double divisor = *spec.mode == Mode::kSymmetric ? codes.max - codes.centre : steps / 2;
    return {RoundScale(reach / divisor, *spec.scale_type), codes.centre};
  }
  const double low = std::min(range.min, 0.0), high = std::max(range.max, 0.0);
  const double scale = RoundScale((high - low) / steps, *spec.scale_type);
  // A scale that its type could not hold must not drive the zero point to one end of the codes,
  // which with fewer of them is nearer.
  const double step = high / steps - low / steps, most = info.bits < 4 ? 1.5 : 2;
  return {scale, ZeroPointOf(codes, low, step > most * scale ? step : scale)};
}

// Returns those that are stored: near f32's end, where it would not hold what the outermost codes
// stand for, with the largest scale that lets it. f64 holds all products.
std::pair<double, int32_t> ParamsOf(const Resolved& resolved, Range range) {
  auto [scale, zero_point] = FindParams(resolved, range);
  if (resolved.spec.scale.has_value()) return {scale, zero_point};  // which stays as it was given
  const AffineCodeRange codes = RangeOfAffineCodes(*resolved.info, resolved.spec);
  const auto outermost = [&codes](int32_t zero) {
    return std::max(codes.max - zero, zero - codes.min);
  };
  const float reach = static_cast<float>(scale) * static_cast<float>(outermost(zero_point));
  if (!WorksAsF32(resolved.tensor.dtype) || std::isfinite(reach)) return {scale, zero_point};
  if (resolved.spec.mode == Mode::kAsymmetric) {  // by the range, whatever became of the scale
    const double steps = codes.max - codes.min;
    const double low = std::min(range.min, 0.0), high = std::max(range.max, 0.0);
    zero_point = ZeroPointOf(codes, low, high / steps - low / steps);
  }
  return {std::min(scale, LargestScale(outermost(zero_point), *resolved.spec.scale_type)),
          zero_point};
}

// Writes the parameters of groups [first, first + ranges.size()) of `out`, many at once, to f32
// scales; returns how many it has done, which is all but before a scale that is near f32's end.
size_t ResolveMany(const Resolved& resolved, std::span<const Range> ranges, size_t first,
                   const ParamPlanes& out) {
  constexpr size_t kMost = 512;
  const AffineCodeRange codes = RangeOfAffineCodes(*resolved.info, resolved.spec);
  const double steps = (1 << resolved.info->bits) - 1;
  ScaleRule rule;
  rule.symmetric = *resolved.spec.mode != Mode::kAsymmetric;
  rule.divisor = *resolved.spec.mode == Mode::kSymmetric ? codes.max - codes.centre
                 : rule.symmetric                        ? steps / 2
                                                         : steps;
  rule.min_code = codes.min;
  rule.max_code = codes.max;
  if (WorksAsF32(resolved.tensor.dtype)) rule.largest /= 2 * steps;  // near f32's end: ParamsOf
  float* scales = reinterpret_cast<float*>(out.planes[kAffineScalePlane].data()) + first;
  const size_t zero_plane = AffineZeroPlane(resolved.spec);
  const bool has_zeros = resolved.layout.scheme_planes() > zero_plane;
  const size_t zero_bytes = static_cast<size_t>(resolved.info->bits == 16 ? 2 : 1);
  size_t done = 0;
  while (done < ranges.size()) {
    const size_t count = std::min(kMost, ranges.size() - done);
    int32_t zero_points[kMost];
    if (rule.symmetric) std::fill_n(zero_points, count, codes.centre);
    const size_t good = static_cast<size_t>(
        ResolveScales(rule, reinterpret_cast<const double*>(ranges.data() + done),
                      static_cast<int64_t>(count), scales + done, zero_points));
    if (has_zeros) {
      std::byte* plane = out.planes[zero_plane].data() + (first + done) * zero_bytes;
      for (size_t i = 0; i < good; ++i) {
        std::memcpy(plane + i * zero_bytes, &zero_points[i], zero_bytes);
      }
    }
    done += good;
    if (good < count) break;
  }
  return done;
}

}  // namespace

void ResolveAffine(const Resolved& resolved, std::span<const Range> ranges, ParamPlanes out) {
  const std::vector<PlaneDesc>& planes = resolved.layout.planes;
  const size_t zero_plane = AffineZeroPlane(resolved.spec);
  const bool many = *resolved.spec.scale_type == ScaleType::kF32 && !resolved.spec.scale &&
                    resolved.spec.dialect != kCompressedTensors;
  size_t i = 0;
  while (i < ranges.size()) {
    if (many) i += ResolveMany(resolved, ranges.subspan(i), i, out);
    if (i == ranges.size()) return;
    const auto [scale, zero_point] = ParamsOf(resolved, ranges[i]);
    std::byte* scales = out.planes[kAffineScalePlane].data();
    if (resolved.spec.scale_type == ScaleType::kDyadic16) {
      const Dyadic16 parts = Dyadic16Of(scale);
      std::memcpy(scales + i * sizeof(int16_t), &parts.multiplier, sizeof(int16_t));
      out.planes[kAffineShiftPlane][i] = static_cast<std::byte>(parts.shift);
    } else {
      StoreScale(planes[kAffineScalePlane].dtype, scale, scales, i);
    }
    if (resolved.layout.scheme_planes() > zero_plane) {  // little-endian, two's complement
      const size_t size_bytes = static_cast<size_t>(SizeOf(planes[zero_plane].dtype));
      std::memcpy(out.planes[zero_plane].data() + i * size_bytes, &zero_point, size_bytes);
    }
    ++i;
  }
}

}  // namespace quantd
