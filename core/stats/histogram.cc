// Counting by the upper 16 bits needs no search for a bucket: a shift and an addition for each
// value, NaN and infinities as well, whose few buckets are emptied afterwards. In ascending order
// of values, buckets of negative ones come backwards: 0xFF7F .. 0x8000, 0x0000 .. 0x7F7F.
//
//   1.0 = 0x3F800000 -> bucket 0x3F80, from 1 up to 1.0078125
//
// Entry: Histogram. Tested by tests/core/stats/histogram_test.cc.
#include "core/stats/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

constexpr uint32_t kExponentMask = 0x7F80;  // of the upper 16 bits; all ones are NaN and infinity

bool IsFiniteBucket(uint32_t upper_bits) { return (upper_bits & kExponentMask) != kExponentMask; }

// Returns the upper bits of the bucket that is `place`-th in ascending order of values.
uint16_t BitsInOrder(uint32_t place) {
  return static_cast<uint16_t>(place < 0x8000 ? 0xFFFF - place : place - 0x8000);
}

}  // namespace

absl::StatusOr<Histogram> Histogram::FromCounts(std::span<const int64_t> counts) {
  Histogram histogram;
  if (counts.empty()) return histogram;
  if (counts.size() != kNumBuckets) {
    return absl::InvalidArgumentError(
        absl::StrCat("histogram has ", counts.size(), " buckets; ", kNumBuckets, " are needed"));
  }
  for (uint32_t bits = 0; bits < kNumBuckets; ++bits) {
    const int64_t count = counts[bits];
    if (count < 0 || (count > 0 && !IsFiniteBucket(bits))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "histogram bucket ", bits, " has count ", count, "; ",
          IsFiniteBucket(bits) ? "it must not be negative" : "its values are not finite, so 0"));
    }
    QUANTD_ASSIGN_OR_RETURN(histogram.num_finite_, CheckedAdd(histogram.num_finite_, count));
  }
  histogram.counts_.assign(counts.begin(), counts.end());
  return histogram;
}

void Histogram::Add(std::span<const float> values) {
  for (const float value : values) ++counts_[std::bit_cast<uint32_t>(value) >> 16];
  // Values that are not finite went to buckets of their own, which are emptied here.
  int64_t strays = 0;
  const auto strays_from = [this](uint32_t sign) {
    return std::span(counts_).subspan(sign | kExponentMask, 0x8000 - kExponentMask);
  };
  for (const uint32_t sign : {0x0000u, 0x8000u}) {
    for (const int64_t count : strays_from(sign)) strays += count;
  }
  num_finite_ += static_cast<int64_t>(values.size()) - strays;
  if (strays == 0) return;
  for (const uint32_t sign : {0x0000u, 0x8000u}) std::ranges::fill(strays_from(sign), 0);
  // Infinity shares a bucket with NaNs of a small payload, so that only the values can tell.
  int64_t infinite = 0;
  for (const float value : values) {
    infinite += (std::bit_cast<uint32_t>(value) & 0x7FFFFFFF) == 0x7F800000;
  }
  num_infinite_ += infinite;
  num_nan_ += strays - infinite;
}

absl::Status Histogram::Merge(const Histogram& other) {
  QUANTD_ASSIGN_OR_RETURN(const int64_t num_finite, CheckedAdd(num_finite_, other.num_finite_));
  QUANTD_ASSIGN_OR_RETURN(const int64_t num_nan, CheckedAdd(num_nan_, other.num_nan_));
  QUANTD_ASSIGN_OR_RETURN(const int64_t num_infinite,
                          CheckedAdd(num_infinite_, other.num_infinite_));
  num_finite_ = num_finite;
  num_nan_ = num_nan;
  num_infinite_ = num_infinite;
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  return absl::OkStatus();
}

absl::StatusOr<Histogram::Bucket> Histogram::Quantile(double fraction) const {
  if (!(fraction >= 0 && fraction <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("quantile ", fraction, " is not possible; 0..1 are"));
  }
  if (num_finite_ == 0) {
    return absl::FailedPreconditionError("a histogram without finite values has no quantiles");
  }
  // Beyond 2^53 the product may round up to one more than there are.
  const double wanted = std::ceil(fraction * static_cast<double>(num_finite_));
  const int64_t rank = wanted < 1                                   ? 1
                       : wanted >= static_cast<double>(num_finite_) ? num_finite_
                                                                    : static_cast<int64_t>(wanted);
  int64_t passed = 0;
  uint32_t place = 0;
  for (;; ++place) {
    passed += counts_[BitsInOrder(place)];
    if (passed >= rank) return BucketOf(BitsInOrder(place));
  }
}

Histogram::Bucket Histogram::BucketOf(uint16_t upper_bits) {
  const uint32_t magnitude = upper_bits & 0x7FFF;
  const auto edge = [](uint32_t bits) {
    // The edge after the last finite bucket would read as infinity.
    return bits == kExponentMask ? 0x1p128 : double{std::bit_cast<float>(bits << 16)};
  };
  const double near = edge(magnitude), far = edge(magnitude + 1);
  return upper_bits & 0x8000 ? Bucket{-far, -near} : Bucket{near, far};
}

}  // namespace quantd
