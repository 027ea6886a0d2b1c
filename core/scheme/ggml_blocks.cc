// Entry: GgmlBlockScheme. Tested by tests/core/scheme/reference_test.cc and golden_test.cc, through
// the schemes.
#include "core/scheme/ggml_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/checked_math.h"
#include "core/base/copy_bytes.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/float_tile.h"
#include "core/scheme/k_quant_codes.h"
#include "core/scheme/scale_search.h"
#include "core/scheme/super_block.h"

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

constexpr char kWithoutMin[] =
    R"(    top = the x of largest |x|, the first of those; 0 where all are zeros
    d = top / -HALF;  65504 with its sign where |d| is 65520 or more
    i = 1 / d, 0 where d is 0
    v = x * i + HALF.5
    code = the whole part of clamp(v, 0, TOP);  all codes 0 where 1 / d is infinite
    stored d' = d rounded to f16, ties to even, a zero with its sign
    x' = (code - HALF) * d'                              in f32; wider types take that value

Clipped: v of COUNT and more, or of 0 and less, unless 1 / d is infinite. So a value that lies as far
from 0 as top on the other side is clipped, as in ggml.
)";

constexpr char kWithMin[] =
    R"(    lo, hi = least and largest x, of zeros the first
    lo = 65504 with its sign where |lo| is 65520 or more
    d = (hi - lo) / TOP;  65504 with its sign where |d| is 65520 or more
    i = 1 / d, 0 where d is 0
    v = (x - lo) * i + 0.5
    code = the whole part of clamp(v, 0, TOP);  all codes 0 where 1 / d is infinite
    stored d' = d and m' = lo, rounded to f16, ties to even, a zero with its sign
    x' = code * d' + m'                                  in f32; wider types take that value

Clipped: v of COUNT and more, or of 0 and less, unless 1 / d is infinite.
)";

constexpr char kWeighted[] = R"(
*With importance*, a weight p of each column: w = p * sqrt(s + x * x), s = (sum of x * x of the row) / N,
N being the elements of the row's blocks. The sum goes over the row's finite values in their order, from
0 on. What fills a block up has p = 0.

)";

constexpr char kWeightedScale[] =
    R"(    d and the levels are those of search(block, HALF, w) of `q6_k`;  code = level + HALF
    i = 1 / d, 0 where d is 0 or 1 / d infinite

Clipped: x * i of -HALF.5 and less, or of BELOW.5 and more. A block whose d is not finite is encoded
as without importance. Before i is made, d is 65504 with its sign where |d| is 65520 or more. It is
stored and decoded as above.
)";

constexpr char kWeightedMin[] =
    R"(    d, lo and codes are scale, -minimum and codes of search(block; -0.9, 0.05, 36) of `KROW`,
    with r(e) = e * e
    i = 1 / d, 0 where d is 0 or 1 / d infinite

Clipped: (x - lo) * i of -0.5 and less, or of TOP.5 and more. A block whose d or lo is not finite is
encoded as without importance. Before i is made, d and lo are 65504 with their sign where their magnitude
is 65520 or more. They are stored and decoded as above.
)";

constexpr char kTail[] = R"(
ggml's quantize_row_NAME_ref and, with importance, _impl give the same bytes as long as f16 holds
the parameters.

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
      absl::StrCat(kHead, format.has_min ? kWithMin : kWithoutMin, kWeighted,
                   format.has_min ? kWeightedMin : kWeightedScale, kTail),
      {{"BYTES", absl::StrCat(format.bytes())},
       {"FIELDS", fields},
       {"HIGH\n", high ? "Bit j mod 8 of byte j / 8 of `high` is bit 4 of code j.\n\n" : "\n"},
       {"HALF", absl::StrCat(1 << (format.bits - 1))},
       {"BELOW", absl::StrCat(format.zero_code() - 1)},
       {"KROW", high ? "q5_k" : "q4_k"},
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

// Groups are the rows, with their energy.
void PlanImportance(const TensorDesc& tensor, PackedLayout& layout) {
  GroupMap& groups = layout.groups;
  groups = {};
  groups.row_elems = groups.run_elems = std::max<int64_t>(tensor.shape.last_dim(), 1);
  groups.num_groups = tensor.shape.num_elems() / groups.row_elems;
  layout.working_bytes = sizeof(float);
  layout.band_evidence = kValues;
}

void ResolveRow(const Resolved& resolved, TileSpan finite, ParamPlanes out) {
  float squares = 0;
  finite.Visit([&](const auto* values) {
    for (int64_t i = 0; i < finite.num_elems; ++i) {
      const float x = NearestF32(values[i]);
      squares += x * x;
    }
  });
  const float energy =
      squares / static_cast<float>(RoundUp(resolved.layout.groups.run_elems, kElems));
  std::memcpy(out.working.data(), &energy, sizeof(energy));
}

// Writes the weights of the values, and the energies of their blocks.
void FillWeights(const Resolved& resolved, const Segment& segment, float* importance,
                 float* energies) {
  const GroupMap& groups = resolved.layout.groups;
  for (int64_t i = 0; i < segment.values.num_elems; i += kElems) {
    const int64_t elem = segment.first_elem + i;
    const int64_t count = std::min(kElems, segment.values.num_elems - i);
    std::fill_n(importance + i, kElems, 0.0f);
    CopyBytes(importance + i, segment.importance->At(elem),
              static_cast<size_t>(count) * sizeof(float));
    const int64_t row = groups.RunAt(elem).group - segment.params.first_group;
    std::memcpy(energies + i / kElems,
                segment.params.working.data() + row * int64_t{sizeof(float)}, sizeof(float));
  }
}

// Returns `v`, or f16's largest with its sign where f16 cannot hold it.
float Held(float v) { return std::fabs(v) < 65520 ? v : std::copysign(65504.0f, v); }

// Writes a block of codes 0 to max_code; returns how many of the `count` first values are clipped.
int64_t PackBlock(const GgmlBlockFormat& format, float d, float lo, const float* values,
                  int64_t count, const uint8_t* codes, uint8_t* block) {
  d = Held(d);
  lo = Held(lo);
  StoreHalf(d, block);
  if (format.has_min) StoreHalf(lo, block + 2);
  if (format.bits == 5) {
    uint8_t* high = block + format.high_bits_at();
    std::fill_n(high, 4, uint8_t{0});
    for (int i = 0; i < kElems; ++i) high[i / 8] |= static_cast<uint8_t>(codes[i] >> 4 << i % 8);
  }
  uint8_t* packed = block + format.codes_at();
  for (int i = 0; i < 16; ++i) {
    packed[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
  }
  const float inverse = d != 0 && std::isfinite(1 / d) ? 1 / d : 0;
  const auto low = -0.5f - static_cast<float>(format.zero_code());
  const float high = low + static_cast<float>(format.max_code() + 1);
  int64_t clipped = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float v = (values[i] - lo) * inverse;
    clipped += v <= low || v >= high;
  }
  return clipped;
}

// Writes the blocks of a tile with importance; returns how many values are clipped.
int64_t EncodeWeighted(const GgmlBlockFormat& format, const Resolved& resolved,
                       const Segment& segment, const FloatTile& tile, std::byte* out) {
  const int64_t num_blocks = tile.num_elems() / kElems;
  alignas(64) float importance[kTileElems];
  float energies[kTileElems / kElems];
  FillWeights(resolved, segment, importance, energies);
  KRuns found;
  if (format.has_min) {
    const KSearch search = {static_cast<float>(format.max_code()), -0.9f, 0.05f, 36, kElems,
                            /*adds_average=*/false, /*by_absolute_error=*/false};
    SearchKRuns(search, tile.values(), num_blocks, {importance, energies}, found);
  } else {
    SearchScales({format.zero_code(), kElems}, tile.values(), num_blocks, {importance, energies},
                 found);
  }
  const KRunParams none[kTileElems / kElems] = {};  // which leaves the levels of the search
  int8_t levels[kTileElems];
  const int lowest = -format.zero_code();
  EncodeKRuns({lowest, lowest + format.max_code(), kElems}, tile.values(), num_blocks, none, found,
              levels, nullptr);
  int64_t clipped = 0;
  for (int64_t run = 0; run < num_blocks; ++run, out += format.bytes()) {
    const float* values = tile.values() + run * kElems;
    const float d = found.scale[run], lo = format.has_min ? -found.min[run] : 0;
    if (!std::isfinite(d) || !std::isfinite(lo)) {
      clipped += EncodeGgmlBlocks(format, values, 1, out, nullptr);
      continue;
    }
    uint8_t codes[kElems];
    for (int64_t i = 0; i < kElems; ++i) {
      codes[i] = static_cast<uint8_t>(levels[run * kElems + i] - lowest);
    }
    const int64_t count = std::min(kElems, segment.values.num_elems - run * kElems);
    clipped += PackBlock(format, d, lo, values, count, codes, reinterpret_cast<uint8_t*>(out));
  }
  return clipped;
}

// Adds a segment to `meter`, run by run of the groups.
void MeasureRuns(const GgmlBlockFormat& format, const Resolved& resolved, const Segment& segment,
                 const FloatTile& tile, const std::byte* blocks, Meter* meter) {
  if (meter == nullptr) return;
  alignas(64) float narrow[kTileElems];
  DecodeGgmlBlocks(format, blocks, tile.num_elems() / kElems, narrow);
  const int64_t num_elems = segment.values.num_elems;
  segment.values.Visit([&]<typename T>(const T* values) {
    T decoded[kTileElems];
    std::copy_n(narrow, num_elems, decoded);
    ForEachRun(resolved.layout.groups, segment.first_elem, num_elems,
               [&](int64_t begin, int64_t count) {
                 MeasureSegment(values + begin, decoded + begin, count, meter->lanes<T>());
               });
  });
}

void Encode(const Resolved& resolved, const Segment& segment, std::span<std::byte> out,
            Counts* counts, Meter* meter) {
  const GgmlBlockFormat format = FormatOf(resolved);
  if (segment.importance != nullptr) {
    const FloatTile tile(segment.values, kElems, /*aligned=*/true);
    counts->clipped += EncodeWeighted(format, resolved, segment, tile, out.data());
    MeasureRuns(format, resolved, segment, tile, out.data(), meter);
    return;
  }
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
  EncodeGgmlBlocksRef(FormatOf(resolved), resolved, segment, out, counts);
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
                   .plan_importance = PlanImportance,
                   .resolve_constants = nullptr,
                   .resolve = nullptr,
                   .resolve_values = ResolveRow,
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
  info.takes_importance = true;
  return scheme;
}

}  // namespace quantd
