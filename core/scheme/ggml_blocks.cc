// Entry: GgmlBlockScheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc, through
// the schemes.
#include "core/scheme/ggml_blocks.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/float_tile.h"

namespace quantd {
namespace {

constexpr int64_t kElems = GgmlBlockFormat::kElems;

// Of a row's info: only the formats without a minimum have signed codes.
GgmlBlockFormat FormatOf(const Resolved& resolved) {
  return {.bits = resolved.info->bits, .has_min = !resolved.info->is_signed};
}

constexpr char kHead[] =
    R"(Blocks of 32 values of a row of the last axis, BYTES bytes each. Under `tail=pad` zeros fill the last
block of each row up. Everything is in f32, each operation rounded; values of f64 beyond f32's largest
are that, and all are rounded to f32.

    FIELDS

Byte j of `codes` has the low 4 bits of code j in its low nibble, those of code j + 16 in the high one.
HIGH
)";

constexpr char kWithoutMin[] = R"(    top = the x of largest |x|, the first of those; 0 where all are zeros
    d = top / -HALF;  65504 with its sign where |d| is 65520 or more
    i = 1 / d, 0 where d is 0
    v = x * i + HALF.5
    code = the whole part of clamp(v, 0, TOP);  all codes 0 where 1 / d is infinite
    stored d' = d rounded to f16, ties to even, a zero with its sign
    x' = (code - HALF) * d'                              in f32; wider types take that value

Clipped: v of COUNT and more, or of 0 and less, unless 1 / d is infinite. So a value that lies as far
from 0 as top on the other side is clipped, as in ggml.
)";

constexpr char kWithMin[] = R"(    lo, hi = least and largest x, of zeros the first;  lo = 65504 with its sign where |lo| is 65520 or more
    d = (hi - lo) / TOP;  65504 with its sign where |d| is 65520 or more
    i = 1 / d, 0 where d is 0
    v = (x - lo) * i + 0.5
    code = the whole part of clamp(v, 0, TOP);  all codes 0 where 1 / d is infinite
    stored d' = d and m' = lo, rounded to f16, ties to even, a zero with its sign
    x' = code * d' + m'                                  in f32; wider types take that value

Clipped: v of COUNT and more, or of 0 and less, unless 1 / d is infinite.
)";

constexpr char kTail[] = R"(
ggml's quantize_row_NAME_ref gives the same bytes as long as f16 holds its parameters.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., ceil(L / 32) * BYTES] |
)";

std::string DefinitionOf(absl::string_view name, const GgmlBlockFormat& format) {
  const bool high = format.bits == 5;
  const std::string fields =
      absl::StrCat("| f16 d ", format.has_min ? "| f16 m " : "", high ? "| 4 x u8 high " : "",
                   "| 16 x u8 codes |");
  return absl::StrReplaceAll(
      absl::StrCat(kHead, format.has_min ? kWithMin : kWithoutMin, kTail),
      {{"BYTES", absl::StrCat(format.bytes())},
       {"FIELDS", fields},
       {"HIGH\n", high ? "Bit j mod 8 of byte j / 8 of `high` is bit 4 of code j.\n\n" : "\n"},
       {"HALF", absl::StrCat(1 << (format.bits - 1))},
       {"TOP", absl::StrCat(format.max_code())},
       {"COUNT", absl::StrCat(format.max_code() + 1)},
       {"NAME", name}});
}

absl::StatusOr<PackedLayout> Plan(const SchemeInfo& info, const QuantSpec& spec,
                                  const TensorDesc& tensor) {
  const GgmlBlockFormat format = {.bits = info.bits, .has_min = !info.is_signed};
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout,
                          PlanRowBlocks(*spec.tail, tensor.shape, kElems, format.bytes()));
  layout.atom_scales = true;
  return layout;
}

void Encode(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
            Counts* counts, Meter* meter) {
  const GgmlBlockFormat format = FormatOf(resolved);
  const FloatTile tile(segment.values, kElems, /*aligned=*/false);
  const int64_t num_blocks = tile.num_elems() / kElems;
  counts->clipped += EncodeGgmlBlocks(format, tile.values(), num_blocks, out.data(),
                                      LanesOfTile(segment.values, tile, meter));
  MeasureDecoded(segment.values, tile, meter, [&](float* values) {
    DecodeGgmlBlocks(format, out.data(), num_blocks, values);
  });
}

void Decode(const Resolved& resolved, std::span<const std::byte> codes, const ParamView&, int64_t,
            TileSpan out) {
  const GgmlBlockFormat format = FormatOf(resolved);
  DecodeTile(out, kElems, [&](int64_t block, int64_t num_blocks, float* values) {
    DecodeGgmlBlocks(format, codes.data() + block * format.bytes(), num_blocks, values);
  });
}

void EncodeRef(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
               Counts* counts) {
  EncodeGgmlBlocksRef(FormatOf(resolved), segment, out, counts);
}

void DecodeRef(const Resolved& resolved, std::span<const std::byte> codes, const ParamView&,
               int64_t, TileSpan out) {
  DecodeGgmlBlocksRef(FormatOf(resolved), codes, out);
}

}  // namespace

Scheme GgmlBlockScheme(absl::string_view name, absl::string_view summary, absl::string_view source,
                       const GgmlBlockFormat& format) {
  Scheme scheme = {.info = {},
                   .plan = Plan,
                   .resolve_constants = nullptr,
                   .resolve = nullptr,
                   .encode = Encode,
                   .decode = Decode,
                   .encode_ref = EncodeRef,
                   .decode_ref = DecodeRef};
  SchemeInfo& info = scheme.info;
  info.name = name;
  info.summary = summary;
  info.source = source;
  info.definition = DefinitionOf(name, format);
  info.bits_per_code = static_cast<double>(format.bytes() * 8) / kElems;
  info.bits = format.bits;
  info.is_signed = !format.has_min;
  info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kElems}};
  info.roundings = {Rounding::kHalfUp};
  info.dialects = {{.name = "ggml"}};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kPad};
  return scheme;
}

}  // namespace quantd
