// Entries: EncodeScaleRow and DecodeScaleRow. Tested by tests/core/scheme/segments_test.cc,
// reference_test.cc and golden_test.cc, through the schemes.
#include "core/scheme/scale_rows.h"

#include <algorithm>
#include <cmath>

#include "core/scheme/float_tile.h"
#include "core/scheme/k_rows.h"
#include "core/scheme/scale_search.h"

namespace quantd {
namespace {

constexpr int64_t kRunElems = kMinKRunElems;
constexpr int64_t kRunsPerBlock = kSuperBlockElems / kRunElems;

void Search(const ScaleRowFormat& format, const Segment& segment, const FloatTile& tile,
            KRuns& found, int8_t* levels) {
  const int64_t num_runs = tile.num_elems() / kRunElems;
  const ScaleSearch search = {-format.levels.lowest, kRunElems};
  if (segment.importance != nullptr) {
    float importance[kTileElems], energies[kMaxKRuns];
    CopyImportance(segment, kSuperBlockElems, importance);
    if (format.has_energies) {
      FillEnergies(tile.values(), tile.num_elems(), {kSuperBlockElems, kRunElems, 2, 1.0f / 256},
                   energies);
    }
    SearchScales(search, tile.values(), num_runs,
                 {importance, format.has_energies ? energies : nullptr}, found);
  } else if (format.descends) {
    DescendScales(tile.values(), num_runs, found, levels);
  } else {
    SearchScales(search, tile.values(), num_runs, {}, found);
  }
}

// Returns how many values of a block are lost to infinite or absent scales, but for those that lie
// outside of the levels anyhow.
int64_t CountLost(const float* scales, const KRunParams* params, bool has_d) {
  if (!has_d) return kSuperBlockElems;
  int64_t lost = 0;
  for (int64_t j = 0; j < kRunsPerBlock; ++j) {
    if (std::isnan(scales[j]) || !std::isfinite(params[j].scale)) lost += kRunElems;
  }
  return lost;
}

}  // namespace

float FurthestScale(const float* scales, int64_t count) {
  float furthest = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (std::fabs(scales[j]) > std::fabs(furthest)) furthest = scales[j];
  }
  return furthest;
}

void EncodeScaleRow(const ScaleRowFormat& format, const Segment& segment, std::span<std::byte> out,
                    Counts* counts, Meter* meter) {
  const FloatTile tile(segment.values, kSuperBlockElems, /*aligned=*/true);
  const int64_t num_runs = tile.num_elems() / kRunElems;
  const bool weighted = segment.importance != nullptr, descends = format.descends && !weighted;
  KRuns found;
  int8_t levels[kTileElems], descended[kTileElems];
  Search(format, segment, tile, found, descended);
  if (descends) {  // which has no factor of its levels
    std::fill_n(found.code_min, num_runs, 0.0f);
    std::fill_n(found.code_factor, num_runs, 0.0f);
  }
  auto* blocks = reinterpret_cast<uint8_t*>(out.data());
  KRunParams params[kMaxKRuns];
  for (int64_t run = 0; run < num_runs; run += kRunsPerBlock) {
    uint8_t* block = blocks + run / kRunsPerBlock * format.block_bytes;
    const bool has_d = format.make_scales(found, run, weighted, block);
    format.params(block, params + run);
    counts->clipped += CountLost(found.scale + run, params + run, has_d);
  }
  counts->clipped += EncodeKRuns(format.levels, tile.values(), num_runs, params, found, levels,
                                 LanesOfTile(segment.values, tile, meter));
  for (int64_t run = 0; run < num_runs; ++run) {
    if (!descends || params[run].scale != 0) continue;
    std::copy_n(descended + run * kRunElems, kRunElems, levels + run * kRunElems);
  }
  for (int64_t run = 0; run < num_runs; run += kRunsPerBlock) {
    int8_t* from = levels + run * kRunElems;
    if (format.is_zero(found, run)) {
      std::fill_n(from, kSuperBlockElems, static_cast<int8_t>(format.levels.lowest));
    }
    format.pack_levels(from, blocks + run / kRunsPerBlock * format.block_bytes);
  }
  MeasureDecoded(segment.values, tile, meter, [&](float* values) {
    DecodeKRuns(levels, kRunElems, num_runs, params, values);
  });
}

void DecodeScaleRow(const ScaleRowFormat& format, std::span<const std::byte> packed, TileSpan out) {
  DecodeTile(out, kSuperBlockElems, [&](int64_t first, int64_t num_blocks, float* values) {
    const auto* block = reinterpret_cast<const uint8_t*>(packed.data()) + first * format.block_bytes;
    for (int64_t i = 0; i < num_blocks; ++i, block += format.block_bytes) {
      int8_t levels[kSuperBlockElems];
      KRunParams params[kRunsPerBlock];
      format.unpack_levels(block, levels);
      format.params(block, params);
      DecodeKRuns(levels, kRunElems, kRunsPerBlock, params, values + i * kSuperBlockElems);
    }
  });
}

}  // namespace quantd
