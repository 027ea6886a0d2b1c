// Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include "core/scheme/mx_ref.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/copy_bytes.h"
#include "core/base/minifloat.h"

namespace quantd {
namespace {

// In the order of MxElement; int8 is no float.
constexpr MiniFormat kFormats[] = {{5, 2, 15, 0x7B, 0x7C, 0x7E, false},
                                   {4, 3, 7, 0x7E, 0, 0x7F, false},
                                   {3, 2, 3, 0x1F, 0, 0, false},
                                   {2, 3, 1, 0x1F, 0, 0, false},
                                   {2, 1, 1, 0x07, 0, 0, false}};

const MiniFormat& FormatOf(MxElement which) { return kFormats[static_cast<size_t>(which)]; }

int BitsOf(MxElement which) {
  return which == MxElement::kInt8 ? 8 : FormatOf(which).sign_shift() + 1;
}

int ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t group = resolved.layout.groups.RunAt(elem).group - params.first_group;
  return std::to_integer<int>(params.planes[1][static_cast<size_t>(group)]);
}

// The code of the largest value; in dialect mlx of which f32 holds the product with the scale.
uint32_t LargestRef(MxElement which, const Resolved& resolved, int scale) {
  const MiniFormat& format = FormatOf(which);
  uint32_t code = format.max_code;
  if (resolved.spec.dialect != "mlx") return code;
  const float power = std::ldexp(1.0f, scale - 127);
  while (std::isinf(WidenFloat<float>(format, code) * power)) --code;
  return code;
}

template <typename T>
uint32_t CodeRef(MxElement which, const Resolved& resolved, T q, int scale, Counts* counts) {
  if (which == MxElement::kInt8) {
    const T steps = 64 * q;
    counts->clipped += std::fabs(steps) >= static_cast<T>(127.5);
    const T whole = std::nearbyint(std::clamp<T>(steps, -127, 127));
    return static_cast<uint32_t>(static_cast<int>(whole)) & 0xFF;
  }
  const MiniFormat& format = FormatOf(which);
  const uint32_t last = LargestRef(which, resolved, scale);
  const T largest = WidenFloat<T>(format, last);
  const T step = largest - WidenFloat<T>(format, last - 1);
  counts->clipped += std::fabs(q) >= largest + step / 2;
  const bool down = resolved.spec.dialect == "mlx" && which == MxElement::kE2m1;
  const uint32_t code =
      NarrowFloat(format, std::fabs(q), down ? Rounding::kHalfDown : Rounding::kHalfEven, true);
  const bool negative = std::signbit(q) && !(down && code == 0);
  return std::min(code, last) | (negative ? 1u << format.sign_shift() : 0);
}

template <typename T>
T ValueRef(MxElement which, uint32_t code, int scale) {
  if (scale == 255) return std::numeric_limits<T>::quiet_NaN();
  const T power = std::ldexp(T{1}, scale - 127);
  if (which != MxElement::kInt8) return power * WidenFloat<T>(FormatOf(which), code);
  const T value = static_cast<T>(static_cast<int8_t>(code));
  return power * (value / 64);
}

}  // namespace

void EncodeMxRef(MxElement which, const Resolved& resolved, const Segment& segment,
                 std::span<std::byte> out, Counts* counts) {
  const int bits = BitsOf(which);
  std::fill(out.begin(), out.end(), std::byte{0});
  for (int64_t i = 0; i < segment.values.num_elems; ++i) {
    const int scale = ScaleRef(resolved, segment.params, segment.first_elem + i);
    const uint32_t code = segment.values.Visit([&]<typename T>(const T* values) {
      const T q = LoadAt(values, i) / std::ldexp(T{1}, scale - 127);
      return CodeRef(which, resolved, q, scale, counts);
    });
    for (int bit = 0; bit < bits; ++bit) {
      const auto at = static_cast<size_t>(i * bits + bit);
      out[at / 8] |= static_cast<std::byte>((code >> bit & 1) << at % 8);
    }
  }
}

void DecodeMxRef(MxElement which, const Resolved& resolved, std::span<const std::byte> packed,
                 const ParamView& params, int64_t first_elem, TileSpan out) {
  const int bits = BitsOf(which);
  for (int64_t i = 0; i < out.num_elems; ++i) {
    uint32_t code = 0;
    for (int bit = 0; bit < bits; ++bit) {
      const auto at = static_cast<size_t>(i * bits + bit);
      code |= (std::to_integer<uint32_t>(packed[at / 8]) >> at % 8 & 1) << bit;
    }
    const int scale = ScaleRef(resolved, params, first_elem + i);
    out.Visit([&]<typename T>(T* to) {
      const T y = ValueRef<T>(which, code, scale);
      CopyBytes(to + i, &y, sizeof(y));
    });
  }
}

}  // namespace quantd
