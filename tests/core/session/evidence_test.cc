#include "core/session/evidence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/simd/convert.h"
#include "gtest/gtest.h"
#include "tests/support/layouts.h"
#include "tests/support/values.h"

// Evidence against what a plain loop over the values finds, in random layouts, whoever scans what.

namespace quantd {
namespace {

using testing::LayoutCase;
using testing::MakeTensor;
using testing::MakeValues;
using testing::RandomLayout;
using testing::ValueKind;

constexpr uint32_t kSeed = 20241128;

struct Found {
  int64_t first_group = 0;
  std::vector<GroupStats> stats;
  int64_t non_finite = 0;
  std::vector<int64_t> histogram;

  bool operator==(const Found&) const = default;
};

// The order in which stripes are scanned; parts are merged in stripe order.
enum class Order { kForward, kBackward, kShuffled };

// Values of a tensor, and how they are to be scanned.
struct Input {
  const PackedLayout& layout;
  const GroupMap& groups;
  int64_t num_elems;
  DType dtype;
  std::vector<std::byte> bytes;
  EvidenceWants wants;
};

Found Collect(const Input& in, int64_t begin, int64_t end, Order order, std::mt19937& rng) {
  EvidenceCollector collector(in.layout, in.groups, in.num_elems, in.dtype, in.wants, begin, end);
  std::vector<Stripe> stripes;
  for (StripeCutter cutter(in.layout, in.num_elems); !cutter.done(); cutter.Next()) {
    const Stripe& stripe = cutter.stripe();
    if (stripe.begin >= begin && stripe.end <= end) stripes.push_back(stripe);
  }
  std::vector<size_t> turns(stripes.size());
  for (size_t i = 0; i < turns.size(); ++i) turns[i] = i;
  if (order == Order::kBackward) std::reverse(turns.begin(), turns.end());
  if (order == Order::kShuffled) std::shuffle(turns.begin(), turns.end(), rng);
  std::vector<EvidenceCollector::Part> parts(stripes.size());
  for (const size_t i : turns) {
    const auto from = static_cast<size_t>(stripes[i].begin * SizeOf(in.dtype));
    const auto size = static_cast<size_t>(stripes[i].num_elems() * SizeOf(in.dtype));
    std::span<const std::byte> left = std::span(in.bytes).subspan(from, size);
    ByteRange values;
    while (!left.empty()) {  // in pieces that end anywhere
      const size_t piece = order == Order::kForward
                               ? left.size()
                               : std::min<size_t>(1 + rng() % 50'000, left.size());
      values.Append(left.first(piece));
      left = left.subspan(piece);
    }
    parts[i] = collector.Scan(stripes[i], values);
  }
  for (const EvidenceCollector::Part& part : parts) collector.Merge(part);
  Found found = {collector.first_group(), collector.TakeStats(), collector.non_finite(), {}};
  if (const std::unique_ptr<Histogram> histogram = collector.TakeHistogram()) {
    found.histogram.assign(histogram->counts().begin(), histogram->counts().end());
  }
  return found;
}

std::vector<double> Widened(const Input& in) {
  std::vector<double> values(static_cast<size_t>(in.num_elems));
  if (in.dtype == DType::kF32) {
    for (size_t i = 0; i < values.size(); ++i) {
      float value;
      std::memcpy(&value, &in.bytes[i * sizeof(float)], sizeof(float));
      values[i] = value;
    }
  } else if (WorksAsF32(in.dtype)) {
    std::vector<float> narrow(values.size());
    WidenToF32(in.dtype, in.bytes.data(), in.num_elems, narrow.data());
    values.assign(narrow.begin(), narrow.end());
  } else if (in.dtype == DType::kF64) {
    std::memcpy(values.data(), in.bytes.data(), in.bytes.size());
  } else {
    WidenToF64(in.dtype, in.bytes.data(), in.num_elems, values.data());
  }
  return values;
}

// What elements [begin, end) show, one by one.
Found Recompute(const Input& in, const std::vector<double>& values, int64_t begin, int64_t end,
                const Found& got) {
  Found found = {got.first_group, std::vector<GroupStats>(got.stats.size()), 0, {}};
  std::vector<long double> sums(found.stats.size()), squares(sums), magnitudes(sums);
  if (in.wants.histogram) found.histogram.resize(Histogram::kNumBuckets);
  const auto each = [&](auto fn) {
    for (int64_t elem = begin; elem < end; ++elem) {
      const double value = values[static_cast<size_t>(elem)];
      const int64_t group = in.groups.RunAt(elem).group - found.first_group;
      fn(value, static_cast<size_t>(group));
    }
  };
  each([&](double value, size_t group) {
    if (!std::isfinite(value)) {
      found.non_finite += in.wants.non_finite;
      return;
    }
    GroupStats& stats = found.stats[group];
    stats.min = stats.count == 0 ? value : std::min(stats.min, value);
    stats.max = stats.count == 0 ? value : std::max(stats.max, value);
    ++stats.count;
    sums[group] += value;
    magnitudes[group] += std::min<double>(std::fabs(value), std::numeric_limits<float>::max());
    if (in.wants.histogram) {
      const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
      ++found.histogram[bits >> 16];
    }
  });
  each([&](double value, size_t group) {
    if (!std::isfinite(value)) return;
    const long double mean = sums[group] / static_cast<long double>(found.stats[group].count);
    squares[group] += (value - mean) * (value - mean);
  });
  for (size_t i = 0; i < found.stats.size(); ++i) {
    GroupStats& stats = found.stats[i];
    if (in.wants.magnitudes) stats.magnitudes = static_cast<double>(magnitudes[i]);
    if (!in.wants.moments || stats.count == 0) continue;
    stats.mean = static_cast<double>(sums[i] / static_cast<long double>(stats.count));
    stats.m2 = static_cast<double>(squares[i]);
  }
  return found;
}

void Compare(const Input& in, const Found& got, const Found& want) {
  ASSERT_EQ(got.non_finite, want.non_finite);
  ASSERT_EQ(got.histogram, want.histogram);
  for (size_t i = 0; i < got.stats.size(); ++i) {
    SCOPED_TRACE(absl::StrCat("group ", i));
    const GroupStats &stats = got.stats[i], &expected = want.stats[i];
    if (!in.wants.sums()) {  // the count says whether there was a value
      ASSERT_EQ(stats.count > 0, expected.count > 0);
    } else {
      ASSERT_EQ(stats.count, expected.count);
    }
    ASSERT_NEAR(stats.magnitudes, expected.magnitudes, 1e-12 * expected.magnitudes);
    if (!in.wants.moments) {
      ASSERT_EQ(stats.m2, 0);
    } else {
      const double deviation = std::sqrt(expected.m2 / static_cast<double>(expected.count + 1));
      ASSERT_NEAR(stats.mean, expected.mean, 1e-5 * (std::fabs(expected.mean) + deviation));
      ASSERT_NEAR(stats.m2, expected.m2, 1e-5 * expected.m2 + 1e-12);
    }
    if (expected.count == 0) continue;
    ASSERT_EQ(stats.min, expected.min);
    ASSERT_EQ(stats.max, expected.max);
  }
}

void Check(const Input& in, int64_t begin, int64_t end, std::mt19937& rng) {
  const Found forward = Collect(in, begin, end, Order::kForward, rng);
  ASSERT_NO_FATAL_FAILURE(
      Compare(in, forward, Recompute(in, Widened(in), begin, end, forward)));
  for (const Order order : {Order::kBackward, Order::kShuffled}) {
    ASSERT_TRUE(Collect(in, begin, end, order, rng) == forward) << "another order";
  }
}

TEST(EvidenceTest, EqualsARecomputationInAnyOrder) {
  std::mt19937 rng(kSeed);
  const DType dtypes[] = {DType::kF32, DType::kF64, DType::kF16, DType::kBf16, DType::kInt8,
                          DType::kInt32, DType::kUint16};
  for (int i = 0; i < 300; ++i) {
    const LayoutCase test = RandomLayout(rng);
    const GroupMap whole = WholeTensor(test.num_elems);
    const DType dtype = dtypes[rng() % std::size(dtypes)];
    Input in = {test.layout,
                rng() % 4 == 0 ? whole : test.layout.groups,
                test.num_elems,
                dtype,
                {},
                {.moments = rng() % 2 == 0,
                 .magnitudes = rng() % 3 == 0,
                 .histogram = rng() % 8 == 0,
                 .non_finite = IsFloat(dtype)}};
    const TensorDesc tensor = MakeTensor("t", dtype, {test.num_elems});
    in.bytes = MakeValues(tensor, ValueKind::kNonFinite, static_cast<uint32_t>(i));
    SCOPED_TRACE(absl::StrCat(test.name, ", ", NameOf(dtype), ", moments ", in.wants.moments,
                              ", magnitudes ", in.wants.magnitudes,
                              ", layout ", i, ", seed ", kSeed));
    ASSERT_NO_FATAL_FAILURE(Check(in, 0, test.num_elems, rng));
  }
}

// Each by itself, as sessions hold them: also those whose rows have more groups than a stripe.
TEST(EvidenceTest, OfOneLongBand) {
  std::mt19937 rng(kSeed + 1);
  int bands = 0;
  for (int i = 0; i < 3000 && bands < 60; ++i) {
    LayoutCase test = RandomLayout(rng);
    if (i == 0) {
      const Shape shape = *Shape::Make({40, 20'000});
      Granularity granularity = {.kind = GranularityKind::kBlock};
      granularity.block_rows = 30;
      granularity.block_cols = 1;
      test.layout.groups = MakeGrouping(granularity, Tail::kShort, shape)->map;
      test.num_elems = test.layout.row_elems = shape.num_elems();
    }
    if (MaxBandElems(test.layout, test.num_elems) <= kStripeElems ||
        !test.layout.groups.IsLocal(test.num_elems)) {
      continue;
    }
    Input in = {test.layout, test.layout.groups, test.num_elems, DType::kF32, {}, {}};
    in.wants.moments = i % 2 == 1;
    in.wants.magnitudes = i % 3 == 1;
    in.bytes = MakeValues(MakeTensor("t", DType::kF32, {test.num_elems}), ValueKind::kNonFinite,
                          static_cast<uint32_t>(i));
    int64_t last_end = 0;
    for (StripeCutter cutter(test.layout, test.num_elems); !cutter.done(); cutter.Next()) {
      const Stripe stripe = cutter.stripe();
      if (!stripe.long_band() || stripe.band_end == last_end) continue;
      last_end = stripe.band_end;
      ++bands;
      SCOPED_TRACE(absl::StrCat(test.name, ", band from ", stripe.band_begin, ", layout ", i,
                                ", seed ", kSeed));
      ASSERT_NO_FATAL_FAILURE(Check(in, stripe.band_begin, stripe.band_end, rng));
    }
  }
  EXPECT_EQ(bands, 60);
}

TEST(EvidenceTest, OfNothing) {
  PackedLayout layout;
  layout.groups.num_groups = 5;  // groups without elements
  EvidenceCollector collector(layout, layout.groups, 0, DType::kF32,
                              {.moments = true, .histogram = true, .non_finite = true}, 0, 0);
  collector.Merge(collector.Scan({}, {}));
  EXPECT_EQ(collector.TakeStats(), std::vector<GroupStats>(5));
  EXPECT_EQ(collector.non_finite(), 0);
  EXPECT_EQ(collector.TakeHistogram()->num_finite(), 0);
}

}  // namespace
}  // namespace quantd
