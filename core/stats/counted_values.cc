// Entry: ValuesOf. Tested by tests/core/stats/sketch_test.cc and, of histograms, by
// tests/core/calibrate/percentile_test.cc.
#include "core/stats/counted_values.h"

#include <algorithm>

namespace quantd {

std::vector<CountedValue> ValuesOf(const Histogram& histogram) {
  const std::span<const int64_t> counts = histogram.counts();
  const auto filled = std::count_if(counts.begin(), counts.end(), [](int64_t n) { return n != 0; });
  std::vector<CountedValue> values;
  values.reserve(static_cast<size_t>(filled));
  for (size_t bits = 0; bits < counts.size(); ++bits) {
    if (counts[bits] == 0) continue;
    const double middle = Histogram::BucketOf(static_cast<uint16_t>(bits)).midpoint();
    values.push_back({(bits & 0x7FFF) == 0 ? 0 : middle, counts[bits]});
  }
  return values;
}

std::vector<CountedValue> ValuesOf(const Sketch& sketch) {
  std::vector<CountedValue> values;
  values.reserve(Sketch::kNumBuckets);
  if (sketch.num_small() > 0) values.push_back({0, sketch.num_small()});
  const int64_t top = sketch.top(), floor = std::max<int64_t>(top - Sketch::kWindow, 0);
  for (const bool negative : {false, true}) {
    for (int64_t bucket = floor + 1; bucket <= top; ++bucket) {
      const auto upper = static_cast<uint32_t>(bucket);
      const int64_t count = sketch.CountOf(negative, upper);
      if (count == 0) continue;
      // Between the least of its bf16 buckets and the largest.
      const auto bits = static_cast<uint16_t>(upper << 3);
      const double middle =
          (Histogram::BucketOf(bits).lower + Histogram::BucketOf(bits | 7).upper) / 2;
      values.push_back({negative ? -middle : middle, count});
    }
  }
  return values;
}

}  // namespace quantd
