#ifndef QUANTD_CORE_SESSION_WINDOW_H_
#define QUANTD_CORE_SESSION_WINDOW_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/scheme/scheme.h"
#include "core/simd/convert.h"

namespace quantd {

// Values next to each other in a tensor, in the tensor's own type, aligned for it.
struct Window {
  DType dtype = DType::kF32;
  const std::byte* values = nullptr;
  int64_t first_elem = 0;
  int64_t num_elems = 0;

  int64_t end_elem() const { return first_elem + num_elems; }
  const std::byte* At(int64_t elem) const { return values + (elem - first_elem) * SizeOf(dtype); }
};

// Returns values [elem, elem + num_elems) of `window` as T (float where WorksAsF32(dtype), else
// double): in place where they are of that type, else widened into `scratch`. Adds to `inexact` the
// int64 values that a double does not hold.
inline const float* LoadValues(const Window& window, int64_t elem, int64_t num_elems,
                               float* scratch, int64_t& /*inexact*/) {
  if (window.dtype == DType::kF32) return reinterpret_cast<const float*>(window.At(elem));
  WidenToF32(window.dtype, window.At(elem), num_elems, scratch);
  return scratch;
}
inline const double* LoadValues(const Window& window, int64_t elem, int64_t num_elems,
                                double* scratch, int64_t& inexact) {
  if (window.dtype == DType::kF64) return reinterpret_cast<const double*>(window.At(elem));
  inexact += WidenToF64(window.dtype, window.At(elem), num_elems, scratch);
  return scratch;
}

// The tiles of a layout: at most kTileElems elements, counted from each layout row's start,
// numbered over the whole tensor.
class TileGrid {
 public:
  explicit TileGrid(const PackedLayout& layout)
      : row_elems_(std::max<int64_t>(layout.row_elems, 1)),
        tiles_per_row_(CeilDiv(row_elems_, kTileElems)) {}

  int64_t TileOf(int64_t elem) const {
    const int64_t row = elem / row_elems_;
    return row * tiles_per_row_ + (elem - row * row_elems_) / kTileElems;
  }
  int64_t Begin(int64_t tile) const {
    return tile / tiles_per_row_ * row_elems_ + tile % tiles_per_row_ * kTileElems;
  }
  int64_t End(int64_t tile) const {
    const int64_t row_end = (tile / tiles_per_row_ + 1) * row_elems_;
    return std::min(Begin(tile) + kTileElems, row_end);
  }

 private:
  const int64_t row_elems_;
  const int64_t tiles_per_row_;
};

// Returns the smallest number of elements after which parameters found locally can be written: a
// band of rows, or a run.
inline int64_t LocalUnitElems(const GroupMap& groups) {
  return groups.band_rows > 1 ? groups.band_rows * groups.row_elems : groups.run_elems;
}

// Returns where a window that begins at `first_elem` ends: about `target_elems` later, at the end
// of a local unit if `whole_groups`, and at the end of an atom.
int64_t WindowEnd(const PackedLayout& layout, int64_t num_elems, int64_t first_elem,
                  int64_t target_elems, bool whole_groups);

// Returns where the work on a window is cut, its first element and its end included: at the
// beginning of tiles, or of local units if `whole_groups`, more than a tile apart. Where there is a
// leaf of the codes' digest for each of `threads`, tasks begin with a leaf's first tile.
std::vector<int64_t> CutWindow(const PackedLayout& layout, const Window& window, int threads,
                               bool whole_groups);

// Returns the most elements that a window can have.
int64_t MaxWindowElems(const PackedLayout& layout, int64_t num_elems, int64_t target_elems,
                       bool whole_groups);

// Returns the most bytes that the codes of a window of `window_elems` take.
int64_t MaxCodeBytes(const PackedLayout& layout, int64_t window_elems);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_WINDOW_H_
