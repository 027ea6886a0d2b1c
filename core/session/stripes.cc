// Cutting, as stripes.h has it. Bands end where a unit, which is what shares parameters, and an
// atom end together:
//
//   groups of 3, atoms of 2:   |g g g|g g g|g g g|g g g|     units
//                              |a a|a a|a a|a a|a a|a a|     atoms
//                              |    band   |    band   |
//
// A stripe ends at the last such place that kStripeElems reach, which is looked for backwards, unit
// by unit. Where there is none, the band is longer than a stripe, and its stripes end with atoms.
// Bounds for the planner are worked out from the layout, without a search.
//
// Entry: StripeCutter. Tested by tests/core/session/stripes_test.cc, on random layouts too.
#include "core/session/stripes.h"

#include <algorithm>
#include <numeric>

namespace quantd {
namespace {

// Groups are numbered in the order of their elements, run after run.
bool IsLinear(const GroupMap& groups) { return groups.band_rows == 1; }

// Returns the first element of group `group` of a linear map whose groups do not recur; that behind
// the last is the tensor's end.
int64_t GroupBegin(const GroupMap& groups, int64_t group) {
  const int64_t row = group / groups.runs_per_row;
  return row * groups.row_elems + group % groups.runs_per_row * groups.run_elems;
}

// A unit is what shares parameters, or entries of parameters, and lies together: a run, the runs of
// an entry, a band of rows. Returns the end of the unit that holds element elem - 1.
int64_t UnitEnd(const PackedLayout& layout, int64_t num_elems, int64_t elem) {
  const GroupMap& groups = layout.groups;
  if (!IsLinear(groups)) {
    const int64_t row = (elem - 1) / groups.row_elems;
    const int64_t batch_row = row % groups.batch_rows;
    const int64_t band_end_row =
        std::min(RoundUp(batch_row + 1, groups.band_rows), groups.batch_rows);
    return (row - batch_row + band_end_row) * groups.row_elems;
  }
  const GroupMap::Run run = groups.RunAt(elem - 1);
  const int64_t per_entry = layout.GroupsPerEntry();
  if (per_entry == 1) return run.end_elem;
  const int64_t end_group = RoundUp(run.group + 1, per_entry);
  return end_group >= groups.num_groups ? num_elems : GroupBegin(groups, end_group);
}

// Returns the beginning of the unit that holds element `elem`.
int64_t UnitBegin(const PackedLayout& layout, int64_t elem) {
  const GroupMap& groups = layout.groups;
  const int64_t row = elem / groups.row_elems;
  if (!IsLinear(groups)) {
    return (row - row % groups.batch_rows % groups.band_rows) * groups.row_elems;
  }
  const int64_t per_entry = layout.GroupsPerEntry();
  if (per_entry > 1) {
    const int64_t group = groups.RunAt(elem).group;
    return GroupBegin(groups, group - group % per_entry);
  }
  const int64_t row_start = row * groups.row_elems;
  return row_start + (elem - row_start) / groups.run_elems * groups.run_elems;
}

// Returns the end of the atom that holds element elem - 1.
int64_t AtomEnd(const PackedLayout& layout, int64_t elem) {
  const int64_t row_start = (elem - 1) / layout.row_elems * layout.row_elems;
  return row_start + std::min(RoundUp(elem - row_start, layout.atom_elems), layout.row_elems);
}

// A stretch of `elems` after which units begin anew: a row, or a batch of rows, or several where
// entries cover runs of more than one.
int64_t UnitPeriod(const PackedLayout& layout) {
  const GroupMap& groups = layout.groups;
  if (!IsLinear(groups)) return SaturatingMul(groups.batch_rows, groups.row_elems);
  const int64_t per_entry = layout.GroupsPerEntry();
  return SaturatingMul(groups.row_elems, per_entry / std::gcd(per_entry, groups.runs_per_row));
}

int64_t LeastCommonMultiple(int64_t a, int64_t b) { return SaturatingMul(a / std::gcd(a, b), b); }

}  // namespace

StripeCutter::StripeCutter(const PackedLayout& layout, int64_t num_elems, bool whole_rows)
    : layout_(layout),
      num_elems_(num_elems),
      one_band_(!layout.groups.IsLocal(num_elems)),
      whole_rows_(whole_rows) {
  if (num_elems > 0) Cut();
}

void StripeCutter::Next() {
  if (stripe_.end >= num_elems_) {
    done_ = true;
    return;
  }
  ++stripe_.index;
  stripe_.begin = stripe_.end;
  Cut();
}

void StripeCutter::Cut() {
  const int64_t begin = stripe_.begin;
  if (whole_rows_) {
    const int64_t row_elems = layout_.row_elems;
    const int64_t rows = std::max<int64_t>(kStripeElems / row_elems, 1);
    stripe_.end = std::min(begin + rows * row_elems, num_elems_);
    stripe_.band_begin = begin;
    stripe_.band_end = stripe_.end;
    return;
  }
  const bool fits = num_elems_ - begin <= kStripeElems;
  const int64_t target = fits ? num_elems_ : begin + kStripeElems;
  if (one_band_) {
    stripe_.band_begin = 0;
    stripe_.band_end = num_elems_;
    stripe_.end = fits ? num_elems_ : StripeFloor(layout_, target);
    return;
  }
  if (begin >= stripe_.band_end) {  // at a band's beginning
    const int64_t step = layout_.stripe_step_elems;
    int64_t end = fits ? target : target / step * step;
    while (!fits && end > begin) {
      // Backwards to a place where a unit ends with an atom, and, with outliers, a row.
      const int64_t unit = UnitBegin(layout_, end);
      const int64_t atom = unit > begin ? AtomFloor(layout_, unit) : begin;
      if (unit <= begin) {
        end = begin;
      } else if (atom == unit && unit % step == 0) {
        end = unit;
        break;
      } else {
        end = (unit - 1) / step * step;
      }
    }
    if (end > begin) {
      stripe_.end = stripe_.band_end = end;
      stripe_.band_begin = begin;
      return;
    }
    stripe_.band_begin = begin;
    stripe_.band_end = BandEnd(layout_, num_elems_, begin + 1);
    while (stripe_.band_end % step != 0 && stripe_.band_end < num_elems_) {
      const int64_t rows_end = std::min(RoundUp(stripe_.band_end, step), num_elems_);
      stripe_.band_end = BandEnd(layout_, num_elems_, rows_end);
    }
  }
  const bool last = stripe_.band_end - begin <= kStripeElems;
  stripe_.end = last ? stripe_.band_end : StripeFloor(layout_, target);
}

int64_t StripeFloor(const PackedLayout& layout, int64_t elem) {
  return AtomFloor(layout, elem / layout.stripe_step_elems * layout.stripe_step_elems);
}

int64_t AtomFloor(const PackedLayout& layout, int64_t elem) {
  const int64_t row_start = elem / layout.row_elems * layout.row_elems;
  return row_start + (elem - row_start) / layout.atom_elems * layout.atom_elems;
}

int64_t BandEnd(const PackedLayout& layout, int64_t num_elems, int64_t elem) {
  int64_t end = elem;
  while (end < num_elems) {
    const int64_t atom_end = AtomEnd(layout, end);
    const int64_t unit_end = UnitEnd(layout, num_elems, atom_end);
    if (unit_end == end) break;
    end = unit_end;
  }
  return std::min(end, num_elems);
}

GroupSpan GroupsOf(const PackedLayout& layout, int64_t begin, int64_t end) {
  const GroupMap& groups = layout.groups;
  if (begin >= end) return {};
  const int64_t first = groups.RunAt(begin).group;
  const int64_t last = IsLinear(groups)
                           ? groups.RunAt(end - 1).group
                           : groups.RowGroup((end - 1) / groups.row_elems) + groups.runs_per_row - 1;
  return {first, last + 1 - first};
}

namespace {

// Of bands that need not end with rows.
int64_t MaxLocalBandElems(const PackedLayout& layout, int64_t num_elems) {
  const GroupMap& groups = layout.groups;
  const int64_t atom = layout.atom_elems, per_entry = layout.GroupsPerEntry();
  const bool flat = layout.row_elems >= num_elems;
  const int64_t row = IsLinear(groups) ? groups.row_elems : UnitPeriod(layout);
  const int64_t run =
      IsLinear(groups) ? groups.run_elems : SaturatingMul(groups.band_rows, groups.row_elems);
  const int64_t unit = SaturatingMul(run, per_entry);
  // Each unit ends with an atom.
  const bool rows_end = flat ? row % atom == 0 : groups.row_elems % layout.row_elems == 0;
  const bool equal = row % run == 0;  // all runs are of one length
  if ((!flat && rows_end && !IsLinear(groups)) ||
      (run % atom == 0 && (rows_end || (equal && flat)))) {
    return std::min(num_elems, unit);
  }
  // Where one is a band's end, so is the one a period later.
  int64_t most = LeastCommonMultiple(UnitPeriod(layout), flat ? atom : layout.row_elems);
  if (flat && equal) most = std::min(most, LeastCommonMultiple(unit, atom));
  // Of as many units of a row as an atom has elements, one ends with an atom.
  if (flat && per_entry == 1 && std::gcd(run, atom) == 1 && row / run >= atom) {
    most = std::min(most, SaturatingMul(2 * atom, run));
  }
  return std::min(num_elems, most);
}

}  // namespace

int64_t MaxBandElems(const PackedLayout& layout, int64_t num_elems) {
  if (!layout.groups.IsLocal(num_elems)) return num_elems;
  const GroupMap& groups = layout.groups;
  const int64_t step = layout.stripe_step_elems;
  const bool units_end_there =
      groups.row_elems % step == 0 && (!IsLinear(groups) || groups.run_elems % step == 0);
  if (units_end_there) return MaxLocalBandElems(layout, num_elems);
  // Where units begin anew, as above, and where those of one length end.
  const bool flat = layout.row_elems >= num_elems;
  const int64_t atom = flat ? layout.atom_elems : layout.row_elems;
  int64_t most = LeastCommonMultiple(LeastCommonMultiple(UnitPeriod(layout), atom), step);
  if (IsLinear(groups) && flat && groups.row_elems % groups.run_elems == 0) {
    const int64_t unit = SaturatingMul(groups.run_elems, layout.GroupsPerEntry());
    most = std::min(most, LeastCommonMultiple(LeastCommonMultiple(unit, atom), step));
  }
  return std::min(num_elems, most);
}

int64_t MaxGroups(const GroupMap& groups, int64_t num_elems) {
  // Each row may have a shorter last run, and the first run and the last one may be cut; a band of
  // rows has the groups of one.
  const int64_t runs = SaturatingAdd(SaturatingAdd(num_elems / groups.run_elems, 3),
                                     num_elems / groups.row_elems);
  return std::min({groups.num_groups, runs, std::max<int64_t>(num_elems, 1)});
}

int64_t MaxStripeGroups(const PackedLayout& layout, int64_t num_elems) {
  return MaxGroups(layout.groups, std::min(num_elems, kStripeElems));
}

int64_t MaxCodeBytes(const PackedLayout& layout, int64_t num_elems) {
  // The last atom of each row that ends in between may be padded.
  const int64_t row_ends = CeilDiv(num_elems, std::max<int64_t>(layout.row_elems, 1));
  const int64_t atoms = SaturatingAdd(CeilDiv(num_elems, layout.atom_elems), row_ends);
  const int64_t bytes = SaturatingAdd(SaturatingMul(atoms, layout.atom_bytes),
                                      SaturatingMul(row_ends, layout.trailer_bytes));
  return std::min(bytes, layout.planes[0].size_bytes);
}

}  // namespace quantd
