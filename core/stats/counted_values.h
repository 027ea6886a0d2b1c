#ifndef QUANTD_CORE_STATS_COUNTED_VALUES_H_
#define QUANTD_CORE_STATS_COUNTED_VALUES_H_

#include <cstdint>
#include <vector>

#include "core/stats/histogram.h"
#include "core/stats/sketch.h"

namespace quantd {

// A value that `count` values, at least 1, are counted as.
struct CountedValue {
  double value = 0;
  int64_t count = 0;
};

// Returns what the buckets that have values count as: their midpoints, and 0 next to 0. Those of
// positive values come first, then those of negative ones, each by ascending magnitude.
std::vector<CountedValue> ValuesOf(const Histogram& histogram);
std::vector<CountedValue> ValuesOf(const Sketch& sketch);

}  // namespace quantd

#endif  // QUANTD_CORE_STATS_COUNTED_VALUES_H_
