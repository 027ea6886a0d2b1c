#ifndef QUANTD_CORE_SCHEME_GGML_TERNARY_H_
#define QUANTD_CORE_SCHEME_GGML_TERNARY_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// ggml's ternary formats, tq1_0 and tq2_0: blocks of 256 values that become -d, 0 or d, d being the
// largest magnitude of the block. They are for models that were trained to have no other weights
// (BitNet b1.58, TriLMs), of which they lose nothing but what f16 loses of d.
//
//   d = largest |x|,  level = round(x * (1 / d)), ties away from zero;  x' = d * level
//
// Levels are made with the f32 d, then d is rounded to f16. All is f32: f64 values are rounded to it
// first, beyond its range to the largest. Beyond ggml: a d that f16 cannot hold becomes its largest
// before levels are made. A row brings how 256 codes, levels + 1, lie in memory.
struct TernaryFormat {
  int64_t block_bytes;  // d is the last two
  void (*pack)(const int8_t* levels, uint8_t* block);
  void (*unpack)(const uint8_t* block, int8_t* levels);
  // What the definition says of the codes.
  absl::string_view fields, codes;
};

SchemeInfo TernaryInfo(absl::string_view name, absl::string_view summary, absl::string_view source,
                       const TernaryFormat& format);

absl::StatusOr<PackedLayout> PlanTernary(const TernaryFormat& format, const QuantSpec& spec,
                                         const TensorDesc& tensor);
void EncodeTernary(const TernaryFormat& format, const Segment& segment, std::span<std::byte> out,
                   Counts* counts, Meter* meter);
void DecodeTernary(const TernaryFormat& format, std::span<const std::byte> packed, TileSpan out);

// Finds d, as it is stored, and the levels of blocks of 256 values at any alignment. Returns how many
// values lie half a step or more outside. Adds values and d * level to `lanes`, unless that is null.
int64_t MakeTernary(const float* values, int64_t num_blocks, uint16_t* d, int8_t* levels,
                    MeterLanes<float>* lanes);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GGML_TERNARY_H_
