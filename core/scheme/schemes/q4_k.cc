// q4_k: ggml's Q4_K, what most GGUF files of "4 bits" are made of: super-blocks of 256 values in 8
// runs of 32, each with a scale and a minimum of 6 bits under an f16 scale of each; 4.5 bits a
// value.
//
//   | f16 d | f16 dmin | 12 x u8 scales | 128 x u8 codes |                            144 bytes
//
//   scales, run j < 4: low 6 bits of byte j the scale's code, of byte j + 4 the minimum's;
//           run j >= 4: byte j + 4 has both's low 4 bits, the minimum's in the high nibble; their
//           upper 2 bits are the upper bits of bytes j - 4 and j
//   codes: byte l of 32 for each 64 values: value l in the low nibble, value l + 32 in the high one
//
//   x' = (d * scale) * code - (dmin * min)                 each product and the sum rounded
//
// How scales and codes follow from the values: core/scheme/k_rows.h. The format is defined on f32:
// f64 values are rounded to f32 first, beyond its range to the largest, and decoded ones widen.
//
// The search makes it the slowest of rows: 0.7 GB/s on a thread, where others have 8 to 15.
//
// The entry is q4_k_scheme. Tested by tests/core/scheme/segments_test.cc and golden_test.cc.
#include <utility>

#include "core/scheme/k_quant_ref.h"
#include "core/scheme/k_rows.h"

namespace quantd {
namespace {

constexpr char kLayout[] =
    R"(    | f16 d | f16 dmin | 12 x u8 scales | 128 x u8 codes |

Run j has a scale code sc and a minimum code mn of 6 bits, with B the bytes of `scales`:

    j < 4    sc = B[j] & 63                              mn = B[j + 4] & 63
    j >= 4   sc = B[j + 4] & 15 | (B[j - 4] >> 6) << 4   mn = B[j + 4] >> 4 | (B[j] >> 6) << 4

Byte 32 * p + l of the codes, p from 0 to 3, has the code of value 64 * p + l in its low nibble, that
of value 64 * p + 32 + l in the high one.
)";

// ggml/src/ggml-common.h, block_q4_K.
struct Block {
  uint8_t d[2], dmin[2];  // f16
  uint8_t scales[12];
  uint8_t codes[kSuperBlockElems / 2];
};
static_assert(sizeof(Block) == 144 && alignof(Block) == 1);

void PackCodes(const int8_t* codes, uint8_t* block) {
  uint8_t* to = block + offsetof(Block, codes);
  for (int64_t i = 0; i < kSuperBlockElems / 2; i += 32, codes += 64) {
    for (int64_t l = 0; l < 32; ++l) {
      to[i + l] = static_cast<uint8_t>(codes[l] | codes[l + 32] << 4);
    }
  }
}

void UnpackCodes(const uint8_t* block, int8_t* codes) {
  const uint8_t* from = block + offsetof(Block, codes);
  for (int64_t i = 0; i < kSuperBlockElems / 2; i += 32, codes += 64) {
    for (int64_t l = 0; l < 32; ++l) {
      codes[l] = from[i + l] & 0x0F;
      codes[l + 32] = static_cast<int8_t>(from[i + l] >> 4);
    }
  }
}

constexpr KRowFormat kFormat = {
    .block_bytes = sizeof(Block),
    .d_at = offsetof(Block, d),
    .dmin_at = offsetof(Block, dmin),
    .highest = 15,
    .max_scale_code = 63,
    .clamp_scale_code = 63,
    .energy_factor = 2,
    .plain = {15, -1.0f, 0.1f, 20, 32, /*adds_average=*/true, /*by_absolute_error=*/false},
    .weighted = {15, -0.9f, 0.05f, 36, 32, false, false},
    .pack = [](const KScaleCodes& codes,
               uint8_t* block) { PackScalesOf6Bits(codes, block + offsetof(Block, scales)); },
    .unpack = [](const uint8_t* block, KScaleCodes& codes) {
      UnpackScalesOf6Bits(block + offsetof(Block, scales), codes);
    },
    .pack_codes = PackCodes,
    .unpack_codes = UnpackCodes,
};

}  // namespace

const Scheme& q4_k_scheme() {
  static const Scheme kScheme = [] {
    SchemeInfo info = SuperBlockInfo(
        "q4_k", "ggml super-blocks of 256 in 4 bits, scales and minima searched for",
        "ggml 0.20.2 quantize_row_q4_K_ref, _impl, built without FMA, while f16 holds the "
        "scales",
        4, sizeof(Block));
    info.definition = KRowDefinition(kFormat, kLayout);
    return SuperBlockScheme<kFormat, EncodeKRow, DecodeKRow>(std::move(info), EncodeQ4KRef,
                                                             DecodeQ4KRef);
  }();
  return kScheme;
}

}  // namespace quantd
