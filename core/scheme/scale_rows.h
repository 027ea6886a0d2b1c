#ifndef QUANTD_CORE_SCHEME_SCALE_ROWS_H_
#define QUANTD_CORE_SCHEME_SCALE_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/k_quant_codes.h"
#include "core/scheme/scheme.h"

namespace quantd {

// The K-quants without minima: q3_k and q6_k. A row brings how its super-block lies in memory, and
// what the codes of its scales are:
//
//   x' = (d * scale code) * level        by run of 16, each product rounded
//
// Scales, of either sign, are searched for (scale_search.h), and the furthest of them from 0 becomes
// the lowest scale code; so d is negative where that is positive. Then levels are made again, with
// what is stored: nearest(x / (d * scale code)), or where that divisor is 0, as found first.
//
// The bytes are those of ggml 0.20.2 built without contraction, as for k_rows.h, with its infinite d:
// values that do not come back for that, or for a scale that is NaN, count as clipped.
struct ScaleRowFormat {
  int64_t block_bytes;
  KLevels levels;
  bool descends;      // without importance: by DescendScales
  bool has_energies;  // with importance: those of KWeights
  // Writes d and the scale codes of a block, whose runs begin with `run`; false if d was NaN, which
  // is 0 then.
  bool (*make_scales)(const KRuns& found, int64_t run, bool weighted, uint8_t* block);
  // Returns whether all of a block is zero bytes.
  bool (*is_zero)(const KRuns& found, int64_t run);
  void (*params)(const uint8_t* block, KRunParams* params);
  void (*pack_levels)(const int8_t* levels, uint8_t* block);
  void (*unpack_levels)(const uint8_t* block, int8_t* levels);
};

// Scheme::encode and decode of a row.
void EncodeScaleRow(const ScaleRowFormat& format, const Segment& segment, std::span<std::byte> out,
                    Counts* counts, Meter* meter);
void DecodeScaleRow(const ScaleRowFormat& format, std::span<const std::byte> packed, TileSpan out);

// Returns the scale that is furthest from 0, of two the first, or 0.
float FurthestScale(const float* scales, int64_t count);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SCALE_ROWS_H_
