// Entries: TernaryInfo and what stands beside it. Tested by tests/core/scheme/reference_test.cc and
// golden_test.cc, through the schemes.
#include "core/scheme/ggml_ternary.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/base/minifloat.h"
#include "core/base/status_macros.h"
#include "core/scheme/block.h"
#include "core/scheme/float_tile.h"
#include "core/scheme/k_quant_codes.h"
#include "core/scheme/super_block.h"

namespace quantd {
namespace {

constexpr int64_t kElems = kSuperBlockElems;

constexpr char kDefinition[] =
    R"(Blocks of 256 values of a row of the last axis, BYTES bytes each. Under `tail=pad` zeros fill the last
block of each row up. Everything is in f32, each operation rounded; values of f64 beyond f32's largest
are that, and all are rounded to f32.

    FIELDS

CODES
    d = the largest |x|, 65504 where that is 65520 or more
    i = 1 / d, 0 where d is 0 or 1 / d is infinite
    code = 2 where x * i is at least 0.5, 0 where it is at most -0.5, else 1
    stored d' = d rounded to f16, ties to even
    x' = d' * (code - 1)                                 in f32; wider types take that value

Clipped: |x * i| of 1.5 and more. ggml gives the same bytes as long as f16 holds d.

| plane | dtype | shape |
| --- | --- | --- |
| codes | uint8 | [.., ceil(L / 256) * BYTES] |
)";

}  // namespace

SchemeInfo TernaryInfo(absl::string_view name, absl::string_view summary, absl::string_view source,
                       const TernaryFormat& format) {
  SchemeInfo info;
  info.name = name;
  info.summary = summary;
  info.source = source;
  info.definition = absl::StrReplaceAll(kDefinition, {{"BYTES", absl::StrCat(format.block_bytes)},
                                                      {"FIELDS", format.fields},
                                                      {"CODES", format.codes}});
  info.bits_per_code = static_cast<double>(format.block_bytes * 8) / kElems;
  info.bits = 2;
  info.granularities = {{.kind = GranularityKind::kGroup, .group_elems = kElems}};
  info.roundings = {Rounding::kHalfAway};
  info.dialects = {{.name = "ggml"}};
  info.nonfinites = {NonFinite::kReject, NonFinite::kSaturate};
  info.tails = {Tail::kReject, Tail::kPad};
  return info;
}

absl::StatusOr<PackedLayout> PlanTernary(const TernaryFormat& format, const QuantSpec& spec,
                                         const TensorDesc& tensor) {
  QUANTD_ASSIGN_OR_RETURN(PackedLayout layout, PlanRowBlocks(*spec.tail, tensor.shape, kElems,
                                                             format.block_bytes));
  layout.atom_scales = true;
  return layout;
}

void EncodeTernary(const TernaryFormat& format, const Segment& segment, std::span<std::byte> out,
                   Counts* counts, Meter* meter) {
  const FloatTile tile(segment.values, kElems, /*aligned=*/false);
  const int64_t num_blocks = tile.num_elems() / kElems;
  uint16_t d[kTileElems / kElems];
  int8_t levels[kTileElems];
  counts->clipped += MakeTernary(tile.values(), num_blocks, d, levels,
                                 LanesOfTile(segment.values, tile, meter));
  auto* block = reinterpret_cast<uint8_t*>(out.data());
  for (int64_t i = 0; i < num_blocks; ++i, block += format.block_bytes) {
    format.pack(levels + i * kElems, block);
    std::memcpy(block + format.block_bytes - 2, d + i, sizeof(uint16_t));
  }
  MeasureDecoded(segment.values, tile, meter, [&](float* values) {
    DecodeTernary(format, out, {values, nullptr, tile.num_elems()});
  });
}

void DecodeTernary(const TernaryFormat& format, std::span<const std::byte> packed, TileSpan out) {
  DecodeTile(out, kElems, [&](int64_t first, int64_t num_blocks, float* values) {
    const auto* block = reinterpret_cast<const uint8_t*>(packed.data()) + first * format.block_bytes;
    for (int64_t i = 0; i < num_blocks; ++i, block += format.block_bytes) {
      int8_t levels[kElems];
      format.unpack(block, levels);
      const KRunParams params = {LoadHalf(block + format.block_bytes - 2), 0};
      DecodeKRuns(levels, kElems, 1, &params, values + i * kElems);
    }
  });
}

}  // namespace quantd
