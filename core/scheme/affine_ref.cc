// The scalar definition of the affine schemes: what affine.cc must equal bit for bit. It shares
// nothing with it but the tensor's layout. Tested by tests/core/scheme/reference_test.cc.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/minifloat.h"
#include "core/base/philox.h"
#include "core/scheme/affine.h"

namespace quantd {
namespace {

template <typename T>
T ReadEntry(const ParamView& params, size_t plane, int64_t group) {
  return LoadAt(reinterpret_cast<const T*>(params.planes[plane].data()),
                group - params.first_group);
}

float ScaleOf(const Resolved& resolved, const ParamView& params, int64_t group) {
  switch (*resolved.spec.scale_type) {
    case ScaleType::kF16:
      return WidenFloat<float>(kHalfFormat, ReadEntry<uint16_t>(params, 1, group));
    case ScaleType::kBf16:
      return WidenFloat<float>(kBfloatFormat, ReadEntry<uint16_t>(params, 1, group));
    case ScaleType::kDyadic16:
      return static_cast<float>(
          std::ldexp(ReadEntry<int16_t>(params, 1, group), -ReadEntry<int8_t>(params, 2, group)));
    case ScaleType::kF32:
    case ScaleType::kPow2:
    case ScaleType::kNested8:  // not of these schemes
      break;
  }
  return ReadEntry<float>(params, 1, group);
}

int ZeroPointOf(const Resolved& resolved, const ParamView& params, int64_t group) {
  const SchemeInfo& info = *resolved.info;
  const size_t plane = resolved.spec.scale_type == ScaleType::kDyadic16 ? 3 : 2;
  if (resolved.layout.scheme_planes() <= plane) {  // none is kept
    return info.is_signed || resolved.spec.scale ? 0 : 1 << (info.bits - 1);
  }
  if (info.bits == 16 && info.is_signed) return ReadEntry<int16_t>(params, plane, group);
  if (info.bits == 16) return ReadEntry<uint16_t>(params, plane, group);
  if (info.is_signed) return ReadEntry<int8_t>(params, plane, group);
  return ReadEntry<uint8_t>(params, plane, group);
}

// Returns what is added to codes.
int OffsetOf(const Resolved& resolved) {
  return resolved.spec.layout == "words" ? 1 << (resolved.info->bits - 1) : 0;
}

template <typename T>
int CodeOf(const Resolved& resolved, T value, T scale, int zero_point, int64_t elem,
           Counts* counts) {
  const SchemeInfo& info = *resolved.info;
  const bool narrow = !resolved.spec.scale && resolved.spec.mode == Mode::kSymmetric;
  const int lowest = info.is_signed ? -(1 << (info.bits - 1)) : 0;
  const T low = static_cast<T>(lowest + (narrow ? 1 : 0) - zero_point);
  const T high = static_cast<T>(lowest + (1 << info.bits) - 1 - zero_point);
  uint32_t noise = 0;
  if (resolved.spec.rounding == Rounding::kStochastic) {
    FillNoise(*resolved.spec.seed, resolved.name_hash, elem, {&noise, 1});
  }
  if (resolved.spec.dialect == "compressed_tensors") {
    const T sum = value / scale + static_cast<T>(zero_point);
    const T last = static_cast<T>(lowest + (1 << info.bits) - 1);
    if (sum <= static_cast<T>(lowest) - T{0.5} || sum >= last + T{0.5}) ++counts->clipped;
    return static_cast<int>(std::nearbyint(std::clamp(sum, static_cast<T>(lowest), last)));
  }
  const T steps = value / scale;
  if (steps <= low - T{0.5} || steps >= high + T{0.5}) ++counts->clipped;
  const T clamped = std::clamp(steps, low, high);
  return static_cast<int>(RoundToWhole(clamped, *resolved.spec.rounding, noise)) + zero_point;
}

}  // namespace

void EncodeAffineRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                     Counts* counts) {
  const int bits = resolved.info->bits;
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int64_t elem = segment.first_elem + i;
    const int64_t group = resolved.layout.groups.RunAt(elem).group;
    const float scale = ScaleOf(resolved, segment.params, group);
    const int zero_point = ZeroPointOf(resolved, segment.params, group);
    const int code =
        segment.values.f32 != nullptr
            ? CodeOf(resolved, LoadAt(segment.values.f32, i), scale, zero_point, elem, counts)
            : CodeOf(resolved, LoadAt(segment.values.f64, i), double{scale}, zero_point, elem,
                     counts);
    const int stored = code + OffsetOf(resolved);
    for (int64_t bit = 0, at = i * bits; bit < bits; ++bit, ++at) {
      out[static_cast<size_t>(at / 8)] |= static_cast<std::byte>((stored >> bit & 1) << at % 8);
    }
  }
}

void DecodeAffineRef(const Resolved& resolved, std::span<const std::byte> codes,
                     const ParamView& params, int64_t first_elem, TileSpan out) {
  const SchemeInfo& info = *resolved.info;
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int64_t group = resolved.layout.groups.RunAt(first_elem + i).group;
    const float scale = ScaleOf(resolved, params, group);
    int code = 0;
    for (int64_t bit = 0, at = i * info.bits; bit < info.bits; ++bit, ++at) {
      code |= (std::to_integer<int>(codes[static_cast<size_t>(at / 8)]) >> at % 8 & 1) << bit;
    }
    code -= OffsetOf(resolved);
    if (info.is_signed && code >= 1 << (info.bits - 1)) code -= 1 << info.bits;
    const int steps = code - ZeroPointOf(resolved, params, group);
    if (out.f32 != nullptr) {
      out.f32[i] = static_cast<float>(steps) * scale;
    } else {
      out.f64[i] = static_cast<double>(steps) * double{scale};
    }
  }
}

}  // namespace quantd
