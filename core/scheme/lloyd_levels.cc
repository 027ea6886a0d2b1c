// The entry is LloydLevels. Tested by tests/core/scheme/lloyd_test.cc.
#include "core/scheme/lloyd_levels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace quantd {
namespace {

constexpr int kMaxRounds = 64;

using Levels = std::vector<double>;

// True where each bucket can hold one value alone, its edge near zero.
bool IsOneValueABucket(DType dtype) {
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

// The points of a histogram.
class Points {
 public:
  Points(const Histogram& histogram, DType dtype)
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

Levels QuantileLevels(const Points& points, size_t num_levels) {
  Levels levels(num_levels);
  const auto parts = static_cast<double>(2 * num_levels);
  size_t next = 0;
  int64_t passed = 0;
  points.ForEach([&](double x, int64_t count) {
    passed += count;
    while (next < levels.size() && static_cast<double>(passed) >=
                                       static_cast<double>(2 * next + 1) / parts *
                                           static_cast<double>(points.total())) {
      levels[next++] = x;
    }
  });
  return levels;
}

// Returns the levels after one round.
Levels NextLevels(const Points& points, const Levels& levels) {
  Levels sums(levels.size());
  std::vector<int64_t> counts(levels.size());
  double worst = 0, worst_x = 0;
  size_t cell = 0;
  points.ForEach([&](double x, int64_t count) {
    while (cell + 1 < levels.size() && x > (levels[cell] + levels[cell + 1]) / 2) ++cell;
    const double weight = static_cast<double>(count);
    sums[cell] += x * weight;
    counts[cell] += count;
    const double error = x - levels[cell];
    if (error * error * weight > worst) {
      worst = error * error * weight;
      worst_x = x;
    }
  });
  Levels next = levels;
  bool filled = false;
  for (size_t k = 0; k < next.size(); ++k) {
    if (counts[k] > 0) {
      next[k] = sums[k] / static_cast<double>(counts[k]);
    } else if (!filled && worst > 0) {
      next[k] = worst_x;
      filled = true;
    }
  }
  std::sort(next.begin(), next.end());
  return next;
}

// Runs rounds until levels stay.
Levels Settle(const Points& points, Levels levels) {
  for (int round = 0; round < kMaxRounds; ++round) {
    Levels next = NextLevels(points, levels);
    if (next == levels) break;
    levels = std::move(next);
  }
  return levels;
}

// Returns twice as many levels: of each cell the means of the points up to its level and of those
// above it, or the level itself where there are none.
Levels Split(const Points& points, const Levels& levels) {
  Levels sums(2 * levels.size());
  std::vector<int64_t> counts(sums.size());
  size_t cell = 0;
  points.ForEach([&](double x, int64_t count) {
    while (cell + 1 < levels.size() && x > (levels[cell] + levels[cell + 1]) / 2) ++cell;
    const size_t half = 2 * cell + (x > levels[cell] ? 1 : 0);
    sums[half] += x * static_cast<double>(count);
    counts[half] += count;
  });
  for (size_t k = 0; k < sums.size(); ++k) {
    sums[k] = counts[k] > 0 ? sums[k] / static_cast<double>(counts[k]) : levels[k / 2];
  }
  return sums;
}

}  // namespace

std::vector<double> LloydLevels(const Histogram& histogram, DType dtype, size_t num_levels) {
  const Points points(histogram, dtype);
  constexpr size_t kMostAtOnce = 16;
  Levels levels = Settle(points, QuantileLevels(points, std::min(num_levels, kMostAtOnce)));
  while (levels.size() < num_levels) levels = Settle(points, Split(points, levels));
  return levels;
}

}  // namespace quantd
