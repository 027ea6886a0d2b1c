// From granularity and shape to the map of groups. Dimensions are folded to three, batches of rows
// of elements, in which each granularity is the same few numbers:
//
//   [2, 3, 4] axis=1      2 batches of 3 rows of 4, which share 3 groups
//             axis=2      6 rows of 4 runs of one element, which share 4 groups
//             group=2     6 rows of 2 runs of 2: 12 groups
//             group=-1    6 rows of 1 run of 4: 6 groups
//             block=2x4   2 batches of 3 rows, in bands of 2 and 1 (tail=short): 4 groups
//
// Entry: MakeGrouping. Tested by tests/core/scheme/group_map_test.cc.
#include "core/scheme/group_map.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

int64_t Product(std::span<const int64_t> dims) {
  int64_t product = 1;
  for (const int64_t dim : dims) product *= dim;
  return product;
}

// `setting` is the granularity as the spec has it.
absl::Status CheckDivides(absl::string_view setting, int64_t part, int axis, int64_t dim,
                          Tail tail) {
  if (tail != Tail::kReject || dim % part == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(setting, " does not divide axis ", axis, " (", dim,
                                                 " elems); use a divisor, or tail=short"));
}

absl::StatusOr<Grouping> AxisGrouping(int64_t axis, const Shape& shape) {
  const int64_t rank = shape.rank();
  const int64_t resolved = axis < 0 ? axis + rank : axis;
  if (resolved < 0 || resolved >= rank) {
    return absl::InvalidArgumentError(
        absl::StrCat("axis=", axis, " is not a dimension of shape ", shape.Text(), "; use ",
                     rank == 0 ? "per=tensor" : absl::StrCat("0 to ", rank - 1, ", or -1")));
  }
  const std::span<const int64_t> dims = shape.dims();
  const int64_t channels = dims[static_cast<size_t>(resolved)];
  const int64_t inner = Product(dims.subspan(static_cast<size_t>(resolved) + 1));
  Grouping grouping;
  GroupMap& map = grouping.map;
  map.batches_share = true;
  map.num_groups = channels;
  if (inner == 1) {
    map.row_elems = map.runs_per_row = std::max<int64_t>(channels, 1);
  } else {
    map.row_elems = map.run_elems = std::max<int64_t>(inner, 1);
    map.batch_rows = std::max<int64_t>(channels, 1);
  }
  QUANTD_ASSIGN_OR_RETURN(grouping.plane_shape, Shape::Make({channels}));
  return grouping;
}

// Groups are blocks of one row.
absl::StatusOr<Grouping> BlockGrouping(int64_t rows, int64_t cols, absl::string_view setting,
                                       Tail tail, const Shape& shape) {
  const int needed_rank = rows > 1 ? 2 : 1;
  if (shape.rank() < needed_rank) {
    return absl::InvalidArgumentError(absl::StrCat(setting, " needs rank ", needed_rank,
                                                   " or more; the shape is ", shape.Text()));
  }
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  Grouping grouping;
  GroupMap& map = grouping.map;
  const int64_t last = dims.back();
  QUANTD_RETURN_IF_ERROR(CheckDivides(setting, cols, shape.rank() - 1, last, tail));
  map.row_elems = std::max<int64_t>(last, 1);
  map.run_elems = std::min(cols, map.row_elems);
  map.runs_per_row = CeilDiv(map.row_elems, map.run_elems);
  dims.back() = CeilDiv(last, cols);
  if (rows > 1) {
    int64_t& height = dims[dims.size() - 2];
    QUANTD_RETURN_IF_ERROR(CheckDivides(setting, rows, shape.rank() - 2, height, tail));
    map.batch_rows = std::max<int64_t>(height, 1);
    map.band_rows = std::min(rows, map.batch_rows);
    height = CeilDiv(height, rows);
  }
  map.num_groups = Product(dims);
  QUANTD_ASSIGN_OR_RETURN(grouping.plane_shape, Shape::Make(std::move(dims)));
  return grouping;
}

}  // namespace

absl::StatusOr<Grouping> MakeGrouping(const Granularity& granularity, Tail tail,
                                      const Shape& shape) {
  switch (granularity.kind) {
    case GranularityKind::kTensor: {
      Grouping grouping;
      grouping.map.row_elems = grouping.map.run_elems = std::max<int64_t>(shape.num_elems(), 1);
      return grouping;
    }
    case GranularityKind::kAxis:
      return AxisGrouping(granularity.axis, shape);
    case GranularityKind::kGroup: {
      const bool is_row = granularity.group_elems == kWholeRow;
      return BlockGrouping(1,
                           is_row ? std::max<int64_t>(shape.last_dim(), 1) : granularity.group_elems,
                           absl::StrCat("group=", granularity.group_elems), tail, shape);
    }
    case GranularityKind::kBlock:
      return BlockGrouping(
          granularity.block_rows, granularity.block_cols,
          absl::StrCat("block=", granularity.block_rows, "x", granularity.block_cols), tail, shape);
  }
  return absl::InternalError("granularity kind out of range");
}

}  // namespace quantd
