// Entries: EncodeKRow and DecodeKRow. Tested by tests/core/scheme/segments_test.cc,
// reference_test.cc and golden_test.cc, through the schemes.
#include "core/scheme/k_rows.h"

#include <algorithm>
#include <cmath>

#include "core/base/copy_bytes.h"
#include "core/scheme/float_tile.h"
#include "core/scheme/k_quant_codes.h"

namespace quantd {
namespace {

// What the runs of a block are decoded with.
void ParamsOf(const KRowFormat& format, const uint8_t* block, KRunParams* params) {
  KScaleCodes codes;
  format.unpack(block, codes);
  const float d = LoadHalf(block + format.d_at), dmin = LoadHalf(block + format.dmin_at);
  for (int64_t j = 0; j < format.runs_per_block(); ++j) {
    params[j] = {d * codes.scale[j], dmin * codes.min[j]};
  }
}

// Gives the largest of `values`, 0 at least, the largest code. Returns the factor of the codes.
float ScaleCodesByLargest(const KRowFormat& format, std::span<const float> values, uint8_t* codes) {
  const auto top = static_cast<float>(format.max_scale_code);
  float largest = 0;
  for (const float value : values) {
    if (value > largest) largest = value;
  }
  const float inverse = largest > 0 ? top / largest : 0;
  for (size_t j = 0; j < values.size(); ++j) {
    const auto code = static_cast<uint8_t>(NearestByBits(inverse * values[j]));
    codes[j] = static_cast<uint8_t>(std::min<int>(format.clamp_scale_code, code));
  }
  return largest / top;
}

// Writes all of a block but its codes; false if it has lost its d.
bool MakeScales(const KRowFormat& format, const KRuns& found, int64_t run, bool weighted,
                uint8_t* block) {
  const auto num_runs = static_cast<size_t>(format.runs_per_block());
  const std::span<const float> scales(found.scale + run, num_runs), mins(found.min + run, num_runs);
  KScaleCodes codes;
  float d, dmin;
  if (weighted) {
    const std::span<const float> weights(found.weight + run, num_runs);
    d = SearchScaleCodes(format.max_scale_code, scales, weights, {codes.scale, num_runs});
    dmin = SearchScaleCodes(format.max_scale_code, mins, weights, {codes.min, num_runs});
  } else {
    d = ScaleCodesByLargest(format, scales, codes.scale);
    dmin = ScaleCodesByLargest(format, mins, codes.min);
  }
  format.pack(codes, block);
  StoreHalf(dmin, block + format.dmin_at);
  return StoreHalf(d, block + format.d_at);
}

// Returns how many values of a block are lost to infinite or absent parameters, but for those that
// lie outside of the codes anyhow.
int64_t CountLost(const KRowFormat& format, const KRunParams* params, bool has_d) {
  if (!has_d) return kSuperBlockElems;
  return format.plain.run_elems *
         std::count_if(params, params + format.runs_per_block(), [](const KRunParams& run) {
           return !std::isfinite(run.scale) || (run.scale == 0 && !std::isfinite(run.min));
         });
}

}  // namespace

void PackScalesOf6Bits(const KScaleCodes& from, uint8_t* to) {
  for (int j = 0; j < 4; ++j) {
    to[j] = static_cast<uint8_t>(from.scale[j] | from.scale[j + 4] >> 4 << 6);
    to[j + 4] = static_cast<uint8_t>(from.min[j] | from.min[j + 4] >> 4 << 6);
    to[j + 8] = static_cast<uint8_t>((from.scale[j + 4] & 0x0F) | from.min[j + 4] << 4);
  }
}

void UnpackScalesOf6Bits(const uint8_t* from, KScaleCodes& to) {
  for (int j = 0; j < 4; ++j) {
    to.scale[j] = from[j] & 63;
    to.min[j] = from[j + 4] & 63;
    to.scale[j + 4] = static_cast<uint8_t>((from[j + 8] & 0x0F) | from[j] >> 6 << 4);
    to.min[j + 4] = static_cast<uint8_t>(from[j + 8] >> 4 | from[j + 4] >> 6 << 4);
  }
}

void FillEnergies(const float* values, int64_t num_elems, const EnergyOfBlocks& of,
                  float* energies) {
  for (int64_t block = 0; block < num_elems; block += of.block_elems) {
    float squares = 0;
    for (int64_t i = block; i < block + of.block_elems; ++i) squares += values[i] * values[i];
    std::fill_n(energies + block / of.run_elems, of.block_elems / of.run_elems,
                of.factor * squares * of.share);
  }
}

void CopyImportance(const Segment& segment, int64_t block_elems, float* importance) {
  for (int64_t i = 0; i < segment.values.num_elems; i += block_elems) {
    CopyBytes(importance + i, segment.importance->At(segment.first_elem + i),
              static_cast<size_t>(block_elems) * sizeof(float));
  }
}

void EncodeKRow(const KRowFormat& format, const Segment& segment, std::span<std::byte> out,
                Counts* counts, Meter* meter) {
  const FloatTile tile(segment.values, kSuperBlockElems, /*aligned=*/true);
  const int64_t num_runs = tile.num_elems() / format.plain.run_elems;
  const bool weighted = segment.importance != nullptr;
  KRuns found;
  if (weighted) {
    float importance[kTileElems], energies[kMaxKRuns];
    CopyImportance(segment, kSuperBlockElems, importance);
    FillEnergies(tile.values(), tile.num_elems(),
                 {kSuperBlockElems, format.plain.run_elems, format.energy_factor, 1.0f / 256},
                 energies);
    SearchKRuns(format.weighted, tile.values(), num_runs, {importance, energies}, found);
  } else {
    SearchKRuns(format.plain, tile.values(), num_runs, {}, found);
  }
  auto* blocks = reinterpret_cast<uint8_t*>(out.data());
  KRunParams params[kMaxKRuns];
  uint8_t* block = blocks;
  for (int64_t run = 0; run < num_runs; run += format.runs_per_block()) {
    const bool has_d = MakeScales(format, found, run, weighted, block);
    ParamsOf(format, block, params + run);
    counts->clipped += CountLost(format, params + run, has_d);
    block += format.block_bytes;
  }
  int8_t codes[kTileElems];
  const KLevels levels = {0, format.highest, format.plain.run_elems};
  counts->clipped += EncodeKRuns(levels, tile.values(), num_runs, params, found, codes,
                                 LanesOfTile(segment.values, tile, meter));
  for (int64_t i = 0; i < tile.num_elems(); i += kSuperBlockElems, blocks += format.block_bytes) {
    format.pack_codes(codes + i, blocks);
  }
  MeasureDecoded(segment.values, tile, meter, [&](float* values) {
    DecodeKRuns(codes, format.plain.run_elems, num_runs, params, values);
  });
}

void DecodeKRow(const KRowFormat& format, std::span<const std::byte> packed, TileSpan out) {
  DecodeTile(out, kSuperBlockElems, [&](int64_t first, int64_t num_blocks, float* values) {
    const auto* block = reinterpret_cast<const uint8_t*>(packed.data()) + first * format.block_bytes;
    for (int64_t i = 0; i < num_blocks; ++i, block += format.block_bytes) {
      int8_t codes[kSuperBlockElems];
      KRunParams params[kMaxKRunsPerBlock];
      format.unpack_codes(block, codes);
      ParamsOf(format, block, params);
      DecodeKRuns(codes, format.plain.run_elems, format.runs_per_block(), params,
                  values + i * kSuperBlockElems);
    }
  });
}

}  // namespace quantd
