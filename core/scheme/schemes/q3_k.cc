// q3_k: ggml's Q3_K: super-blocks of 256 values in 16 runs of 16, each with a scale of 6 bits under
// an f16 scale; 3.4375 bits a value.
//
//   | 32 x u8 high | 64 x u8 low | 12 x u8 scales | f16 d |                           110 bytes
//
//   with code = level + 4:
//   high    bit j of byte l is bit 2 of the code of value 32 * j + l
//   low     byte l of 32 for each 128 values: low 2 bits of l, l + 32, l + 64, l + 96, from the low
//           bits on
//   scales  run j: scale + 32 in 6 bits, the low 4 in a nibble of byte j mod 8, of j >= 8 the high
//           one, the upper 2 in byte 8 + j mod 4, from bit 2 * (j / 4) on
//
//   x' = (d * scale) * level                               each product rounded; level -4 to 3
//
// How scales and levels follow from the values: core/scheme/scale_rows.h. Without importance levels
// move one by one, which takes fewer steps than trying scales.
//
// The entry is q3_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <algorithm>
#include <cmath>
#include <utility>

#include "core/scheme/scale_rows.h"
#include "core/scheme/scale_rows_ref.h"
#include "core/scheme/scale_search.h"

namespace quantd {
namespace {

constexpr char kDefinition[] =
    R"(    | 32 x u8 high | 64 x u8 low | 12 x u8 scales | f16 d |

Run j has a scale code sc: with B the bytes of `scales` and h = (B[8 + j mod 4] >> 2 * (j / 4)) & 3

    j < 8   sc = (B[j] & 15 | h << 4) - 32            j >= 8   sc = (B[j - 8] >> 4 | h << 4) - 32

code = level + 4. Byte 32 * p + l of `low`, p 0 or 1, has the low 2 bits of the codes of values 128 * p +
l, + 32, + 64 and + 96 in bits 0 and 1, 2 and 3, 4 and 5, 6 and 7. Bit j of byte l of `high` is bit 2 of
the code of value 32 * j + l.

    x' = (d * sc) * level                                in f32; wider types take that value

*Encoding.* near(v) = (bits(v + 12582912) & 0x7FFFFF) - 0x400000, bits the binary32 as an integer: rint
for |v| up to 2^22. Without importance, of each run:

      top = the x of largest |x|, the first of those;  |top| < 1e-15: scale 0, levels -4, done
      w = x * x;  i = -4 / top;  levels c = clamp(near(i * x), -4, 3)
      XL = sum of (w * x) * c;  LL = sum of (w * c) * c
      up to 5 times, until no level changes, for each value in order:
        a = XL - (w * x) * c;  next one unless a > 0;  b = LL - (w * c) * c
        n = clamp(near((x * b) / a), -4, 3);  next one if n is c
        a = a + (w * x) * n;  b = b + (w * n) * n
        b > 0 and (a * a) * LL > (XL * XL) * b: c = n, XL = a, LL = b
      scale = XL / LL, 0 unless LL > 0

S are the 16 scales, m the one of largest |S|, the first of those, 0 if there is none above 0. m = 0: d =
0, B = 0. Else i = -32 / m, d = 1 / i, sc = clamp(near(i * S), -32, 31).

With importance q, one of each column, w = q * sqrt(2 * (sum of x * x of the block) / 256 + x * x), and
scale and levels are those of search(run, 4, w) of q6_k. d and sc are the scale and the levels of search(S,
32, the sums of w of the runs).

d is rounded to f16, ties to even, NaN to 0, what is too large to infinity. Then, with what is stored, of
runs where t = d * sc is not 0: level = clamp(near(x / t), -4, 3); of others those that were found stay.
Clipped: x / t at most -4.5 or at least 3.5; all of a run whose scale is NaN or whose t is not finite; all
of a block whose d was NaN.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L / 256 * 110] |
)";

// ggml/src/ggml-common.h, block_q3_K.
struct Block {
  uint8_t high[kSuperBlockElems / 8];
  uint8_t low[kSuperBlockElems / 4];
  uint8_t scales[12];
  uint8_t d[2];  // f16
};
static_assert(sizeof(Block) == 110 && alignof(Block) == 1);

// `codes` are scale codes + 32, of 6 bits.
void PackScales(const uint8_t* codes, uint8_t* to) {
  std::fill_n(to, 12, uint8_t{0});
  for (int j = 0; j < 16; ++j) {
    to[j % 8] |= static_cast<uint8_t>((codes[j] & 15) << (j < 8 ? 0 : 4));
    to[8 + j % 4] |= static_cast<uint8_t>(codes[j] >> 4 << 2 * (j / 4));
  }
}

bool MakeScales(const KRuns& found, int64_t run, bool weighted, uint8_t* bytes) {
  auto* block = reinterpret_cast<Block*>(bytes);
  uint8_t codes[16] = {};
  float d = 0;
  const float* scales = found.scale + run;
  const float furthest = FurthestScale(scales, 16);
  if (weighted && std::fabs(furthest) >= 1e-15f) {
    KRuns of_scales;
    SearchScales({32, kMinKRunElems}, scales, 1, {found.weight + run, nullptr}, of_scales);
    d = of_scales.scale[0];
    for (int j = 0; j < 16; ++j) {
      const float steps = of_scales.code_factor[0] * scales[j];
      codes[j] = static_cast<uint8_t>(std::clamp(NearestByBits(steps), -32, 31) + 32);
    }
  } else if (!weighted && furthest != 0) {
    const float inverse = -32.0f / furthest;
    for (int j = 0; j < 16; ++j) {
      const auto code = static_cast<int8_t>(NearestByBits(inverse * scales[j]));
      codes[j] = static_cast<uint8_t>(std::clamp<int>(code, -32, 31) + 32);
    }
    d = 1 / inverse;
  }
  PackScales(codes, block->scales);
  return StoreHalf(d, block->d);
}

void ParamsOf(const uint8_t* bytes, KRunParams* params) {
  const auto* block = reinterpret_cast<const Block*>(bytes);
  const float d = LoadHalf(block->d);
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? block->scales[j] & 15 : block->scales[j - 8] >> 4;
    const int high = block->scales[8 + j % 4] >> 2 * (j / 4) & 3;
    params[j] = {d * static_cast<float>((low | high << 4) - 32), 0};
  }
}

void PackLevels(const int8_t* levels, uint8_t* bytes) {
  auto* block = reinterpret_cast<Block*>(bytes);
  int8_t codes[kSuperBlockElems];
  for (int64_t i = 0; i < kSuperBlockElems; ++i) codes[i] = static_cast<int8_t>(levels[i] + 4);
  for (int64_t l = 0; l < 32; ++l) {
    int bits = 0;
    for (int j = 0; j < 8; ++j) bits |= codes[32 * j + l] >> 2 << j;
    block->high[l] = static_cast<uint8_t>(bits);
  }
  PackPairsOfBits(codes, block->low);
}

void UnpackLevels(const uint8_t* bytes, int8_t* levels) {
  const auto* block = reinterpret_cast<const Block*>(bytes);
  UnpackPairsOfBits(block->low, levels);
  for (int j = 0; j < 8; ++j, levels += 32) {
    for (int64_t l = 0; l < 32; ++l) {
      levels[l] = static_cast<int8_t>(levels[l] + ((block->high[l] >> j & 1) << 2) - 4);
    }
  }
}

constexpr ScaleRowFormat kFormat = {
    .block_bytes = sizeof(Block),
    .levels = {-4, 3, kMinKRunElems},
    .descends = true,
    .has_energies = true,
    .make_scales = MakeScales,
    .is_zero = [](const KRuns&, int64_t) { return false; },
    .params = ParamsOf,
    .pack_levels = PackLevels,
    .unpack_levels = UnpackLevels,
};

}  // namespace

const Scheme& q3_k_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = SuperBlockInfo(
        "q3_k", "ggml super-blocks of 256 in 3 bits, scales searched for",
        "ggml 0.20.2 quantize_row_q3_K_ref, _impl, built without FMA, while f16 holds the "
        "scale",
        3, sizeof(Block));
    info.definition = SuperBlockDefinition(kDefinition, "16 runs of 16", sizeof(Block));
    return SuperBlockScheme<kFormat, EncodeScaleRow, DecodeScaleRow>(std::move(info), EncodeQ3KRef,
                                                                     DecodeQ3KRef);
  }();
  return kScheme;
}

}  // namespace quantd
