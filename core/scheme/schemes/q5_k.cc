// q5_k: ggml's Q5_K, q4_k with a fifth bit that lies apart: super-blocks of 256 values in 8 runs of
// 32, each with a scale and a minimum of 6 bits under an f16 scale of each; 5.5 bits a value.
//
//   | f16 d | f16 dmin | 12 x u8 scales | 32 x u8 high bits | 128 x u8 codes |         176 bytes
//
//   scales  as q4_k's (k_rows.h)
//   high    bit j of byte l is bit 4 of the code of value 32 * j + l
//   codes   byte l of 32 for each 64 values: low 4 bits of value l in the low nibble, of value l +
//           32 in the high one
//
//   x' = (d * scale) * code - (dmin * min)                 each product and the sum rounded
//
// How scales and codes follow from the values: core/scheme/k_rows.h. Without importance it tries 16
// scales where q4_k tries 21, and so costs a little less time.
//
// The entry is q5_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <cstring>
#include <utility>

#include "core/scheme/k_quant_ref.h"
#include "core/scheme/k_rows.h"

namespace quantd {
namespace {

constexpr char kLayout[] =
    R"(    | f16 d | f16 dmin | 12 x u8 scales | 32 x u8 high | 128 x u8 codes |

Run j has a scale code sc and a minimum code mn of 6 bits, with B the bytes of `scales`:

    j < 4    sc = B[j] & 63                              mn = B[j + 4] & 63
    j >= 4   sc = B[j + 4] & 15 | (B[j - 4] >> 6) << 4   mn = B[j + 4] >> 4 | (B[j] >> 6) << 4

Byte 32 * p + l of the codes, p from 0 to 3, has the low 4 bits of the code of value 64 * p + l in its
low nibble, those of value 64 * p + 32 + l in the high one. Bit j of byte l of `high` is bit 4 of the
code of value 32 * j + l.
)";

// ggml/src/ggml-common.h, block_q5_K.
struct Block {
  uint8_t d[2], dmin[2];  // f16
  uint8_t scales[12];
  uint8_t high[kSuperBlockElems / 8];
  uint8_t codes[kSuperBlockElems / 2];
};
static_assert(sizeof(Block) == 176 && alignof(Block) == 1);

void PackCodes(const int8_t* codes, uint8_t* block) {
  uint8_t* high = block + offsetof(Block, high);
  uint8_t* to = block + offsetof(Block, codes);
  for (int64_t l = 0; l < 32; ++l) {
    int bits = 0;
    for (int j = 0; j < 8; ++j) bits |= codes[32 * j + l] >> 4 << j;
    high[l] = static_cast<uint8_t>(bits);
  }
  for (int64_t i = 0; i < kSuperBlockElems / 2; i += 32, codes += 64) {
    for (int64_t l = 0; l < 32; ++l) {
      to[i + l] = static_cast<uint8_t>((codes[l] & 0x0F) | codes[l + 32] << 4);
    }
  }
}

void UnpackCodes(const uint8_t* block, int8_t* codes) {
  const uint8_t* from = block + offsetof(Block, codes);
  uint8_t high[32];  // what is left of them
  std::memcpy(high, block + offsetof(Block, high), sizeof(high));
  for (int64_t i = 0; i < kSuperBlockElems / 2; i += 32, codes += 64) {
    for (int64_t l = 0; l < 32; ++l) {
      codes[l] = static_cast<int8_t>((from[i + l] & 0x0F) | (high[l] & 1) << 4);
      codes[l + 32] = static_cast<int8_t>(from[i + l] >> 4 | (high[l] & 2) << 3);
      high[l] = static_cast<uint8_t>(high[l] >> 2);
    }
  }
}

constexpr KRowFormat kFormat = {
    .block_bytes = sizeof(Block),
    .d_at = offsetof(Block, d),
    .dmin_at = offsetof(Block, dmin),
    .highest = 31,
    .max_scale_code = 63,
    .clamp_scale_code = 63,
    .energy_factor = 2,
    .plain = {31, -0.5f, 0.1f, 15, 32, /*adds_average=*/true, /*by_absolute_error=*/false},
    .weighted = {31, -0.9f, 0.05f, 36, 32, false, false},
    .pack = [](const KScaleCodes& codes,
               uint8_t* block) { PackScalesOf6Bits(codes, block + offsetof(Block, scales)); },
    .unpack = [](const uint8_t* block, KScaleCodes& codes) {
      UnpackScalesOf6Bits(block + offsetof(Block, scales), codes);
    },
    .pack_codes = PackCodes,
    .unpack_codes = UnpackCodes,
};

}  // namespace

const Scheme& q5_k_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = SuperBlockInfo(
        "q5_k", "ggml super-blocks of 256 in 5 bits, scales and minima searched for",
        "ggml 0.20.2 quantize_row_q5_K_ref, _impl, built without FMA, while f16 holds the "
        "scales",
        5, sizeof(Block));
    info.definition = KRowDefinition(kFormat, kLayout);
    return SuperBlockScheme<kFormat, EncodeKRow, DecodeKRow>(std::move(info), EncodeQ5KRef,
                                                             DecodeQ5KRef);
  }();
  return kScheme;
}

}  // namespace quantd
