#include "core/session/stripes.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/planner.h"
#include "gtest/gtest.h"
#include "tests/support/layouts.h"
#include "tests/support/values.h"

// What is promised of stripes, in layouts of schemes, and in random ones that no scheme has.

namespace quantd {
namespace {

using testing::LayoutCase;
using testing::RandomLayout;

constexpr uint32_t kSeed = 20241126;

std::vector<Stripe> Cut(const PackedLayout& layout, int64_t num_elems, bool whole_rows = false) {
  std::vector<Stripe> stripes;
  for (StripeCutter cutter(layout, num_elems, whole_rows); !cutter.done(); cutter.Next()) {
    stripes.push_back(cutter.stripe());
  }
  return stripes;
}

// True if atoms and units of parameters all end before element `elem` or begin with it: the
// definition of a band's end.
bool EndsBand(const LayoutCase& test, int64_t elem) {
  const GroupMap& groups = test.layout.groups;
  if (elem == 0 || elem == test.num_elems) return true;
  if (!groups.IsLocal(test.num_elems) || elem % test.layout.stripe_step_elems != 0) return false;
  if (elem % test.layout.row_elems % test.layout.atom_elems != 0) return false;
  if (groups.band_rows > 1) {
    const int64_t before = (elem - 1) / groups.row_elems, row = elem / groups.row_elems;
    return groups.RowGroup(before) != groups.RowGroup(row);
  }
  const int64_t per_entry = test.layout.GroupsPerEntry();
  return groups.RunAt(elem - 1).group / per_entry != groups.RunAt(elem).group / per_entry;
}

// The groups of elements [begin, end), run by run.
GroupSpan GroupsByRuns(const GroupMap& groups, int64_t begin, int64_t end) {
  int64_t least = groups.num_groups, most = -1;
  for (RunWalker run(groups, begin, end); !run.done(); run.Next()) {
    least = std::min(least, run.group());
    most = std::max(most, run.group());
  }
  return {least, most + 1 - least};
}

void CheckTiles(const PackedLayout& layout, const Stripe& stripe) {
  for (int64_t begin = stripe.begin; begin < stripe.end;) {
    const int64_t end = TileEnd(layout, begin, stripe.end);
    ASSERT_GT(end, begin);
    ASSERT_LE(end - begin, kTileElems);
    if (end < stripe.end) {
      ASSERT_EQ(AtomFloor(layout, end), end);
      ASSERT_GT(end - begin, kTileElems - layout.atom_elems);
    }
    begin = end;
  }
}

// The stripe's bounds, given where the one before ends.
void CheckBounds(const LayoutCase& test, const Stripe& stripe) {
  const PackedLayout& layout = test.layout;
  ASSERT_LE(stripe.num_elems(), kStripeElems);
  ASSERT_GE(stripe.num_elems(), test.num_elems == 0 ? 0 : 1);
  const int64_t step = layout.stripe_step_elems;
  if (stripe.end < test.num_elems) {
    ASSERT_EQ(AtomFloor(layout, stripe.end), stripe.end);
    ASSERT_EQ(stripe.end % step, 0);
  }
  ASSERT_TRUE(EndsBand(test, stripe.band_begin) && EndsBand(test, stripe.band_end));
  if (!stripe.long_band()) {  // as many bands as it can hold
    ASSERT_TRUE(EndsBand(test, stripe.begin) && EndsBand(test, stripe.end));
    if (stripe.end < test.num_elems) {
      ASSERT_GT(BandEnd(layout, test.num_elems, stripe.end + 1) - stripe.begin,
                step == 1 ? kStripeElems : 0);
      for (int64_t elem = stripe.end + step; step > 1 && elem <= stripe.begin + kStripeElems;
           elem += step) {
        ASSERT_FALSE(EndsBand(test, elem)) << elem;
      }
    }
    return;
  }
  ASSERT_GT(stripe.band_end - stripe.band_begin, kStripeElems);
  ASSERT_LE(stripe.band_begin, stripe.begin);
  ASSERT_GE(stripe.band_end, stripe.end);
  for (int64_t elem = stripe.band_begin + 1; elem < stripe.band_end; ++elem) {
    if (EndsBand(test, elem)) FAIL() << "a shorter band ends at " << elem;
    if (step == 1) elem += elem % 7 == 0 ? 0 : test.num_elems / 10'000;  // most of them
    if (step > 1) elem = RoundUp(elem + 1, step) - 1;                    // all where one may end
  }
  if (stripe.end < stripe.band_end) {
    ASSERT_GT(stripe.num_elems(), kStripeElems - std::max(layout.atom_elems, step));
  }
}

void CheckMemory(const LayoutCase& test, const Stripe& stripe) {
  const PackedLayout& layout = test.layout;
  ASSERT_LE(layout.CodeOffset(stripe.end) - layout.CodeOffset(stripe.begin),
            MaxCodeBytes(layout, std::min(test.num_elems, kStripeElems)));
  if (stripe.num_elems() == 0) return;
  const GroupSpan groups = GroupsByRuns(layout.groups, stripe.begin, stripe.end);
  if (!stripe.long_band()) {
    ASSERT_LE(groups.count, MaxStripeGroups(layout, test.num_elems));
    const GroupSpan got = GroupsOf(layout, stripe.begin, stripe.end);
    ASSERT_EQ(got.first, groups.first);
    ASSERT_EQ(got.count, groups.count);
  }
  ASSERT_LE(stripe.long_band() ? stripe.band_end - stripe.band_begin : 1,
            MaxBandElems(layout, test.num_elems));
}

void Check(const LayoutCase& test) {
  SCOPED_TRACE(test.name);
  const std::vector<Stripe> stripes = Cut(test.layout, test.num_elems);
  ASSERT_FALSE(stripes.empty());
  int64_t end = 0, band_end = 0;
  for (size_t i = 0; i < stripes.size(); ++i) {
    const Stripe& stripe = stripes[i];
    ASSERT_EQ(stripe.index, static_cast<int64_t>(i));
    ASSERT_EQ(stripe.begin, end);
    if (stripe.begin == band_end) {
      ASSERT_EQ(stripe.band_begin, stripe.begin);
    } else {  // further on in the same band
      ASSERT_EQ(stripe.band_begin, stripes[i - 1].band_begin);
      ASSERT_EQ(stripe.band_end, band_end);
    }
    ASSERT_NO_FATAL_FAILURE(CheckBounds(test, stripe)) << "stripe " << i;
    ASSERT_NO_FATAL_FAILURE(CheckTiles(test.layout, stripe)) << "stripe " << i;
    ASSERT_NO_FATAL_FAILURE(CheckMemory(test, stripe)) << "stripe " << i;
    end = stripe.end;
    band_end = stripe.band_end;
  }
  ASSERT_EQ(end, test.num_elems);
  ASSERT_EQ(band_end, test.num_elems);
}

// The same for stripes of whole rows, as trailers want.
void CheckWholeRows(const LayoutCase& test) {
  SCOPED_TRACE(test.name);
  const int64_t row_elems = test.layout.row_elems;
  int64_t end = 0;
  for (const Stripe& stripe : Cut(test.layout, test.num_elems, /*whole_rows=*/true)) {
    ASSERT_EQ(stripe.begin, end);
    ASSERT_EQ(stripe.begin % row_elems, 0);
    ASSERT_TRUE(stripe.end % row_elems == 0 || stripe.end == test.num_elems);
    ASSERT_TRUE(stripe.num_elems() <= kStripeElems || stripe.num_elems() == row_elems);
    ASSERT_TRUE(stripe.end == test.num_elems || stripe.num_elems() + row_elems > kStripeElems);
    ASSERT_FALSE(stripe.long_band());
    end = stripe.end;
  }
  ASSERT_EQ(end, test.num_elems);
}

LayoutCase OfScheme(absl::string_view spec, std::vector<int64_t> dims) {
  const TensorDesc tensor = testing::MakeTensor("t", DType::kF32, std::move(dims));
  const absl::StatusOr<Plan> plan = MakePlan(*ParseSpec(spec), tensor, int64_t{1} << 40);
  EXPECT_TRUE(plan.ok()) << spec << plan.status();
  if (!plan.ok()) return {};
  return {absl::StrCat(spec, " of ", tensor.shape.Text()), plan->resolved.layout,
          tensor.shape.num_elems()};
}

std::vector<int64_t> Ends(const LayoutCase& test) {
  std::vector<int64_t> ends;
  for (const Stripe& stripe : Cut(test.layout, test.num_elems)) ends.push_back(stripe.end);
  return ends;
}

// The picture in stripes.h, and its like.
TEST(StripesTest, AreWhereTheyAreDrawn) {
  using Elems = std::vector<int64_t>;
  EXPECT_EQ(Ends(OfScheme("int8:axis=0", {5, 30'000})), (Elems{60'000, 120'000, 150'000}));
  EXPECT_EQ(Ends(OfScheme("int8:axis=0", {2, 100'000})),
            (Elems{65'536, 100'000, 165'536, 200'000}));
  EXPECT_EQ(Ends(OfScheme("fp16", {140'000})), (Elems{65'536, 131'072, 140'000}));
  EXPECT_EQ(Ends(OfScheme("int8:axis=-1", {1400, 100})), (Elems{65'536, 131'072, 140'000}));
  EXPECT_EQ(Ends(OfScheme("int8:block=10x50", {100, 2000})),
            (Elems{60'000, 120'000, 180'000, 200'000}));
  EXPECT_EQ(Ends(OfScheme("int8", {0, 7})), (Elems{0}));
  EXPECT_EQ(Ends(OfScheme("int8", {})), (Elems{1}));
  // Groups of 7 that share bytes by two: a band is 14 elements.
  EXPECT_EQ(Ends(OfScheme("uint4:group=7,tail=short", {1, 140'000})),
            (Elems{65'534, 131'068, 140'000}));
}

TEST(StripesTest, HoldInLayoutsOfSchemes) {
  const std::vector<int64_t> shapes[] = {{1},          {65'536},     {65'537},      {3, 65'536},
                                         {700, 416},   {3, 100'001}, {100'003, 3},  {97, 5, 301},
                                         {2, 150'001}, {5, 7, 9001}, {200, 20'000}, {1'000'001}};
  for (const char* spec :
       {"int8", "int8:axis=0", "int8:axis=-1", "int8:axis=1", "int8:group=1", "uint4:group=1",
        "uint4:group=7,tail=short", "uint4:group=65535,tail=short", "int8:group=70000,tail=short",
        "int8:block=100x1,tail=short", "uint4:block=3x5,tail=short",
        "uint4:block=300x7000,tail=short", "fp16", "q8_0:tail=pad", "nf4", "nf4:group=4096",
        "nvfp4:tail=pad", "int3:layout=words", "int3:layout=words,axis=0",
        "int5:layout=words,group=7,tail=short", "int2:layout=words,group=48,tail=short"}) {
    for (const std::vector<int64_t>& dims : shapes) {
      const TensorDesc tensor = testing::MakeTensor("t", DType::kF32, dims);
      if (!MakePlan(*ParseSpec(spec), tensor, int64_t{1} << 40).ok()) continue;
      ASSERT_NO_FATAL_FAILURE(Check(OfScheme(spec, dims)));
    }
  }
}

TEST(StripesTest, HoldInRandomLayouts) {
  std::mt19937 rng(kSeed);
  for (int i = 0; i < 1500; ++i) {
    const LayoutCase test = RandomLayout(rng);
    ASSERT_NO_FATAL_FAILURE(Check(test)) << "layout " << i << ", seed " << kSeed;
    ASSERT_NO_FATAL_FAILURE(CheckWholeRows(test)) << "layout " << i << ", seed " << kSeed;
  }
}

// The same with outliers, where stripes are whole rows.
TEST(StripesTest, HoldInRandomLayoutsOfRows) {
  std::mt19937 rng(kSeed + 2);
  int64_t checked = 0;
  for (int i = 0; i < 3000; ++i) {
    LayoutCase test = RandomLayout(rng);
    const bool flat = test.layout.row_elems >= test.num_elems;
    const int64_t unit = flat ? test.layout.atom_elems : test.layout.row_elems;
    const int64_t step = std::min(std::lcm(test.row_elems, unit), test.num_elems);
    if (step > kStripeElems) continue;
    test.layout.stripe_step_elems = step;
    ++checked;
    ASSERT_NO_FATAL_FAILURE(Check(test)) << "layout " << i << ", rows of " << test.row_elems;
  }
  EXPECT_GT(checked, 1500);
}

// Bands by their definition, element by element.
TEST(StripesTest, BandsEndWhereAtomsAndUnitsDo) {
  std::mt19937 rng(kSeed + 1);
  for (int i = 0; i < 2000; ++i) {
    const LayoutCase test = RandomLayout(rng);
    if (test.num_elems > 5000 || !test.layout.groups.IsLocal(test.num_elems)) continue;
    SCOPED_TRACE(test.name);
    int64_t end = 0, longest = 0;
    for (int64_t elem = 1; elem <= test.num_elems; ++elem) {
      if (elem > end) {
        longest = std::max(longest, BandEnd(test.layout, test.num_elems, elem) - end);
        end = BandEnd(test.layout, test.num_elems, elem);
      }
      ASSERT_EQ(EndsBand(test, elem), elem == end) << elem;
    }
    ASSERT_LE(longest, MaxBandElems(test.layout, test.num_elems));
  }
}

}  // namespace
}  // namespace quantd
