#include "core/session/window.h"

#include <algorithm>

namespace quantd {
namespace {

// Returns the end of the local unit that holds element elem - 1.
int64_t UnitEnd(const GroupMap& groups, int64_t elem) {
  if (groups.band_rows == 1) return groups.RunAt(elem - 1).end_elem;
  const int64_t row = (elem - 1) / groups.row_elems;
  const int64_t batch_row = row % groups.batch_rows;
  const int64_t band_end_row =
      std::min(RoundUp(batch_row + 1, groups.band_rows), groups.batch_rows);
  return (row - batch_row + band_end_row) * groups.row_elems;
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
