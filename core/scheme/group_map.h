#ifndef QUANTD_CORE_SCHEME_GROUP_MAP_H_
#define QUANTD_CORE_SCHEME_GROUP_MAP_H_

#include <algorithm>
#include <cstdint>

#include "absl/status/statusor.h"
#include "core/base/checked_math.h"
#include "core/scheme/spec.h"
#include "core/tensor/shape.h"

namespace quantd {

// Maps elements of a C-order tensor to the groups that share parameters. The tensor is seen as
// batches of `batch_rows` rows of `row_elems` elements; a row is cut into runs of `run_elems` (the
// last may be shorter), and `band_rows` rows next to each other share their groups:
//
//   per=tensor       one row, one run
//   axis=K           row = the dimensions after K, batch = dimension K, batches share groups
//   axis=last        row = the last dimension, runs of one element, rows share groups
//   group=N          row = the last dimension, runs of N
//   group=-1         row = the last dimension, one run
//   block=RxC        row = the last dimension, runs of C, bands of R
//
// A group is numbered in the order of the scale plane. All counts but num_groups are at least 1.
struct GroupMap {
  int64_t row_elems = 1;
  int64_t run_elems = 1;
  int64_t runs_per_row = 1;
  int64_t batch_rows = 1;
  int64_t band_rows = 1;
  bool batches_share = false;
  int64_t num_groups = 1;

  // A stretch of elements next to each other that has one group.
  struct Run {
    int64_t group;
    int64_t end_elem;  // one past the run's last element
  };

  // Returns the run that element `elem` lies in.
  Run RunAt(int64_t elem) const {
    const int64_t row = elem / row_elems;
    const int64_t row_start = row * row_elems;
    const int64_t run = (elem - row_start) / run_elems;
    const int64_t run_start = run * run_elems;
    const int64_t end_elem = row_start + run_start + std::min(run_elems, row_elems - run_start);
    return {RowGroup(row) + run, end_elem};
  }

  // Returns the group of the first run of `row`.
  int64_t RowGroup(int64_t row) const {
    const int64_t bands = CeilDiv(batch_rows, band_rows);
    const int64_t band = (row % batch_rows) / band_rows;
    const int64_t batch = batches_share ? 0 : row / batch_rows;
    return (batch * bands + band) * runs_per_row;
  }

  // True where groups come one after the other, each complete before the next band begins, so that
  // parameters can be found while a tensor of `num_elems` streams by. Groups without elements
  // belong to no window.
  bool IsLocal(int64_t num_elems) const {
    return num_groups > 1 && num_elems > 0 &&
           (!batches_share || num_elems <= batch_rows * row_elems);
  }
};

// Goes over the runs of elements [elem, end_elem), in order.
class RunWalker {
 public:
  RunWalker(const GroupMap& map, int64_t elem, int64_t end_elem)
      : map_(map), elem_(elem), end_elem_(end_elem) {
    if (done()) return;
    row_ = elem / map.row_elems;
    row_end_ = (row_ + 1) * map.row_elems;
    const GroupMap::Run run = map.RunAt(elem);
    group_ = run.group;
    run_end_ = run.end_elem;
  }

  bool done() const { return elem_ >= end_elem_; }
  int64_t elem() const { return elem_; }
  int64_t group() const { return group_; }
  int64_t num_elems() const { return std::min(run_end_, end_elem_) - elem_; }

  void Next() {
    elem_ = run_end_;
    if (done()) return;  // what follows may leave int64 beyond the last row
    if (run_end_ == row_end_) {
      ++row_;
      group_ = map_.RowGroup(row_);
      row_end_ += map_.row_elems;
    } else {
      ++group_;
    }
    run_end_ += std::min(map_.run_elems, row_end_ - run_end_);
  }

 private:
  const GroupMap& map_;
  int64_t elem_;
  const int64_t end_elem_;
  int64_t row_ = 0, row_end_ = 0, run_end_ = 0, group_ = 0;
};

// Returns the map of `granularity` over `shape`, and the shape of a plane that has one element for
// each group: [] per tensor, [D] for an axis, [.., ceil(L / N)] for groups ([.., 1] for those of a
// whole row), [.., ceil(M / R), ceil(L / C)] for blocks. kInvalidArgument: an axis that is not there,
// a rank too low for blocks, or under tail=reject a group that does not divide.
struct Grouping {
  GroupMap map;
  Shape plane_shape;
};
absl::StatusOr<Grouping> MakeGrouping(const Granularity& granularity, Tail tail,
                                      const Shape& shape);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GROUP_MAP_H_
