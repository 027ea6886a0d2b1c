// The entries are both LloydLevels. Tested by tests/core/scheme/lloyd_test.cc.
#include "core/scheme/lloyd_levels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "core/scheme/histogram_points.h"

namespace quantd {
namespace {

constexpr int kMaxRounds = 64;

using Levels = std::vector<double>;

// Values of a group as points, which are sorted: a point for each that differs.
template <typename T>
class ValuePoints {
 public:
  explicit ValuePoints(std::span<T> values) : values_(values) {
    std::sort(values.begin(), values.end());
  }

  int64_t total() const { return std::ssize(values_); }

  // Calls fn(x, count) for the points, in ascending order.
  template <typename Fn>
  void ForEach(Fn fn) const {
    constexpr double kLargest = std::numeric_limits<float>::max();
    for (size_t begin = 0, end; begin < values_.size(); begin = end) {
      end = begin + 1;
      while (end < values_.size() && values_[end] == values_[begin]) ++end;
      const double x = std::clamp(double{values_[begin]} + 0.0, -kLargest, kLargest);
      fn(x, static_cast<int64_t>(end - begin));
    }
  }

 private:
  std::span<const T> values_;
};

template <typename Points>
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
template <typename Points>
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
template <typename Points>
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
template <typename Points>
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

// Returns the levels of points.
template <typename Points>
Levels LevelsOf(const Points& points, size_t num_levels) {
  constexpr size_t kMostAtOnce = 16;
  Levels levels = Settle(points, QuantileLevels(points, std::min(num_levels, kMostAtOnce)));
  while (levels.size() < num_levels) levels = Settle(points, Split(points, levels));
  return levels;
}

}  // namespace

std::vector<double> LloydLevels(const Histogram& histogram, DType dtype, size_t num_levels) {
  return LevelsOf(HistogramPoints(histogram, dtype), num_levels);
}

std::vector<double> LloydLevels(TileSpan values, size_t num_levels) {
  return values.Visit([&]<typename T>(T* from) {
    const auto count = static_cast<size_t>(values.num_elems);
    return LevelsOf(ValuePoints<T>({from, count}), num_levels);
  });
}

}  // namespace quantd
