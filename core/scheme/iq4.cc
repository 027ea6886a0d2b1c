// Entries: EncodeIq4 and DecodeIq4. Tested by tests/core/scheme/segments_test.cc, reference_test.cc and
// golden_test.cc, through the schemes.
#include "core/scheme/iq4.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/scheme/float_tile.h"
#include "core/scheme/k_quant_codes.h"
#include "core/scheme/k_rows.h"
#include "core/scheme/scale_rows.h"

namespace quantd {
namespace {

constexpr int64_t kRunElems = kMaxKRunElems;
constexpr int64_t kMostRuns = kTileElems / kRunElems;
constexpr int64_t kScaleRunsPerBlock = 8;  // of iq4_xs

// Writes d; adds the values that it loses.
void StoreScale(float d, int64_t num_elems, uint8_t* to, Counts* counts) {
  const bool has_d = StoreHalf(d, to);
  if (!has_d || !std::isfinite(LoadHalf(to))) counts->clipped += num_elems;
}

// Writes d and scales of a block of iq4_xs, and makes `scales` what its codes are made with.
void MakeScales(float* scales, uint8_t* block, Counts* counts) {
  const float d = -FurthestScale(scales, kScaleRunsPerBlock) / 32;
  const float inverse = d != 0 ? 1 / d : 0;
  int high = 0;
  StoreScale(d, kSuperBlockElems, block, counts);
  std::fill_n(block + 4, 4, uint8_t{0});
  for (int j = 0; j < kScaleRunsPerBlock; ++j) {
    if (std::isnan(scales[j]) && std::isfinite(LoadHalf(block))) counts->clipped += kRunElems;
    const int scale = std::clamp(NearestByBits(inverse * scales[j]), -32, 31);
    scales[j] = d * static_cast<float>(scale);
    block[4 + j / 2] |= static_cast<uint8_t>(((scale + 32) & 15) << 4 * (j % 2));
    high |= (scale + 32) >> 4 << 2 * j;
  }
  block[2] = static_cast<uint8_t>(high & 0xFF);
  block[3] = static_cast<uint8_t>(high >> 8);
}

// What the runs of a block are decoded with.
void ScalesOf(const Iq4Format& format, const uint8_t* block, float* scales) {
  const float d = LoadHalf(block);
  if (!format.has_scales) {
    scales[0] = d;
    return;
  }
  for (int j = 0; j < kScaleRunsPerBlock; ++j) {
    const int high = (block[2] | block[3] << 8) >> 2 * j & 3;
    const int low = block[4 + j / 2] >> 4 * (j % 2) & 15;
    scales[j] = d * static_cast<float>((low | high << 4) - 32);
  }
}

}  // namespace

void EncodeIq4(const Iq4Format& format, const Segment& segment, std::span<std::byte> out,
               Counts* counts, Meter* meter) {
  const FloatTile tile(segment.values, format.block_elems(), /*aligned=*/false);
  const int64_t num_runs = tile.num_elems() / kRunElems;
  const int64_t runs_per_block = format.block_elems() / kRunElems;
  KRuns found;
  if (segment.importance != nullptr) {
    float importance[kTileElems], energies[kMaxKRuns];
    CopyImportance(segment, format.block_elems(), importance);
    FillEnergies(tile.values(), tile.num_elems(),
                 {format.block_elems(), kRunElems, 1,
                  2.0f / static_cast<float>(format.block_elems())},
                 energies);
    SearchScales({0, kRunElems}, tile.values(), num_runs, {importance, energies}, found);
  } else {
    SearchScales({0, kRunElems}, tile.values(), num_runs, {}, found);
  }
  auto* blocks = reinterpret_cast<uint8_t*>(out.data());
  float inverses[kMostRuns], scales[kMostRuns];
  for (int64_t run = 0; run < num_runs; run += runs_per_block) {
    uint8_t* block = blocks + run / runs_per_block * format.block_bytes();
    if (format.has_scales) {
      MakeScales(found.scale + run, block, counts);
    } else {
      StoreScale(found.scale[run], kRunElems, block, counts);
    }
    ScalesOf(format, block, scales + run);
  }
  for (int64_t run = 0; run < num_runs; ++run) {
    inverses[run] = found.scale[run] != 0 ? 1 / found.scale[run] : 0;
  }
  uint8_t codes[kTileElems];
  counts->clipped += EncodeIq4Runs(tile.values(), num_runs, inverses, scales, codes,
                                   LanesOfTile(segment.values, tile, meter));
  for (int64_t run = 0; run < num_runs; ++run) {
    const uint8_t* from = codes + run * kRunElems;
    uint8_t* to = blocks + run / runs_per_block * format.block_bytes() + format.codes_at() +
                  run % runs_per_block * 16;
    for (int64_t j = 0; j < 16; ++j) to[j] = static_cast<uint8_t>(from[j] | from[j + 16] << 4);
  }
  MeasureDecoded(segment.values, tile, meter, [&](float* values) {
    DecodeIq4(format, out, {values, nullptr, tile.num_elems()});
  });
}

void DecodeIq4(const Iq4Format& format, std::span<const std::byte> packed, TileSpan out) {
  const int64_t runs_per_block = format.block_elems() / kRunElems;
  DecodeTile(out, format.block_elems(), [&](int64_t first, int64_t num_blocks, float* values) {
    const auto* block =
        reinterpret_cast<const uint8_t*>(packed.data()) + first * format.block_bytes();
    for (int64_t i = 0; i < num_blocks; ++i, block += format.block_bytes()) {
      float scales[kScaleRunsPerBlock];
      KRunParams params[kScaleRunsPerBlock];
      int8_t levels[kSuperBlockElems];
      ScalesOf(format, block, scales);
      for (int64_t run = 0; run < runs_per_block; ++run) {
        const uint8_t* codes = block + format.codes_at() + 16 * run;
        int8_t* to = levels + kRunElems * run;
        params[run] = {scales[run], 0};
        for (int64_t j = 0; j < 16; ++j) {
          to[j] = kIq4Levels[codes[j] & 15];
          to[j + 16] = kIq4Levels[codes[j] >> 4];
        }
      }
      DecodeKRuns(levels, kRunElems, runs_per_block, params, values + i * format.block_elems());
    }
  });
}

}  // namespace quantd
