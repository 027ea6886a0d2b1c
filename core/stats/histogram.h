#ifndef QUANTD_CORE_STATS_HISTOGRAM_H_
#define QUANTD_CORE_STATS_HISTOGRAM_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quantd {

// Counts finite f32 values by their upper 16 bits: sign, exponent and 7 bits of mantissa, that is
// the bf16 value next to them toward zero. A bucket at exponent e is 2^(e - 7) wide, between 2^-8
// and 2^-7 of its values (subnormal ones: 2^-133 in absolute terms), so its midpoint is within 2^-8
// of each of them. Counts are integers: merging is exact, in any order. NaN and infinities are
// counted apart. Thread-compatible.
class Histogram {
 public:
  static constexpr int kNumBuckets =
      65536;  // by the upper 16 bits; those of NaN and infinity stay 0

  // The interval of values that one bucket holds. The edge nearer to zero belongs to it, the other
  // does not; the outermost edges are +-2^128.
  struct Bucket {
    double lower = 0, upper = 0;
    double midpoint() const { return (lower + upper) / 2; }  // exact: edges have 8 bits
  };

  Histogram() : counts_(kNumBuckets) {}

  // Returns the histogram with these counts of finite values, in order of the upper 16 bits; none
  // at all make an empty one. kInvalidArgument naming the bucket: there are not kNumBuckets, a
  // count is negative or that of a bucket of NaN or infinity, or the sum leaves int64.
  static absl::StatusOr<Histogram> FromCounts(std::span<const int64_t> counts);

  void Add(std::span<const float> values);

  // Adds the counts of `other`; kInvalidArgument, changing nothing, if the sum leaves int64.
  absl::Status Merge(const Histogram& other);

  std::span<const int64_t> counts() const { return counts_; }
  int64_t num_finite() const { return num_finite_; }
  int64_t num_nan() const { return num_nan_; }
  int64_t num_infinite() const { return num_infinite_; }

  // Returns the bucket that holds the value of rank max(1, ceil(fraction * num_finite)) in
  // ascending order (the nearest-rank quantile). kInvalidArgument: `fraction` is not in 0..1.
  // kFailedPrecondition: there is no finite value.
  absl::StatusOr<Bucket> Quantile(double fraction) const;

  // Returns the interval of the bucket of these upper 16 bits, which are not those of NaN or
  // infinity.
  static Bucket BucketOf(uint16_t upper_bits);

 private:
  std::vector<int64_t> counts_;
  int64_t num_finite_ = 0, num_nan_ = 0, num_infinite_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_STATS_HISTOGRAM_H_
