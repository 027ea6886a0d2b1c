// q2_k: ggml's Q2_K, the smallest of its formats with even steps: super-blocks of 256 values in 16
// runs of 16, each with a scale and a minimum of 4 bits under an f16 scale of each; 2.625 bits a
// value.
//
//   | 16 x u8 scales | 64 x u8 codes | f16 d | f16 dmin |                            84 bytes
//
//   scales  run j: the scale's code in the low nibble of byte j, the minimum's in the high one
//   codes   byte l of 32 for each 128 values: of values l, l + 32, l + 64, l + 96, from the low
//           bits on
//
//   x' = (d * scale) * code - (dmin * min)                 each product and the sum rounded
//
// How scales and codes follow from the values: core/scheme/k_rows.h. Without importance, errors are
// absolute ones, weighed by |x|: with four levels, squares would give all to the outermost values.
//
// The entry is q2_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <utility>

#include "core/scheme/k_quant_ref.h"
#include "core/scheme/k_rows.h"

namespace quantd {
namespace {

constexpr char kLayout[] =
    R"(    | 16 x u8 scales | 64 x u8 codes | f16 d | f16 dmin |

Run j has a scale code sc, the low nibble of byte j of `scales`, and a minimum code mn, the high one.
Byte 32 * p + l of the codes, p 0 or 1, has the codes of values 128 * p + l, + 32, + 64 and + 96 in
bits 0 and 1, 2 and 3, 4 and 5, 6 and 7.
)";

// ggml/src/ggml-common.h, block_q2_K.
struct Block {
  uint8_t scales[16];
  uint8_t codes[kSuperBlockElems / 4];
  uint8_t d[2], dmin[2];  // f16
};
static_assert(sizeof(Block) == 84 && alignof(Block) == 1);

void PackScales(const KScaleCodes& from, uint8_t* block) {
  for (int j = 0; j < 16; ++j) {
    block[j] = static_cast<uint8_t>(from.scale[j] | from.min[j] << 4);
  }
}

void UnpackScales(const uint8_t* block, KScaleCodes& to) {
  for (int j = 0; j < 16; ++j) {
    to.scale[j] = block[j] & 0x0F;
    to.min[j] = block[j] >> 4;
  }
}

void PackCodes(const int8_t* codes, uint8_t* block) {
  PackPairsOfBits(codes, block + offsetof(Block, codes));
}

void UnpackCodes(const uint8_t* block, int8_t* codes) {
  UnpackPairsOfBits(block + offsetof(Block, codes), codes);
}

constexpr KRowFormat kFormat = {
    .block_bytes = sizeof(Block),
    .d_at = offsetof(Block, d),
    .dmin_at = offsetof(Block, dmin),
    .highest = 3,
    .max_scale_code = 15,
    .clamp_scale_code = 255,
    .energy_factor = 1,
    .plain = {3, -0.5f, 0.1f, 15, 16, /*adds_average=*/false, /*by_absolute_error=*/true},
    .weighted = {3, -0.9f, 0.05f, 36, 16, false, false},
    .pack = PackScales,
    .unpack = UnpackScales,
    .pack_codes = PackCodes,
    .unpack_codes = UnpackCodes,
};

}  // namespace

const Scheme& q2_k_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = SuperBlockInfo(
        "q2_k", "ggml super-blocks of 256 in 2 bits, scales and minima searched for",
        "ggml 0.20.2 quantize_row_q2_K_ref, _impl, built without FMA, while f16 holds the "
        "scales",
        2, sizeof(Block));
    info.definition = KRowDefinition(kFormat, kLayout);
    return SuperBlockScheme<kFormat, EncodeKRow, DecodeKRow>(std::move(info), EncodeQ2KRef,
                                                             DecodeQ2KRef);
  }();
  return kScheme;
}

}  // namespace quantd
