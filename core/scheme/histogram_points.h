#ifndef QUANTD_CORE_SCHEME_HISTOGRAM_POINTS_H_
#define QUANTD_CORE_SCHEME_HISTOGRAM_POINTS_H_

#include <cmath>
#include <cstdint>

#include "core/stats/histogram.h"
#include "core/tensor/dtype.h"

namespace quantd {

// What schemes that learn from a histogram take for the values of a tensor of some dtype: a point
// for each bucket with values, at its midpoint, or where values are bf16 or smaller integers at the
// one value that it can hold; that of zero lies at 0.
class HistogramPoints {
 public:
  HistogramPoints(const Histogram& histogram, DType dtype)
      : histogram_(histogram), one_value_(IsOneValueABucket(dtype)) {
    for (const uint32_t sign : {0u, kSign}) {  // most buckets are far from all values
      Span& span = sign == 0 ? positive_ : negative_;
      span = {sign, sign | kInfinity};
      while (span.begin < span.end && histogram.counts()[span.begin] == 0) ++span.begin;
      while (span.begin < span.end && histogram.counts()[span.end - 1] == 0) --span.end;
    }
  }

  int64_t total() const { return histogram_.num_finite(); }

  // Calls fn(x, count) for the points with a count, in ascending order.
  template <typename Fn>
  void ForEach(Fn fn) const {
    for (uint32_t bits = negative_.end; bits-- > negative_.begin;) Visit(bits, fn);
    for (uint32_t bits = positive_.begin; bits < positive_.end; ++bits) Visit(bits, fn);
  }

 private:
  // True where each bucket can hold one value alone, its edge near zero.
  static bool IsOneValueABucket(DType dtype) {
    switch (dtype) {
      case DType::kBf16:
      case DType::kInt8:
      case DType::kUint8:
      case DType::kF8E4M3:
      case DType::kF8E5M2:
        return true;
      default:
        return false;
    }
  }
  static constexpr uint32_t kSign = 0x8000, kInfinity = 0x7F80;  // in the upper 16 bits

  // Buckets, by the upper bits.
  struct Span {
    uint32_t begin, end;
  };

  template <typename Fn>
  void Visit(uint32_t bits, Fn fn) const {
    const int64_t count = histogram_.counts()[bits];
    if (count == 0) return;
    const Histogram::Bucket bucket = Histogram::BucketOf(static_cast<uint16_t>(bits));
    const double near = std::fabs(bucket.lower) < std::fabs(bucket.upper) ? bucket.lower
                                                                          : bucket.upper;
    fn(near == 0 ? 0.0 : one_value_ ? near : bucket.midpoint(), count);
  }

  const Histogram& histogram_;
  const bool one_value_;
  Span positive_, negative_;
};

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_HISTOGRAM_POINTS_H_
