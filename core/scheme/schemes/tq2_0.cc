// tq2_0: ggml's TQ2_0: ternary values (core/scheme/ggml_ternary.h) of 2 bits each; 2.0625 bits a value.
// Decodes by shifts alone, where tq1_0 takes a fifth less space.
//
//   | 64 x u8 codes | f16 d |                                                         66 bytes
//
//   codes  byte l of 32 for each 128 values: of values l, l + 32, l + 64, l + 96, from the low bits on
//
// Entry: tq2_0_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/ggml_ternary.h"
#include "core/scheme/ggml_ternary_ref.h"
#include "core/scheme/super_block.h"

namespace quantd {
namespace {

void PackLevels(const int8_t* levels, uint8_t* block) {
  int8_t codes[kSuperBlockElems];
  for (int64_t i = 0; i < kSuperBlockElems; ++i) codes[i] = static_cast<int8_t>(levels[i] + 1);
  PackPairsOfBits(codes, block);
}

void UnpackLevels(const uint8_t* block, int8_t* levels) {
  UnpackPairsOfBits(block, levels);
  for (int64_t i = 0; i < kSuperBlockElems; ++i) levels[i] = static_cast<int8_t>(levels[i] - 1);
}

constexpr char kCodes[] =
    R"(Byte 32 * p + l of the codes, p 0 or 1, has the codes of values 128 * p + l, + 32, + 64 and + 96 in
bits 0 and 1, 2 and 3, 4 and 5, 6 and 7. A code 3 decodes as 2 * d'.
)";

constexpr TernaryFormat kFormat = {66, PackLevels, UnpackLevels, "| 64 x u8 codes | f16 d |", kCodes};

}  // namespace

const Scheme& tq2_0_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {
        .info = TernaryInfo("tq2_0", "ggml super-blocks of 256 ternary values, 2 bits each",
                            "ggml quantize_row_tq2_0_ref, while f16 holds the scale", kFormat),
        .plan = [](const SchemeInfo&, const QuantSpec& spec,
                   const TensorDesc& tensor) { return PlanTernary(kFormat, spec, tensor); },
        .resolve_constants = nullptr,
        .resolve = nullptr,
        .encode = [](const Resolved&, const Segment& segment, std::span<std::byte> out,
                     Counts* counts,
                     Meter* meter) { EncodeTernary(kFormat, segment, out, counts, meter); },
        .decode = [](const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                     TileSpan out) { DecodeTernary(kFormat, packed, out); },
        .encode_ref = EncodeTQ2Ref,
        .decode_ref = DecodeTQ2Ref};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
