#ifndef QUANTD_CORE_SCHEME_K_ROWS_H_
#define QUANTD_CORE_SCHEME_K_ROWS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/string_view.h"
#include "core/scheme/k_quant.h"
#include "core/scheme/scheme.h"

namespace quantd {

// The K-quants with minima: q2_k, q4_k and q5_k. A row brings how its super-block lies in memory, and
// how its scales are searched for:
//
//   x' = (d * scale code) * code - (dmin * min code)        by run, each product and the sum rounded
//
// Scale and minimum of each run are searched for (k_quant.h); the largest of the block becomes the
// largest code of d (dmin). With importance, these codes are searched for as well. Then codes are
// made again, with what is stored: nearest((x + dmin * min code) / (d * scale code)), or where that
// divisor is 0, as found first.
//
// The bytes are those of ggml 0.20.2 built without contraction (x86-64 base), quantize_row_q*_K_ref
// and quantize_row_q*_K_impl; with fused multiply-add most tensors differ somewhere
// (ggml-org/llama.cpp#25353). A block with values beyond about 1e6 times the largest code has an
// infinite d in ggml, and here; a d that is NaN (values above 1e18) is 0 here. All values that do not
// come back for that count as clipped.

// The codes of a block's scales and minima, by run.
struct KScaleCodes {
  uint8_t scale[kMaxKRunsPerBlock], min[kMaxKRunsPerBlock];
};

struct KRowFormat {
  int64_t block_bytes;
  int64_t d_at, dmin_at;  // f16
  int highest;            // of codes, from 0 on
  int max_scale_code;     // which the largest scale has
  int clamp_scale_code;   // what codes of scales are clamped to without importance
  float energy_factor;    // with importance: EnergyOfBlocks::factor
  KSearch plain, weighted;
  // All of a block but d and dmin; codes have a byte each.
  void (*pack)(const KScaleCodes& scales, uint8_t* block);
  void (*unpack)(const uint8_t* block, KScaleCodes& scales);
  void (*pack_codes)(const int8_t* codes, uint8_t* block);
  void (*unpack_codes)(const uint8_t* block, int8_t* codes);

  constexpr int64_t runs_per_block() const { return kSuperBlockElems / plain.run_elems; }
};

// Scheme::encode and decode of a row.
void EncodeKRow(const KRowFormat& format, const Segment& segment, std::span<std::byte> out,
                Counts* counts, Meter* meter);
void DecodeKRow(const KRowFormat& format, std::span<const std::byte> packed, TileSpan out);

// Returns a row's definition; `layout` says what the bytes of its blocks are.
std::string KRowDefinition(const KRowFormat& format, absl::string_view layout);

// Pack the scale codes of q4_k and q5_k, 6 bits each in 12 bytes:
//
//   run j < 4: low 6 bits of byte j the scale's code, of byte j + 4 the minimum's;
//   run j >= 4: byte j + 4 has both's low 4 bits, the minimum's in the high nibble; their upper 2 bits
//               are the upper bits of bytes j - 4 and j
void PackScalesOf6Bits(const KScaleCodes& from, uint8_t* to);
void UnpackScalesOf6Bits(const uint8_t* from, KScaleCodes& to);

// What weights with importance take of blocks: of each run (factor * the sum of squares of its block)
// * share, with factors that are powers of two.
struct EnergyOfBlocks {
  int64_t block_elems, run_elems;
  float factor, share;
};
// `values` has whole blocks.
void FillEnergies(const float* values, int64_t num_elems, const EnergyOfBlocks& of,
                  float* energies);

// Copies the weights of a segment's columns, a weight for each value, of rows of whole blocks.
void CopyImportance(const Segment& segment, int64_t block_elems, float* importance);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_K_ROWS_H_
