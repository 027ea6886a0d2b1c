// Rows cut into blocks that have their parameters inside, as ggml lays tensors out. Where rows are
// whole blocks they follow each other without a gap, so the layout is flat: one row, in which tiles
// and stripes end with any block. Else each row ends with a padded block:
//
//   [2, 64], blocks of 32              | 32 | 32 | 32 | 32 |                    row_elems = 128
//   [2, 80], blocks of 32, tail=pad    | 32 | 32 | 16, 0 || 32 | 32 | 16, 0 |   row_elems = 80
//
// Entry: PlanRowBlocks. Tested by tests/core/session/planner_test.cc, stripes_test.cc and
// tests/core/scheme/reference_test.cc, through the schemes.
#include "core/scheme/block.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"

namespace quantd {

absl::StatusOr<PackedLayout> PlanRowBlocks(Tail tail, const Shape& shape, int64_t block_elems,
                                           int64_t block_bytes) {
  if (shape.rank() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape [] has no rows; blocks of ", block_elems, " need rank 1 or more"));
  }
  const int64_t row_elems = shape.last_dim();
  if (tail == Tail::kReject && row_elems % block_elems != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("blocks of ", block_elems, " do not divide axis ", shape.rank() - 1, " (",
                     row_elems, " elems); use rows that are whole blocks, or tail=pad"));
  }
  PackedLayout layout;
  layout.atom_elems = block_elems;
  layout.atom_bytes = block_bytes;
  // Rows of whole blocks follow each other without a gap: one flat row.
  layout.row_elems = row_elems % block_elems == 0 ? shape.num_elems() : row_elems;
  layout.groups.row_elems = layout.groups.run_elems = std::max<int64_t>(shape.num_elems(), 1);
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  QUANTD_ASSIGN_OR_RETURN(dims.back(), CheckedMul(CeilDiv(row_elems, block_elems), block_bytes));
  QUANTD_ASSIGN_OR_RETURN(Shape packed, Shape::Make(std::move(dims)));
  const int64_t size_bytes = packed.num_elems();
  layout.planes.push_back(
      {"codes", PlaneRole::kCodes, DType::kUint8, std::move(packed), size_bytes});
  return layout;
}

}  // namespace quantd
