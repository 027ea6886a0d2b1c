#include "tests/support/layouts.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "absl/strings/str_cat.h"

namespace quantd::testing {

LayoutCase RandomLayout(std::mt19937& rng) {
  const auto below = [&rng](int64_t count) { return static_cast<int64_t>(rng()) % count; };
  std::vector<int64_t> dims(static_cast<size_t>(1 + below(3)));
  int64_t left = int64_t{1} << (rng() % 3 == 0 ? 17 + rng() % 2 : rng() % 18);  // some are long
  const size_t longest = rng() % dims.size();
  for (size_t axis = 0; axis < dims.size(); ++axis) {
    if (axis == longest) continue;
    dims[axis] = 1 + below(int64_t{1} << (rng() % static_cast<uint32_t>(std::bit_width(
                                              static_cast<uint64_t>(left)))));
    left = std::max<int64_t>(left / dims[axis], 1);
  }
  dims[longest] = 1 + below(left);
  const Shape shape = *Shape::Make(dims);
  Granularity granularity;
  switch (rng() % 4) {
    case 0:
      break;
    case 1:
      granularity.kind = GranularityKind::kAxis;
      granularity.axis = static_cast<int>(below(std::ssize(dims)));
      break;
    case 2:
      granularity.kind = GranularityKind::kGroup;
      granularity.group_elems = 1 + below(int64_t{1} << (rng() % 19));
      break;
    default:
      granularity.kind = dims.size() > 1 ? GranularityKind::kBlock : GranularityKind::kTensor;
      granularity.block_rows = 1 + below(int64_t{1} << (rng() % 12));
      granularity.block_cols = 1 + below(int64_t{1} << (rng() % 12));
  }
  PackedLayout layout;
  layout.groups = MakeGrouping(granularity, Tail::kShort, shape)->map;
  layout.row_elems = rng() % 2 == 0 ? shape.num_elems() : dims.back();
  layout.atom_elems = rng() % 4 == 0 ? 1 + below(300) : int64_t{1} << (rng() % 9);
  layout.atom_bytes = 1 + below(40);
  layout.trailer_bytes = layout.row_elems == dims.back() ? below(9) : 0;
  const int64_t rows = shape.num_elems() / layout.row_elems;
  layout.planes.resize(2);
  layout.planes[0].size_bytes = rows * layout.row_bytes();
  layout.planes[1].role = PlaneRole::kPerGroup;
  if (layout.groups.band_rows == 1) {
    layout.planes[1].groups_per_entry = rng() % 3 == 0 ? 1 + below(300) : 1;
  }
  return {absl::StrCat("shape ", shape.Text(), ", granularity ",
                       static_cast<int>(granularity.kind), " axis ", granularity.axis, " group ",
                       granularity.group_elems, " block ", granularity.block_rows, "x",
                       granularity.block_cols, ", rows of ", layout.row_elems, ", atoms of ",
                       layout.atom_elems, ", ", layout.planes[1].groups_per_entry,
                       " groups an entry"),
          layout, shape.num_elems(), dims.back()};
}

}  // namespace quantd::testing
