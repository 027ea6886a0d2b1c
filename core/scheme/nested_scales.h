#ifndef QUANTD_CORE_SCHEME_NESTED_SCALES_H_
#define QUANTD_CORE_SCHEME_NESTED_SCALES_H_

#include <array>
#include <cstdint>
#include <span>

// Scales of 8 bits with scales of their own, bitsandbytes' double quantization (QLoRA, arXiv
// 2305.14314, section 3): 0.127 bits per value for groups of 64 instead of 0.5.
//
//   offset = mean of all scales, summed in double in group order, as f32
//   rest = scale - offset,  nested = largest |rest| of 256 scales
//   t = rest * (1 / nested),  code = the level nearest to t, nearly
//   scale' = level * nested + offset
//
// in f32, each step rounded. The 256 levels are those of its dynamic map: a sign, up to six zero
// bits, and the rest linear. "Nearly" is as its code for CPUs has it, which looks t up in a table
// of 65,536 bins: it counts the middles between levels that are below the bin's place, which is
// 1.5e-5 for 0, so that 0 has code 131, not 127, and codes 124 to 130 never occur. Its mean depends
// on the threads that torch has; the one here is what it comes near to.
//
// Beyond bitsandbytes: a `nested` without a finite 1 / nested is 0, and then all codes are. Where
// scale' would be infinite, the code is the next lower one whose is not.

namespace quantd {

inline constexpr int64_t kNestedGroups = 256;  // that share a scale of their scales

// Returns the levels, ascending.
const std::array<float, 256>& NestedLevels();

// Writes the codes of up to kNestedGroups scales and returns what `nested` is for them.
float EncodeNestedScales(std::span<const float> scales, float offset, uint8_t* codes);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_NESTED_SCALES_H_
