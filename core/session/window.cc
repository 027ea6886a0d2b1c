#include "core/session/window.h"

#include <algorithm>

#include "core/base/digest.h"

namespace quantd {
namespace {

// A task that hashes leaves of its own has at most so many tiles; others are smaller, to be shared
// out.
constexpr int64_t kMaxTilesPerTask = 512;
constexpr int64_t kSmallTaskElems = 16 * kTileElems;
// Up to so many bytes of values it takes about as long to wake a worker as to do its part, where a
// value makes a code without its neighbours: such schemes encode about as fast as memory is read.
constexpr int64_t kAloneBytes = int64_t{1} << 20;

// Returns the end of the local unit that holds element elem - 1.
int64_t UnitEnd(const GroupMap& groups, int64_t elem) {
  if (groups.band_rows == 1) return groups.RunAt(elem - 1).end_elem;
  const int64_t row = (elem - 1) / groups.row_elems;
  const int64_t batch_row = row % groups.batch_rows;
  const int64_t band_end_row =
      std::min(RoundUp(batch_row + 1, groups.band_rows), groups.batch_rows);
  return (row - batch_row + band_end_row) * groups.row_elems;
}

// Returns the beginning of the local unit that holds element `elem`.
int64_t UnitBegin(const GroupMap& groups, int64_t elem) {
  const int64_t row = elem / groups.row_elems;
  if (groups.band_rows == 1) {
    const int64_t row_start = row * groups.row_elems;
    return row_start + (elem - row_start) / groups.run_elems * groups.run_elems;
  }
  return (row - row % groups.batch_rows % groups.band_rows) * groups.row_elems;
}

// Returns the first element of the atom that holds byte `byte` of the codes.
int64_t ElemAt(const PackedLayout& layout, int64_t byte) {
  const int64_t row = byte / layout.row_bytes();
  const int64_t atom = (byte - row * layout.row_bytes()) / layout.atom_bytes;
  return row * layout.row_elems + atom * layout.atom_elems;
}

// Returns the end of the atom that holds element elem - 1.
int64_t AtomEnd(const PackedLayout& layout, int64_t elem) {
  const int64_t row_start = (elem - 1) / layout.row_elems * layout.row_elems;
  return row_start + std::min(RoundUp(elem - row_start, layout.atom_elems), layout.row_elems);
}

}  // namespace

int64_t WindowEnd(const PackedLayout& layout, int64_t num_elems, int64_t first_elem,
                  int64_t target_elems, bool whole_groups) {
  int64_t end = std::min(first_elem + target_elems, num_elems);
  while (end < num_elems) {
    const int64_t atom_end = AtomEnd(layout, end);
    const int64_t unit_end = whole_groups ? UnitEnd(layout.groups, atom_end) : atom_end;
    if (unit_end == end) break;
    end = unit_end;
  }
  return std::min(end, num_elems);
}

std::vector<int64_t> CutWindow(const PackedLayout& layout, const Window& window, int threads,
                               bool whole_groups) {
  constexpr auto kLeafBytes = static_cast<int64_t>(PlaneDigest::kLeafBytes);
  const TileGrid grid(layout);
  const int64_t end_byte = layout.CodeOffset(window.end_elem());
  int64_t leaf_byte = RoundUp(layout.CodeOffset(window.first_elem), kLeafBytes);
  const bool by_leaf = (end_byte - leaf_byte) / kLeafBytes >= threads;
  const int64_t tile_elems = std::min(kTileElems, std::max<int64_t>(layout.row_elems, 1));
  const int64_t grain_elems = by_leaf ? kMaxTilesPerTask * tile_elems : kSmallTaskElems;
  std::vector<int64_t> cuts = {window.first_elem};
  const bool alone = layout.atom_elems == 1 &&
                     window.num_elems * SizeOf(window.dtype) <= kAloneBytes &&
                     window.num_elems <= kMaxTilesPerTask * tile_elems;
  for (int64_t target = window.first_elem + grain_elems;; target += grain_elems) {
    const int64_t leaf_elem = ElemAt(layout, leaf_byte);
    if (by_leaf && leaf_elem <= target) {
      target = leaf_elem;
      leaf_byte += kLeafBytes;
    }
    if (alone || target >= window.end_elem()) break;
    int64_t cut = grid.Begin(grid.TileOf(target));
    if (whole_groups) cut = UnitBegin(layout.groups, cut);
    if (cut > cuts.back() + kTileElems) cuts.push_back(cut);
  }
  cuts.push_back(window.end_elem());
  return cuts;
}

int64_t MaxWindowElems(const PackedLayout& layout, int64_t num_elems, int64_t target_elems,
                       bool whole_groups) {
  // Units that are not whole atoms meet an atom's end after at most `atom_elems` of them.
  const int64_t unit = whole_groups ? LocalUnitElems(layout.groups) : layout.atom_elems;
  const int64_t units = unit % layout.atom_elems == 0 ? 1 : layout.atom_elems;
  if (unit >= (num_elems - target_elems) / units) return num_elems;
  return std::min(num_elems, target_elems + unit * units);
}

int64_t MaxCodeBytes(const PackedLayout& layout, int64_t window_elems) {
  // The last atom of each row that ends in the window may be padded.
  const int64_t row_ends = CeilDiv(window_elems, std::max<int64_t>(layout.row_elems, 1));
  const int64_t atoms = SaturatingAdd(CeilDiv(window_elems, layout.atom_elems), row_ends);
  return std::min(SaturatingMul(atoms, layout.atom_bytes), layout.planes[0].size_bytes);
}

}  // namespace quantd
