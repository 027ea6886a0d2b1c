// pN: N percent of a group's values lie within its range, those farthest out do not.
//
//   symmetric   |x| in order, the k largest are cut:       [-a, a], a the largest that is left
//   asymmetric  x in order, k are cut at either end:       [the least, the largest that is left]
//
//   k = floor(c * (100 - N) / 100 + 10^-6), of c values;  asymmetric half of that, each end
//
// So what is left ends at values that there are: the nearest rank, as numpy.quantile has it with
// method="inverted_cdf" (the rank is ceil(c * N / 100)), and onnxruntime's percentile calibrator
// cuts half at either end, too. The 10^-6 makes good what 100 - 99.9 lacks in f64: of 1,000 values
// p99.9 cuts one. p100 is minmax. Of 10,000 normal values and one of 1,000, p99.9 ends at about
// 3.3.
//
// A tensor's only group is counted in buckets of the upper 16 bits of f32 (stats/histogram.h), groups
// that recur in those of stats/sketch.h: the rank is exact, the value the middle of its bucket,
// which is within 2^-8 of it, and in groups that recur within 2^-5.
//
// Beside sigma, which is cheaper, it does not follow what lies far out. It takes a selection of the
// values, linear in their number; where nothing is cut, as of 128 values by p99.9, it is minmax.
//
// Entry: percentile_calibrator. Tested by tests/core/calibrate/percentile_test.cc.
#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "core/calibrate/calibrator.h"

namespace quantd {
namespace {

// Returns how many of `count` values are cut, at each end that is.
int64_t NumCut(int64_t count, const RangeWish& wish) {
  const double percent = wish.symmetric ? 100 - wish.argument : (100 - wish.argument) / 2;
  const double cut = std::floor(static_cast<double>(count) * (percent / 100) + 1e-6);
  const int64_t most = wish.symmetric ? count - 1 : (count - 1) / 2;
  return cut >= static_cast<double>(most) ? most : static_cast<int64_t>(cut);
}

Range Within(double reach, const Range& bounds) {
  return {std::max(bounds.min, -reach), std::min(bounds.max, reach)};
}

template <typename T>
Range OfValues(T* values, int64_t count, const RangeWish& wish) {
  const int64_t cut = NumCut(count, wish);
  if (cut == 0) return wish.bounds;
  T* const end = values + count;
  if (wish.symmetric) {
    for (T* value = values; value < end; ++value) *value = std::fabs(*value);
    std::nth_element(values, values + cut, end, std::greater<T>());
    return Within(values[cut], wish.bounds);
  }
  std::nth_element(values, values + cut, end);
  const double low = values[cut] + T{0};  // -0 is +0
  if (2 * cut + 1 == count) return {low, low};
  std::nth_element(values + cut + 1, end - 1 - cut, end);
  return {low, end[-1 - cut] + T{0}};
}

// Of what is counted, each part by ascending magnitude.
struct CountedParts {
  std::span<const CountedValue> positive, negative;
};

CountedParts PartsOf(std::span<const CountedValue> counts) {
  const auto falls = [](const CountedValue& a, const CountedValue& b) { return a.value > b.value; };
  const auto split = std::adjacent_find(counts.begin(), counts.end(), falls);
  const auto num_positive = static_cast<size_t>(
      split == counts.end() ? std::ssize(counts) : split - counts.begin() + 1);
  return {counts.first(num_positive), counts.subspan(num_positive)};
}

// Returns the value behind the first `cut`, of `a` from its end, then of `b`.
double ValueBehind(int64_t cut, std::span<const CountedValue> a, std::span<const CountedValue> b) {
  for (auto counted = a.rbegin(); counted != a.rend(); ++counted) {
    if (cut < counted->count) return counted->value;
    cut -= counted->count;
  }
  for (const CountedValue& counted : b) {
    if (cut < counted.count) return counted.value;
    cut -= counted.count;
  }
  return 0;  // there are more
}

// Returns the largest magnitude behind the first `cut`.
double MagnitudeBehind(int64_t cut, CountedParts parts) {
  while (true) {
    const auto last_of = [](std::span<const CountedValue> part) {
      return part.empty() ? -1 : std::fabs(part.back().value);
    };
    auto& part = last_of(parts.positive) >= last_of(parts.negative) ? parts.positive
                                                                     : parts.negative;
    if (part.empty()) return 0;  // there are more
    const CountedValue& last = part.back();
    if (cut < last.count) return std::fabs(last.value);
    cut -= last.count;
    part = part.first(part.size() - 1);
  }
}

Range OfCounts(std::span<const CountedValue> counts, const RangeWish& wish) {
  int64_t count = 0;
  for (const CountedValue& counted : counts) count += counted.count;
  const int64_t cut = NumCut(count, wish);
  if (cut == 0) return wish.bounds;
  const CountedParts parts = PartsOf(counts);
  const Range& bounds = wish.bounds;
  if (wish.symmetric) {
    const double largest = std::max(-bounds.min, bounds.max);
    return Within(std::min(MagnitudeBehind(cut, parts), largest), bounds);
  }
  const auto within = [&bounds](double value) {
    return std::max(bounds.min, std::min(bounds.max, value));
  };
  return {within(ValueBehind(cut, parts.negative, parts.positive)),
          within(ValueBehind(cut, parts.positive, parts.negative))};
}

}  // namespace

const Calibrator& percentile_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "percentile",
      .text = "pN (N above 0, at most 100)",
      .summary = "N percent of the values: those farthest out are cut",
      .needs_moments = false,
      .is_minmax = false,
      .parse = [](absl::string_view text) -> std::optional<double> {
        double argument;
        if (!absl::ConsumePrefix(&text, "p") || !absl::SimpleAtod(text, &argument) ||
            !(argument > 0 && argument <= 100)) {
          return std::nullopt;
        }
        return argument;
      },
      .range = RangeOfExtremes,
      .needs_values = true,
      .range_of_values =
          [](TileSpan finite, const RangeWish& wish) {
            return finite.Visit(
                [&](auto* values) { return OfValues(values, finite.num_elems, wish); });
          },
      .range_of_counts = OfCounts};
  return kCalibrator;
}

}  // namespace quantd
