// Tested by tests/core/scheme/reference_test.cc and golden_test.cc.
#include "core/scheme/q8_0_ref.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/copy_bytes.h"
#include "core/base/minifloat.h"

namespace quantd {
namespace {

struct Block {
  uint16_t scale;  // f16
  int8_t codes[32];
};
static_assert(sizeof(Block) == 34);

template <typename T>
void EncodeRefBlocks(const T* values, int64_t num_elems, std::byte* out, Counts* counts) {
  for (int64_t begin = 0; begin < num_elems; begin += 32, out += sizeof(Block)) {
    const int64_t count = std::min<int64_t>(32, num_elems - begin);
    T absmax = 0;
    for (int64_t i = 0; i < count; ++i) {
      absmax = std::max(absmax, std::fabs(LoadAt(values, begin + i)));
    }
    T d = absmax / 127;
    if (d >= 65520) d = 65504;
    T id = d != 0 ? 1 / d : 0;
    if (!std::isfinite(id)) d = id = 0;
    Block block = {
        static_cast<uint16_t>(NarrowFloat(kHalfFormat, d, Rounding::kHalfEven, true)), {}};
    for (int64_t i = 0; i < count; ++i) {
      const T steps = LoadAt(values, begin + i) * id;
      counts->clipped += std::fabs(steps) >= static_cast<T>(127.5);
      block.codes[i] = static_cast<int8_t>(std::round(std::clamp<T>(steps, -127, 127)));
    }
    std::memcpy(out, &block, sizeof(block));
  }
}

}  // namespace

void EncodeQ8Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                 Counts* counts) {
  segment.values.Visit([&](const auto* values) {
    EncodeRefBlocks(values, segment.values.num_elems, out.data(), counts);
  });
}

void DecodeQ8Ref(const Resolved&, std::span<const std::byte> codes, const ParamView&, int64_t,
                 TileSpan out) {
  for (int64_t i = 0; i < out.num_elems; ++i) {
    Block block;
    std::memcpy(&block, codes.data() + i / 32 * int64_t{sizeof(block)}, sizeof(block));
    // 8 + 11 bits: exact in f32 as well
    const double value = block.codes[i % 32] * WidenFloat<double>(kHalfFormat, block.scale);
    out.Visit([&]<typename T>(T* values) {
      const T y = static_cast<T>(value);
      CopyBytes(values + i, &y, sizeof(y));
    });
  }
}

}  // namespace quantd
