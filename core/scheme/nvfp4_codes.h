#ifndef QUANTD_CORE_SCHEME_NVFP4_CODES_H_
#define QUANTD_CORE_SCHEME_NVFP4_CODES_H_

#include <cstddef>
#include <cstdint>

#include "core/scheme/scheme.h"
#include "core/simd/kernel_table.h"
#include "core/simd/meter.h"

// The kernels of nvfp4; its formulas are in schemes/nvfp4.cc.

namespace quantd {
namespace nvfp4 {

inline constexpr int64_t kBlockElems = 16;
inline constexpr int64_t kTileBlocks = kTileElems / kBlockElems;
inline constexpr int kMaxCode = 6, kMaxScale = 448;

// What an all-zero block has as its scale; whether codes are made as MLX makes them: ties toward
// zero, no sign beside code 0; whether the global scale is one to multiply by, as ModelOpt's is.
struct Habits {
  uint8_t zero_scale = 0x20;  // 0.125
  bool mlx = false;
  bool multiplies = false;
};

// What blocks next to each other are multiplied by.
struct Factors {
  float values[kTileBlocks];
};

template <typename T>
struct Kernels {
  // Writes the codes of values, at any alignment, in blocks of which the last may be short: its
  // codes are filled up with those of 0. Returns how many values are clipped. Adds values and what
  // is decoded of their codes to `lanes`, unless that is null.
  // Codes of a block with factor 0 are 0.
  int64_t (*encode)(const Habits&, const T* values, int64_t num_elems, const Factors&,
                    std::byte* codes, MeterLanes<T>* lanes);
  void (*decode)(const std::byte* codes, int64_t num_elems, const Factors&, T* values);
};

struct Table : KernelTable<Kernels> {
  // Both up to kTileBlocks.
  void (*find_scales)(const Habits&, const float* absmax, int64_t num_blocks, float global,
                      std::byte* scales);
  void (*find_factors)(const Habits&, const std::byte* scales, int64_t num_blocks, float global,
                       Factors&);
};

// Returns the kernels of the SIMD target in use.
const Table& ChosenTable();

}  // namespace nvfp4
}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_NVFP4_CODES_H_
