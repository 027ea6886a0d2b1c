// iq4_xs: ggml's IQ4_XS: iq4_nl with scales of 6 bits in super-blocks of 256 values; 4.25 bits a value,
// a quarter less than q4_k for about the same error. Formula and bytes: core/scheme/iq4.h.
//
// Entry: iq4_xs_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/scheme/iq4.h"
#include "core/scheme/super_block.h"

namespace quantd {
namespace {

constexpr Iq4Format kFormat = {.has_scales = true};

constexpr char kDefinition[] =
    R"(    | f16 d | u16 high | 4 x u8 low | 128 x u8 codes |

Byte 16 * j + l of the codes, l from 0 to 15, has the index of value 32 * j + l in its low nibble, that of
value 32 * j + 16 + l in the high one. Run j has a scale code sc = (a | b << 4) - 32, a the low nibble of
byte j / 2 of `low` where j is even, else the high one, b = (high >> 2 * j) & 3. T, index() and search()
are those of iq4_nl.

    x' = (d * sc) * T[index]                             in f32; wider types take that value

*Encoding.* S = search(run, w) of each run, w = x * x; with importance p, one of each column, w = p *
sqrt(s + x * x), s = (sum of x * x of the block) * (2 / 256). m is the S of largest |S|, the first of those,
0 if there is none above 0.

    D = -m / 32;  i = 1 / D, 0 where D is 0
    sc = clamp(near(i * S), -32, 31)          near(v) = (bits(v + 12582912) & 0x7FFFFF) - 0x400000
    t = D * sc;  r = 1 / t, 0 where t is 0;  index = index(r * x)

with bits the binary32 as an integer: rint for |v| up to 2^22. d = D rounded to f16, ties to even, NaN to 0,
what is too large to infinity. Clipped: r * x at most -138.5 or at least 125; and once more all of a block
whose d is infinite, or else all of a run whose S is NaN.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L / 256 * 136] |
)";

}  // namespace

const Scheme& iq4_xs_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {
        .info = SuperBlockInfo(
            "iq4_xs", "ggml super-blocks of 256 in 4 bits, uneven levels, scales searched for",
            "ggml 0.20.2 quantize_iq4_xs, built without FMA, while f16 holds the scale", 4,
            kFormat.block_bytes()),
        .plan = [](const SchemeInfo&, const QuantSpec& spec, const TensorDesc& tensor) {
          return PlanSuperBlocks(spec, tensor, kFormat.block_bytes());
        },
        .resolve_constants = nullptr,
        .resolve = nullptr,
        .encode = [](const Resolved&, const Segment& segment, std::span<std::byte> out,
                     Counts* counts,
                     Meter* meter) { EncodeIq4(kFormat, segment, out, counts, meter); },
        .decode = [](const Resolved&, std::span<const std::byte> packed, const ParamView&, int64_t,
                     TileSpan out) { DecodeIq4(kFormat, packed, out); },
        .encode_ref = [](const Resolved&, const Segment& segment, std::span<std::byte> out,
                         Counts* counts) { EncodeIq4Ref(kFormat, segment, out, counts); },
        .decode_ref = [](const Resolved&, std::span<const std::byte> packed, const ParamView&,
                         int64_t, TileSpan out) { DecodeIq4Ref(kFormat, packed, out); }};
    SchemeInfo& info = scheme.info;
    info.roundings = {Rounding::kHalfUp};
    info.definition = SuperBlockDefinition(kDefinition, "8 runs of 32", kFormat.block_bytes());
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
