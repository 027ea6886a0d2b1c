// Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include "core/scheme/bitsandbytes_ref.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

namespace quantd {
namespace {

float FloatRef(const ParamView& params, size_t plane, int64_t i) {
  float value;
  std::memcpy(&value, params.planes[plane].data() + i * 4, 4);
  return value;
}

// What values are divided by, and what levels are multiplied with.
struct ScalesRef {
  float working, stored;
};

ScalesRef ScaleRef(const Resolved& resolved, const ParamView& params, int64_t elem) {
  const int64_t i = elem / resolved.spec.granularity->group_elems - params.first_group;
  if (resolved.spec.scale_type != ScaleType::kNested8) {
    const float scale = FloatRef(params, 1, i);
    return {scale, scale};
  }
  const auto code = std::to_integer<uint8_t>(params.planes[1][static_cast<size_t>(i)]);
  const float rest = FloatRef(params, 4, code) * FloatRef(params, 3, i / 256);
  ScalesRef scales = {0, rest + FloatRef(params, 5, 0)};
  if (!params.working.empty()) std::memcpy(&scales.working, params.working.data() + i * 4, 4);
  return scales;
}

float LevelRef(const ParamView& params, int code) { return FloatRef(params, 2, code); }

// The codes in ascending order of their levels; of two zeros the first comes first.
std::array<int, 16> PlacesRef(const ParamView& params) {
  std::array<int, 16> codes;
  std::iota(codes.begin(), codes.end(), 0);
  std::stable_sort(codes.begin(), codes.end(),
                   [&](int a, int b) { return LevelRef(params, a) < LevelRef(params, b); });
  return codes;
}

template <typename T>
int EncodeOne(T x, float scale, const ParamView& params, const std::array<int, 16>& codes,
              Counts* counts) {
  const auto level = [&](size_t place) { return double{LevelRef(params, codes[place])}; };
  const T v = x * (T{1} / static_cast<T>(scale));
  // A code's step is the way to its neighbour.
  const double low_step = level(1) - level(0), high_step = level(15) - level(14);
  counts->clipped +=
      v <= static_cast<T>(-1 - low_step / 2) || v >= static_cast<T>(1 + high_step / 2);
  size_t place = 0;
  while (place < 15) {
    const auto middle = static_cast<float>((level(place) + level(place + 1)) / 2);
    if (!(v > static_cast<T>(middle))) break;
    ++place;
  }
  return codes[place];
}

}  // namespace

void EncodeBitsandbytesRef(const Resolved& resolved, const Segment& segment,
                           std::span<std::byte> out, Counts* counts) {
  const TileView& values = segment.values;
  const std::array<int, 16> codes = PlacesRef(segment.params);
  for (int64_t i = 0; i < values.num_elems; ++i) {
    const float scale = ScaleRef(resolved, segment.params, segment.first_elem + i).working;
    const int code = values.Visit([&](const auto* from) {
      return EncodeOne(LoadAt(from, i), scale, segment.params, codes, counts);
    });
    std::byte& byte = out[static_cast<size_t>(i / 2)];
    byte = i % 2 == 0 ? static_cast<std::byte>(code << 4 | codes[7])
                      : (byte & std::byte{0xF0}) | static_cast<std::byte>(code);
  }
}

void DecodeBitsandbytesRef(const Resolved& resolved, std::span<const std::byte> packed,
                           const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int byte = std::to_integer<int>(packed[static_cast<size_t>(i / 2)]);
    const float level = LevelRef(params, i % 2 == 0 ? byte >> 4 : byte & 0x0F);
    const float scale = ScaleRef(resolved, params, first_elem + i).stored;
    out.Visit([&]<typename T>(T* to) { to[i] = T{level} * T{scale}; });
  }
}

}  // namespace quantd
