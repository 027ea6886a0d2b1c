// tq1_0: ggml's TQ1_0: ternary values (core/scheme/ggml_ternary.h), five of them in a byte; 1.6875 bits a
// value, of 1.585 that there can be.
//
//   | 48 x u8 codes | 4 x u8 rest | f16 d |                                           54 bytes
//
//   byte = ceil(256 / 243 * (81 a + 27 b + 9 c + 3 d + e)) with codes of 0 to 2, so that the first one is
//          the whole part of 3 / 256 times the byte, and the byte's product with 3, less that times 256,
//          has the second first
//   codes  32 bytes with values l + 32 * n, n from 0 to 4, then 16 bytes with 160 + l + 16 * n
//   rest   values 240 + l + 4 * n, n from 0 to 3; the fifth code is 0
//
// Entry: tq1_0_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/ggml_ternary.h"
#include "core/scheme/ggml_ternary_ref.h"

namespace quantd {
namespace {

// Calls fn(bytes, values, count, trits) for the parts of a block: `count` bytes from `bytes` on, with
// `trits` codes each, that of trit n and byte l being value values + l + count * n.
template <class Fn>
void ForEachPart(Fn fn) {
  fn(0, 0, 32, 5);
  fn(32, 160, 16, 5);
  fn(48, 240, 4, 4);
}

void PackLevels(const int8_t* levels, uint8_t* block) {
  ForEachPart([&](int bytes, int values, int count, int trits) {
    for (int l = 0; l < count; ++l) {
      int sum = 0;
      for (int n = 0; n < 5; ++n) {
        sum = 3 * sum + (n < trits ? levels[values + l + count * n] + 1 : 0);
      }
      block[bytes + l] = static_cast<uint8_t>((sum * 256 + 242) / 243);
    }
  });
}

void UnpackLevels(const uint8_t* block, int8_t* levels) {
  ForEachPart([&](int bytes, int values, int count, int trits) {
    for (int n = 0, power = 1; n < trits; ++n, power *= 3) {
      for (int l = 0; l < count; ++l) {
        const auto rest = static_cast<uint8_t>(block[bytes + l] * power);
        levels[values + l + count * n] = static_cast<int8_t>((rest * 3 >> 8) - 1);
      }
    }
  });
}

constexpr char kCodes[] =
    R"(A byte has five codes a, b, c, d, e of 0 to 2: it is 256 * (81 * a + 27 * b + 9 * c + 3 * d + e) / 243,
rounded up. Of a byte B, code n (a is 0) is ((B * 3^n mod 256) * 3) / 256, rounded down. Code n of byte l of
`codes` is that of value l + 32 * n where l is below 32, else of value 160 + (l - 32) + 16 * n; code n of
byte l of `rest` that of value 240 + l + 4 * n, its e is 0.
)";

constexpr TernaryFormat kFormat = {54, PackLevels, UnpackLevels, "| 48 x u8 codes | 4 x u8 rest | f16 d |", kCodes};

}  // namespace

const Scheme& tq1_0_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {
        .info = TernaryInfo("tq1_0", "ggml super-blocks of 256 ternary values, five in a byte",
                            "ggml quantize_row_tq1_0_ref, while f16 holds the scale", kFormat),
        .plan = [](const SchemeInfo&, const QuantSpec& spec,
                   const TensorDesc& tensor) { return PlanTernary(kFormat, spec, tensor); },
        .resolve_constants = nullptr,
        .resolve = nullptr,
        .encode = [](const Resolved&, const Segment& segment, std::span<std::byte> out,
                     Counts* counts,
                     Meter* meter) { EncodeTernary(kFormat, segment, out, counts, meter); },
        .decode = [](const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                     TileSpan out) { DecodeTernary(kFormat, packed, out); },
        .encode_ref = EncodeTQ1Ref,
        .decode_ref = DecodeTQ1Ref};
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
