// Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include "core/scheme/nf4_ref.h"

#include <cstring>

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

template <typename T>
int EncodeOne(T x, float scale, const ParamView& params, Counts* counts) {
  const T v = x * (T{1} / static_cast<T>(scale));
  // A code's step is the way to its neighbour.
  const double low_step = double{LevelRef(params, 1)} - LevelRef(params, 0);
  const double high_step = double{LevelRef(params, 15)} - LevelRef(params, 14);
  counts->clipped +=
      v <= static_cast<T>(-1 - low_step / 2) || v >= static_cast<T>(1 + high_step / 2);
  int code = 0;
  while (code < 15) {
    const double sum = double{LevelRef(params, code)} + double{LevelRef(params, code + 1)};
    if (!(v > static_cast<T>(static_cast<float>(sum / 2)))) break;
    ++code;
  }
  return code;
}

}  // namespace

void EncodeNf4Ref(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
                  Counts* counts) {
  const TileView& values = segment.values;
  for (int64_t i = 0; i < values.num_elems; ++i) {
    const float scale = ScaleRef(resolved, segment.params, segment.first_elem + i).working;
    const int code = values.Visit([&](const auto* from) {
      return EncodeOne(LoadAt(from, i), scale, segment.params, counts);
    });
    std::byte& byte = out[static_cast<size_t>(i / 2)];
    byte = i % 2 == 0 ? static_cast<std::byte>(code << 4 | 7)
                      : (byte & std::byte{0xF0}) | static_cast<std::byte>(code);
  }
}

void DecodeNf4Ref(const Resolved& resolved, std::span<const std::byte> packed,
                  const ParamView& params, int64_t first_elem, TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    const int byte = std::to_integer<int>(packed[static_cast<size_t>(i / 2)]);
    const float level = LevelRef(params, i % 2 == 0 ? byte >> 4 : byte & 0x0F);
    const float scale = ScaleRef(resolved, params, first_elem + i).stored;
    out.Visit([&]<typename T>(T* to) { to[i] = T{level} * T{scale}; });
  }
}

}  // namespace quantd
