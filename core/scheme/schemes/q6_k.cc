// q6_k: ggml's Q6_K, next to lossless: super-blocks of 256 values in 16 runs of 16, each with a
// scale of 8 bits under an f16 scale; 6.5625 bits a value. GGUF files have their output layers in
// it.
//
//   | 128 x u8 low | 64 x u8 high | 16 x i8 scales | f16 d |                         210 bytes
//
//   of each 128 values, with code = level + 32 and l from 0 to 31:
//   low   byte l: low 4 bits of the codes of values l and l + 64, byte l + 32: l + 32 and l + 96
//   high  byte l: upper 2 bits of l, l + 32, l + 64, l + 96, from the low bits on
//
//   x' = (d * scale) * level                               each product rounded; level -32 to 31
//
// How scales and levels follow from the values: core/scheme/scale_rows.h. Against q8_0, a fifth
// less space at a quarter of the steps.
//
// The entry is q6_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/scheme/scale_rows.h"
#include "core/scheme/scale_rows_ref.h"

namespace quantd {
namespace {

constexpr char kDefinition[] =
    R"(    | 128 x u8 low | 64 x u8 high | 16 x i8 scales | f16 d |

Run j has the scale code sc, entry j of `scales`. code = level + 32. Of values 128 * p + l, p 0 or 1, l
from 0 to 31: byte 64 * p + l of `low` has the low 4 bits of the codes of l in the low nibble and of l +
64 in the high one, byte 64 * p + 32 + l those of l + 32 and l + 96; byte 32 * p + l of `high` has the
upper 2 bits of l, l + 32, l + 64 and l + 96 in bits 0 and 1, 2 and 3, 4 and 5, 6 and 7.

    x' = (d * sc) * level                                in f32; wider types take that value

*Encoding.* search(run, N, w) is, with near(v) = (bits(v + 12582912) & 0x7FFFFF) - 0x400000, bits the
binary32 as an integer: rint for |v| up to 2^22:

      top = the x of largest |x|, the first of those;  |top| < 1e-15: scale 0, levels -N, done
      for t = N, N - 0.9, N - 0.8, .. N + 0.9 (N + 0.1 * k in f32, k from -9 to 9 but 0):
        i = -t / top;  c = clamp(near(i * x), -N, N - 1)
        XL = sum of (w * x) * c;  LL = sum of (w * c) * c
        first t: scale = XL / LL, 0 where LL is 0;  best = scale * XL;  levels = c
        others, where LL > 0 and XL * XL > best * LL: scale = XL / LL;  best = scale * XL;  levels = c

Of each run search(run, 32, x * x), with importance that in the place of x * x. S are the 16 scales, m
the one of largest |S|, the first of those. |m| < 1e-15: all bytes of the block are 0. Else i = -128 / m,
d = 1 / i, sc = min(127, near(i * S)). d is rounded to f16, ties to even, what is too large to infinity.
Then, with what is stored, of runs where t = d * sc is not 0: level = clamp(near(x / t), -32, 31); of
others those of the search stay. Clipped: x / t at most -32.5 or at least 31.5; all of a run whose scale
is NaN or whose t is not finite.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L / 256 * 210] |
)";

// ggml/src/ggml-common.h, block_q6_K.
struct Block {
  uint8_t low[kSuperBlockElems / 2];
  uint8_t high[kSuperBlockElems / 4];
  int8_t scales[16];
  uint8_t d[2];  // f16
};
static_assert(sizeof(Block) == 210 && alignof(Block) == 1);

bool IsZero(const KRuns& found, int64_t run) {
  return std::fabs(FurthestScale(found.scale + run, 16)) < 1e-15f;
}

bool MakeScales(const KRuns& found, int64_t run, bool, uint8_t* bytes) {
  auto* block = reinterpret_cast<Block*>(bytes);
  if (IsZero(found, run)) {
    std::fill_n(block->scales, 16, int8_t{0});
    return StoreHalf(0, block->d);
  }
  const float inverse = -128.0f / FurthestScale(found.scale + run, 16);
  for (int j = 0; j < 16; ++j) {
    block->scales[j] =
        static_cast<int8_t>(std::min(127, NearestByBits(inverse * found.scale[run + j])));
  }
  return StoreHalf(1 / inverse, block->d);
}

void ParamsOf(const uint8_t* bytes, KRunParams* params) {
  const auto* block = reinterpret_cast<const Block*>(bytes);
  const float d = LoadHalf(block->d);
  for (int j = 0; j < 16; ++j) params[j] = {d * block->scales[j], 0};
}

void PackLevels(const int8_t* levels, uint8_t* bytes) {
  auto* block = reinterpret_cast<Block*>(bytes);
  for (int64_t half = 0; half < 2; ++half, levels += 128) {
    uint8_t* low = block->low + 64 * half;
    uint8_t* high = block->high + 32 * half;
    for (int64_t l = 0; l < 32; ++l) {
      const int a = levels[l] + 32, b = levels[l + 32] + 32, c = levels[l + 64] + 32,
                e = levels[l + 96] + 32;
      low[l] = static_cast<uint8_t>((a & 15) | (c & 15) << 4);
      low[l + 32] = static_cast<uint8_t>((b & 15) | (e & 15) << 4);
      high[l] = static_cast<uint8_t>(a >> 4 | b >> 4 << 2 | c >> 4 << 4 | e >> 4 << 6);
    }
  }
}

void UnpackLevels(const uint8_t* bytes, int8_t* levels) {
  const auto* block = reinterpret_cast<const Block*>(bytes);
  for (int64_t half = 0; half < 2; ++half, levels += 128) {
    const uint8_t* low = block->low + 64 * half;
    const uint8_t* high = block->high + 32 * half;
    for (int64_t l = 0; l < 32; ++l) {
      levels[l] = static_cast<int8_t>(((low[l] & 15) | (high[l] & 3) << 4) - 32);
      levels[l + 32] = static_cast<int8_t>(((low[l + 32] & 15) | (high[l] >> 2 & 3) << 4) - 32);
      levels[l + 64] = static_cast<int8_t>((low[l] >> 4 | (high[l] >> 4 & 3) << 4) - 32);
      levels[l + 96] = static_cast<int8_t>((low[l + 32] >> 4 | high[l] >> 6 << 4) - 32);
    }
  }
}

constexpr ScaleRowFormat kFormat = {
    .block_bytes = sizeof(Block),
    .levels = {-32, 31, kMinKRunElems},
    .descends = false,
    .has_energies = false,
    .make_scales = MakeScales,
    .is_zero = IsZero,
    .params = ParamsOf,
    .pack_levels = PackLevels,
    .unpack_levels = UnpackLevels,
};

}  // namespace

const Scheme& q6_k_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = SuperBlockInfo(
        "q6_k", "ggml super-blocks of 256 in 6 bits, scales searched for",
        "ggml 0.20.2 quantize_row_q6_K_ref, _impl, built without FMA, while f16 holds the "
        "scale",
        6, sizeof(Block));
    info.definition = SuperBlockDefinition(kDefinition, "16 runs of 16", sizeof(Block));
    return SuperBlockScheme<kFormat, EncodeScaleRow, DecodeScaleRow>(std::move(info), EncodeQ6KRef,
                                                                     DecodeQ6KRef);
  }();
  return kScheme;
}

}  // namespace quantd
