#include "core/scheme/params.h"

#include <cstring>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

// Compares what ParamMap says of every part of a tensor with the group of each element.
void CheckParts(const Granularity& granularity, std::vector<int64_t> dims) {
  const Shape shape = *Shape::Make(std::move(dims));
  const GroupMap map = MakeGrouping(granularity, Tail::kShort, shape)->map;
  std::vector<float> stored(static_cast<size_t>(map.num_groups));
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<float>(i);
  const PlaneDesc plane = {.name = "scale", .dtype = DType::kF32};
  const std::span<const std::byte> bytes = std::as_bytes(std::span(stored));
  const int64_t num_elems = shape.num_elems();
  for (int64_t begin = 0; begin < num_elems; begin += 1 + begin / 3) {
    for (int64_t end = begin + 1; end <= std::min(num_elems, begin + kTileElems);
         end += 1 + (end - begin) / 2) {
      const ParamMap params(map, begin, end - begin);
      std::vector<float> scratch(kTileElems, -1);
      const float* scales = ReadScales(plane, bytes, 0, params, scratch.data());
      std::vector<int32_t> ends(kMaxRuns);
      if (!params.per_elem()) ends.resize(static_cast<size_t>(params.RunEnds(ends.data())));
      std::vector<int32_t> expected_ends;
      ForEachRun(map, begin, end - begin, [&](int64_t first, int64_t count) {
        expected_ends.push_back(static_cast<int32_t>(first + count));
      });
      if (!params.per_elem()) { ASSERT_EQ(ends, expected_ends); }
      size_t run = 0;
      for (int64_t elem = begin; elem < end; ++elem) {
        if (!params.per_elem() && elem - begin == ends[run]) ++run;
        const size_t at = params.per_elem() ? static_cast<size_t>(elem - begin) : run;
        const int64_t group = map.num_groups == 1 ? 0 : map.RunAt(elem).group;
        ASSERT_EQ(scales[at], static_cast<float>(group))
            << begin << " to " << end << " at " << elem;
      }
    }
  }
}

TEST(ParamMapTest, EveryElementHasItsGroupsParameter) {
  const auto axis = [](int64_t axis) {
    return Granularity{.kind = GranularityKind::kAxis, .axis = axis};
  };
  const auto group = [](int64_t elems) {
    return Granularity{.kind = GranularityKind::kGroup, .group_elems = elems};
  };
  CheckParts({}, {7, 11});
  for (const int64_t k : {0, 1, 2}) {
    CheckParts(axis(k), {3, 5, 7});
    CheckParts(axis(k), {2, 1, 40});
    CheckParts(axis(k), {5, 30, 1});
  }
  for (const int64_t elems : {1, 3, 15, 16, 17, 32, 100}) {
    CheckParts(group(elems), {5, 100});
    CheckParts(group(elems), {300, 17});
    CheckParts(group(elems), {9, 1});
  }
  CheckParts({.kind = GranularityKind::kBlock, .block_rows = 2, .block_cols = 3}, {2, 5, 8});
  CheckParts({.kind = GranularityKind::kBlock, .block_rows = 3, .block_cols = 20}, {2, 7, 50});
}

TEST(ParamMapTest, ATileHasNoMoreRunsThanThereIsRoomFor) {
  const GroupMap map = MakeGrouping({.kind = GranularityKind::kGroup, .group_elems = 16},
                                    Tail::kShort, *Shape::Make({1000, 17}))
                           ->map;
  std::vector<int32_t> ends(kMaxRuns + 100);
  for (int64_t begin = 0; begin < 40; ++begin) {
    EXPECT_LE(ParamMap(map, begin, kTileElems).RunEnds(ends.data()), kMaxRuns);
  }
}

}  // namespace
}  // namespace quantd
