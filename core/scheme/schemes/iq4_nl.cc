// iq4_nl: ggml's IQ4_NL: blocks of 32 values in 4 bits, with 16 levels that lie the closer, the nearer
// to 0, as weights do, and a scale that is searched for; 4.5 bits a value. What GGUF files of the IQ
// kinds fall back to where rows are no multiple of 256. Formula and bytes: core/scheme/iq4.h.
//
// Against q4_0, of the same size, less error on bell-shaped values, for 16 tries of each scale. Against
// nf4, an f16 scale inside, and none of its levels is 0.
//
// Entry: iq4_nl_scheme. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc.
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/iq4.h"
#include "core/scheme/super_block.h"

namespace quantd {
namespace {

constexpr Iq4Format kFormat = {.has_scales = false};

constexpr char kDefinition[] =
    R"(Blocks of 32 values of a row of the last axis, which must be whole blocks. Everything is in f32, each
operation rounded, sums in the order of elements from 0 on. Values of f64 beyond f32's largest are
that, and all are rounded to f32. A block is 18 bytes:

    | f16 d | 16 x u8 codes |

Byte j of the codes has index j in its low nibble, index j + 16 in the high one. Levels T by index:
-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113.

    x' = d * T[index]                                    in f32; wider types take that value

*Encoding.* index(v) = the largest j with v + v >= T[j - 1] + T[j], 0 where there is none or v is NaN.

    search(run of 32, w):
      top = the x of largest |x|, the first of those;  |top| < 1e-15: scale 0, done
      for i = 1 / (top / 127), then (k - 127) / top, k from -7 to 7:
        q = T[index(i * x)];  X = sum of (w * q) * x;  Q = sum of (w * q) * q
        first i: scale = X / Q, 0 unless Q > 0;  best = scale * X
        others, where Q > 0 and X * X > best * Q: scale = X / Q;  best = scale * X

w = x * x; with importance p, one of each column, w = p * sqrt(s + x * x), s = (sum of x * x of the block)
* (2 / 32). i = 1 / scale, 0 where scale is 0; index = index(i * x). d = scale rounded to f16, ties to even,
NaN to 0, what is too large to infinity. Clipped: i * x at most -138.5 or at least 125; and once more all of
a block whose d was NaN or is infinite.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., L / 32 * 18] |
)";

}  // namespace

const Scheme& iq4_nl_scheme() {
  static const Scheme kScheme = [] {
    Scheme scheme = {
        .info = SuperBlockInfo(
            "iq4_nl", "ggml blocks of 32 in 4 bits, uneven levels, scale searched for",
            "ggml 0.20.2 quantize_iq4_nl, built without FMA, while f16 holds the scale", 4, 0),
        .plan = [](const SchemeInfo&, const QuantSpec& spec,
                   const TensorDesc& tensor) -> absl::StatusOr<PackedLayout> {
          QUANTD_ASSIGN_OR_RETURN(
              PackedLayout layout,
              PlanRowBlocks(*spec.tail, tensor.shape, kFormat.block_elems(), kFormat.block_bytes()));
          layout.atom_scales = true;
          return layout;
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
    info.granularities[0].group_elems = kFormat.block_elems();
    info.bits_per_code = 4.5;
    info.roundings = {Rounding::kHalfUp};
    info.definition = kDefinition;
    return scheme;
  }();
  return kScheme;
}

}  // namespace quantd
