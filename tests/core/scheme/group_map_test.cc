#include "core/scheme/group_map.h"

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

std::vector<int64_t> Coordinates(const Shape& shape, int64_t elem) {
  std::vector<int64_t> at(static_cast<size_t>(shape.rank()));
  for (size_t axis = at.size(); axis-- > 0;) {
    at[axis] = elem % shape.dim(static_cast<int>(axis));
    elem /= shape.dim(static_cast<int>(axis));
  }
  return at;
}

// The group of an element by the definition of each granularity: the place in the scale plane.
int64_t Define(const Granularity& granularity, const Shape& shape, int64_t elem) {
  std::vector<int64_t> at = Coordinates(shape, elem);
  std::vector<int64_t> dims(shape.dims().begin(), shape.dims().end());
  if (granularity.kind == GranularityKind::kTensor) return 0;
  if (granularity.kind == GranularityKind::kAxis) {
    const int64_t axis = granularity.axis < 0 ? shape.rank() - 1 : granularity.axis;
    return at[static_cast<size_t>(axis)];
  }
  const bool blocks = granularity.kind == GranularityKind::kBlock;
  int64_t cols = blocks ? granularity.block_cols : granularity.group_elems;
  if (cols == kWholeRow) cols = dims.back();
  at.back() /= cols;
  dims.back() = CeilDiv(dims.back(), cols);
  if (blocks && dims.size() > 1) {
    at[at.size() - 2] /= granularity.block_rows;
    dims[dims.size() - 2] = CeilDiv(dims[dims.size() - 2], granularity.block_rows);
  }
  int64_t group = 0;
  for (size_t axis = 0; axis < at.size(); ++axis) group = group * dims[axis] + at[axis];
  return group;
}

Granularity RandomGranularity(std::mt19937& rng, int rank) {
  Granularity granularity{
      .kind = static_cast<GranularityKind>(rng() % std::size(kNamesOf<GranularityKind>))};
  granularity.axis = static_cast<int64_t>(rng() % static_cast<uint32_t>(rank + 1)) - 1;
  if (granularity.kind != GranularityKind::kAxis) granularity.axis = 0;
  granularity.group_elems = granularity.kind == GranularityKind::kGroup ? 1 + rng() % 9 : 0;
  if (granularity.group_elems == 9) granularity.group_elems = kWholeRow;
  if (granularity.kind == GranularityKind::kBlock) {
    granularity.block_rows = rank == 1 ? 1 : 1 + rng() % 5;
    granularity.block_cols = 1 + rng() % 6;
  }
  return granularity;
}

TEST(GroupMapTest, EqualsTheDefinition) {
  std::mt19937 rng(9);
  for (int round = 0; round < 3000; ++round) {
    std::vector<int64_t> dims(1 + rng() % 4);
    for (int64_t& dim : dims) dim = 1 + rng() % 7;
    const Shape shape = *Shape::Make(dims);
    const Granularity granularity = RandomGranularity(rng, shape.rank());
    SCOPED_TRACE(absl::StrCat(shape.Text(), " kind ", static_cast<int>(granularity.kind), " axis ",
                              granularity.axis, " group ", granularity.group_elems, " block ",
                              granularity.block_rows, "x", granularity.block_cols));
    const absl::StatusOr<Grouping> grouping = MakeGrouping(granularity, Tail::kShort, shape);
    ASSERT_TRUE(grouping.ok()) << grouping.status();
    const GroupMap& map = grouping->map;
    ASSERT_EQ(grouping->plane_shape.num_elems(), map.num_groups);
    std::vector<int64_t> want;
    for (int64_t elem = 0; elem < shape.num_elems(); ++elem) {
      want.push_back(Define(granularity, shape, elem));
      const GroupMap::Run run = map.RunAt(elem);
      ASSERT_EQ(run.group, want.back()) << "elem " << elem;
      ASSERT_GT(run.end_elem, elem);
      ASSERT_LE(run.end_elem, shape.num_elems());
    }
    ASSERT_EQ(*std::max_element(want.begin(), want.end()) + 1, map.num_groups);
    const int64_t begin = static_cast<int64_t>(rng() % want.size());
    const int64_t end =
        begin + static_cast<int64_t>(rng() % (want.size() - static_cast<size_t>(begin) + 1));
    int64_t elem = begin;
    for (RunWalker run(map, begin, end); !run.done(); run.Next()) {
      ASSERT_EQ(run.elem(), elem);
      ASSERT_GE(run.num_elems(), 1);
      for (int64_t i = 0; i < run.num_elems(); ++i, ++elem) {
        ASSERT_EQ(run.group(), want[static_cast<size_t>(elem)]) << "elem " << elem;
      }
    }
    ASSERT_EQ(elem, end);
    // Local: no group comes back once a later one's band has begun, so groups never go down.
    if (granularity.kind != GranularityKind::kBlock && map.num_groups > 1) {
      ASSERT_EQ(map.IsLocal(shape.num_elems()), std::is_sorted(want.begin(), want.end()));
    }
  }
}

// One spec for matrices and stacks of matrices: the plane broadcasts against the codes.
TEST(GroupMapTest, WholeRowsOfAnyRank) {
  const Granularity rows = {.kind = GranularityKind::kGroup, .group_elems = kWholeRow};
  const std::pair<std::vector<int64_t>, std::vector<int64_t>> cases[] = {
      {{64, 96}, {64, 1}}, {{8, 64, 128}, {8, 64, 1}}, {{5}, {1}},
      {{3, 0}, {3, 0}},    {{0, 4}, {0, 1}},           {{2, 3, 4, 7}, {2, 3, 4, 1}}};
  for (const auto& [dims, plane] : cases) {
    const absl::StatusOr<Grouping> grouping = MakeGrouping(rows, Tail::kReject, *Shape::Make(dims));
    ASSERT_TRUE(grouping.ok()) << grouping.status();
    EXPECT_EQ(grouping->plane_shape, *Shape::Make(plane));
    EXPECT_EQ(grouping->map.num_groups, grouping->plane_shape.num_elems());
  }
}

TEST(GroupMapTest, EmptyTensorsHaveNoLocalGroups) {
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{0, 5}, {5, 0}, {0}, {3, 0, 4}}) {
    const Shape shape = *Shape::Make(dims);
    for (int64_t axis = -1; axis < shape.rank(); ++axis) {
      const absl::StatusOr<Grouping> grouping =
          MakeGrouping({.kind = GranularityKind::kAxis, .axis = axis}, Tail::kReject, shape);
      ASSERT_TRUE(grouping.ok()) << grouping.status();
      EXPECT_EQ(grouping->map.num_groups, grouping->plane_shape.num_elems());
      EXPECT_FALSE(grouping->map.IsLocal(0));
    }
  }
}

TEST(GroupMapTest, Refusals) {
  const Shape shape = *Shape::Make({6, 4096});
  const auto refusal = [](const Granularity& granularity, Tail tail, const Shape& of) {
    const absl::Status status = MakeGrouping(granularity, tail, of).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_EQ(refusal({.kind = GranularityKind::kGroup, .group_elems = 48}, Tail::kReject, shape),
            "group=48 does not divide axis 1 (4096 elems); use a divisor, or tail=short");
  EXPECT_THAT(refusal({.kind = GranularityKind::kBlock, .block_rows = 4, .block_cols = 64},
                      Tail::kReject, shape),
              HasSubstr("block=4x64 does not divide axis 0 (6 elems)"));
  EXPECT_THAT(refusal({.kind = GranularityKind::kAxis, .axis = 2}, Tail::kReject, shape),
              HasSubstr("axis=2 is not a dimension of shape [6, 4096]; use 0 to 1, or -1"));
  EXPECT_THAT(refusal({.kind = GranularityKind::kAxis, .axis = -1}, Tail::kReject, Shape()),
              HasSubstr("use per=tensor"));
  EXPECT_THAT(refusal({.kind = GranularityKind::kGroup, .group_elems = 4}, Tail::kShort, Shape()),
              HasSubstr("needs rank 1"));
  EXPECT_THAT(
      refusal({.kind = GranularityKind::kGroup, .group_elems = kWholeRow}, Tail::kShort, Shape()),
      HasSubstr("group=-1 needs rank 1"));
  EXPECT_THAT(refusal({.kind = GranularityKind::kBlock, .block_rows = 2, .block_cols = 2},
                      Tail::kShort, *Shape::Make({8})),
              HasSubstr("needs rank 2"));
}

// Sizes next to 2^63 do not leave int64 (UBSan looks on).
TEST(GroupMapTest, HugeShapesAndGroups) {
  const std::vector<std::vector<int64_t>> shapes = {
      {kMax}, {1, kMax}, {kMax, 1}, {int64_t{1} << 40, int64_t{1} << 22}, {3037000499, 3037000499}};
  const Granularity granularities[] = {
      {.kind = GranularityKind::kTensor},
      {.kind = GranularityKind::kAxis, .axis = 0},
      {.kind = GranularityKind::kAxis, .axis = -1},
      {.kind = GranularityKind::kGroup, .group_elems = int64_t{1} << 62},
      {.kind = GranularityKind::kGroup, .group_elems = kMax},
      {.kind = GranularityKind::kGroup, .group_elems = 1},
      {.kind = GranularityKind::kGroup, .group_elems = kWholeRow},
      {.kind = GranularityKind::kBlock, .block_rows = 1, .block_cols = kMax},
      {.kind = GranularityKind::kBlock, .block_rows = kMax, .block_cols = kMax},
      {.kind = GranularityKind::kBlock, .block_rows = int64_t{1} << 62, .block_cols = 3}};
  for (const std::vector<int64_t>& dims : shapes) {
    const Shape shape = *Shape::Make(dims);
    const int64_t last = shape.num_elems() - 1;
    for (const Granularity& granularity : granularities) {
      const absl::StatusOr<Grouping> grouping = MakeGrouping(granularity, Tail::kShort, shape);
      if (!grouping.ok()) continue;  // blocks of rank 1
      for (const int64_t elem : {int64_t{0}, last / 2, last}) {
        const GroupMap::Run run = grouping->map.RunAt(elem);
        EXPECT_GT(run.end_elem, elem);
        EXPECT_LE(run.end_elem, shape.num_elems());
        EXPECT_GE(run.group, 0);
        EXPECT_LT(run.group, grouping->map.num_groups);
        int64_t runs = 0;
        for (RunWalker walker(grouping->map, elem, std::min(elem, last - 2) + 3); !walker.done();
             walker.Next()) {
          EXPECT_LT(walker.group(), grouping->map.num_groups);
          ++runs;
        }
        EXPECT_LE(runs, 3);
      }
    }
  }
}

}  // namespace
}  // namespace quantd
