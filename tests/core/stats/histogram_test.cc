#include "core/stats/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kSeed = 20240612;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

float FromBits(uint32_t bits) { return std::bit_cast<float>(bits); }

// Values of all magnitudes and both signs: random bits, with the few that are not finite left out.
std::vector<float> RandomValues(size_t count) {
  std::mt19937 rng(kSeed);
  std::vector<float> values;
  while (values.size() < count) {
    const float value = FromBits(static_cast<uint32_t>(rng()));
    if (std::isfinite(value)) values.push_back(value);
  }
  return values;
}

Histogram HistogramOf(std::span<const float> values) {
  Histogram histogram;
  histogram.Add(values);
  return histogram;
}

void ExpectEqual(const Histogram& a, const Histogram& b) {
  EXPECT_TRUE(std::ranges::equal(a.counts(), b.counts()));
  EXPECT_EQ(a.num_finite(), b.num_finite());
  EXPECT_EQ(a.num_nan(), b.num_nan());
  EXPECT_EQ(a.num_infinite(), b.num_infinite());
}

TEST(HistogramTest, CountsByUpperBits) {
  const Histogram histogram =
      HistogramOf(std::vector<float>{0.0f, -0.0f, 1.0f, 1.0078124f, 1.0078125f, -3e38f, 1e-45f});
  EXPECT_EQ(histogram.counts()[0x0000], 2);  // 0 and the smallest subnormal
  EXPECT_EQ(histogram.counts()[0x8000], 1);
  EXPECT_EQ(histogram.counts()[0x3F80], 2);  // 1.0078125 = 1 + 2^-7 opens the next bucket
  EXPECT_EQ(histogram.counts()[0x3F81], 1);
  EXPECT_EQ(histogram.counts()[std::bit_cast<uint32_t>(-3e38f) >> 16], 1);
  EXPECT_EQ(histogram.num_finite(), 7);
}

TEST(HistogramTest, CountsNanAndInfinityApart) {
  // 0x7F800001 is a NaN whose upper bits are those of infinity.
  const Histogram histogram = HistogramOf(std::vector<float>{
      1, kInfinity, -kInfinity, kInfinity, FromBits(0x7F800001), FromBits(0xFFFFFFFF), NAN, 2});
  EXPECT_EQ(histogram.num_finite(), 2);
  EXPECT_EQ(histogram.num_infinite(), 3);
  EXPECT_EQ(histogram.num_nan(), 3);
  int64_t sum = 0;
  for (const int64_t count : histogram.counts()) sum += count;
  EXPECT_EQ(sum, 2);
}

TEST(HistogramTest, BucketsHoldTheirValuesAndAreNarrow) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float first = FromBits(bits << 16), last = FromBits((bits << 16) | 0xFFFF);
    if (!std::isfinite(first)) continue;
    const Histogram::Bucket bucket = Histogram::BucketOf(static_cast<uint16_t>(bits));
    const double near = std::abs(double{first}), far = std::abs(double{last});
    const bool negative = (bits & 0x8000) != 0;
    ASSERT_EQ(negative ? -bucket.upper : bucket.lower, near) << bits;
    ASSERT_GT(negative ? -bucket.lower : bucket.upper, far) << bits;
    const double width = bucket.upper - bucket.lower;
    if (near >= 0x1p-126) {
      ASSERT_LE(width, near * 0x1p-7) << bits;
      ASSERT_GE(width, far * 0x1p-8) << bits;
      ASSERT_LE(std::abs(std::abs(bucket.midpoint()) - near), near * 0x1p-8) << bits;
      ASSERT_LE(std::abs(std::abs(bucket.midpoint()) - far), far * 0x1p-8) << bits;
    } else {
      ASSERT_EQ(width, 0x1p-133) << bits;
    }
  }
}

TEST(HistogramTest, CutsAndMergesInAnyOrderGiveTheSame) {
  std::vector<float> values = RandomValues(10000);
  values[17] = NAN;
  values[9000] = kInfinity;
  const Histogram whole = HistogramOf(values);
  Histogram cut, merged;
  for (size_t i = 0; i < values.size(); i += 777) {
    const auto piece = std::span(values).subspan(i, std::min<size_t>(777, values.size() - i));
    cut.Add(piece);
    Histogram later = HistogramOf(piece);
    ASSERT_TRUE(later.Merge(merged).ok());  // the newest first
    merged = later;
  }
  ExpectEqual(cut, whole);
  ExpectEqual(merged, whole);
}

TEST(HistogramTest, QuantileIsTheBucketOfTheNearestRank) {
  std::vector<float> values = RandomValues(4999);
  const Histogram histogram = HistogramOf(values);
  std::sort(values.begin(), values.end());
  for (const double fraction : {0.0, 1e-9, 0.001, 0.25, 0.5, 0.75, 0.999, 1.0}) {
    const double rank = std::max(1.0, std::ceil(fraction * 4999));
    const double exact = values[static_cast<size_t>(rank) - 1];
    const absl::StatusOr<Histogram::Bucket> bucket = histogram.Quantile(fraction);
    ASSERT_TRUE(bucket.ok()) << bucket.status();
    EXPECT_LE(bucket->lower, exact) << fraction << ", seed " << kSeed;
    EXPECT_GE(bucket->upper, exact) << fraction << ", seed " << kSeed;
    EXPECT_NEAR(bucket->midpoint(), exact, std::abs(exact) * 0x1p-8 + 0x1p-133);
  }
}

TEST(HistogramTest, QuantileReachesBothEnds) {
  const float largest = std::numeric_limits<float>::max();
  const Histogram histogram = HistogramOf(std::vector<float>{largest, -largest});
  EXPECT_EQ(histogram.Quantile(0)->lower, -0x1p128);
  EXPECT_EQ(histogram.Quantile(1)->upper, 0x1p128);
}

TEST(HistogramTest, QuantileOfManyValuesStaysInRange) {
  std::vector<int64_t> counts(Histogram::kNumBuckets);
  counts[0x3F80] = (int64_t{1} << 62) + 1;
  counts[0xC000] = 1;
  const absl::StatusOr<Histogram> histogram = Histogram::FromCounts(counts);
  ASSERT_TRUE(histogram.ok());
  EXPECT_EQ(histogram->Quantile(1)->lower, 1);
  EXPECT_EQ(histogram->Quantile(0)->upper, -2);
}

TEST(HistogramTest, QuantileErrorsNameTheReason) {
  const Histogram empty;
  EXPECT_EQ(empty.Quantile(0.5).status().code(), absl::StatusCode::kFailedPrecondition);
  const Histogram one = HistogramOf(std::vector<float>{1});
  for (const double fraction : {-0.1, 1.5, double{NAN}}) {
    EXPECT_EQ(one.Quantile(fraction).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(one.Quantile(1.5).status().message(), "quantile 1.5 is not possible; 0..1 are");
}

TEST(HistogramTest, CountsFromOutsideAreChecked) {
  const std::vector<float> values = RandomValues(1000);
  const Histogram histogram = HistogramOf(values);
  const absl::StatusOr<Histogram> again = Histogram::FromCounts(histogram.counts());
  ASSERT_TRUE(again.ok()) << again.status();
  ExpectEqual(*again, histogram);
  EXPECT_EQ(Histogram::FromCounts({})->num_finite(), 0);

  const auto refusal = [](size_t buckets, size_t at, int64_t count, size_t at2, int64_t count2) {
    std::vector<int64_t> counts(buckets);
    counts[at] = count;
    counts[at2] = count2;
    const absl::Status status = Histogram::FromCounts(counts).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(100, 0, 1, 1, 1), HasSubstr("100 buckets; 65536 are needed"));
  EXPECT_THAT(refusal(65536, 7, -2, 1, 1), HasSubstr("bucket 7 has count -2"));
  EXPECT_THAT(refusal(65536, 0x7F80, 3, 1, 1), HasSubstr("bucket 32640 has count 3"));
  EXPECT_THAT(refusal(65536, 0xFFFF, 3, 1, 1), HasSubstr("not finite"));
  EXPECT_THAT(refusal(65536, 5, INT64_MAX, 6, 1), HasSubstr("overflows 64 bits"));
}

TEST(HistogramTest, MergeThatOverflowsChangesNothing) {
  std::vector<int64_t> counts(Histogram::kNumBuckets);
  counts[3] = INT64_MAX;
  Histogram full = *Histogram::FromCounts(counts);
  const Histogram one = HistogramOf(std::vector<float>{1});
  EXPECT_EQ(full.Merge(one).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::ranges::equal(full.counts(), counts));
  EXPECT_EQ(full.num_finite(), INT64_MAX);
}

}  // namespace
}  // namespace quantd
