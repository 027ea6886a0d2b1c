// entropy: a group's range ends where 128 levels tell the most of how its values lie, as TensorRT's
// and onnxruntime's calibrators look for it:
//
//   |x| in 2,048 bins of one width, from 0 to the largest |x|, n values in all
//   for each t of 128 to 2,048 bins:
//     P  the bins below t; the last one has all values beyond as well
//     Q  the same without these, each 1/128 of the bins (t / 128 rounded down; the last part the
//        rest) made even over those that P has values in
//     D  = sum of P log2(P / Q), each divided by its sum;   infinite where P has some and Q none
//   the range is that of the t with the least D, the largest of equal ones, on both sides of 0:
//   [max(min, -t w), min(max, t w)], w the width of a bin
//
// Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 38 to 43. onnxruntime does it on
// bins of x, gives empty bins of P and Q 10^-4, and TensorRT ends half a bin farther out: the ranges
// are alike, not the same.
//
// As t grows by one bin, all of Q but its last part stays, unless its parts get wider, which happens
// 15 times. So D is made of prefix sums, 2,000 terms of D and 2,000 parts of Q in all, where the
// usual 1,921 times 2,048 take a second. Logarithms are our own, so that ranges are the same
// everywhere; counts are whole numbers in f64.
//
// It is for layers' activations, by tensor, in 8 bits: what few far values there are goes first.
// 2,048 bins of 128 values say little. Beside percentile it has no number to choose.
//
// Entry: entropy_calibrator. Tested by tests/core/calibrate/entropy_test.cc.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/calibrate/calibrator.h"

namespace quantd {
namespace {

constexpr int kBins = 2048;
constexpr int kLevels = 128;

// Returns log2 of `x`, a normal number above 0: x = 2^e m, m in [sqrt(1/2), sqrt(2)), and
// ln m = 2 (z + z^3 / 3 + z^5 / 5 ..), z = (m - 1) / (m + 1), which ends at z^19: 2^-52 off at most.
double Log2(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFF) | 0x3FF0000000000000);
  if (m > 1.4142135623730951) {
    m /= 2;
    ++exponent;
  }
  const double z = (m - 1) / (m + 1), square = z * z;
  double sum = 0;
  for (int k = 19; k >= 1; k -= 2) sum = sum * square + 1.0 / k;
  return exponent + 2 * z * sum * 1.4426950408889634;
}

// Logarithms of whole numbers from 0, of which small ones are kept; that of 0 is 0.
class Logarithms {
 public:
  Logarithms() {
    for (size_t i = 1; i < known_.size(); ++i) known_[i] = Log2(static_cast<double>(i));
  }
  double Of(double count) const {
    const bool is_known = count < static_cast<double>(known_.size());
    return is_known ? known_[static_cast<size_t>(count)] : Log2(count);
  }

 private:
  std::array<double, 4096> known_ = {};
};

// |x| by bins.
class Bins {
 public:
  explicit Bins(double largest) : largest_(largest) {}

  void Add(double magnitude, double count) {
    const auto bin = static_cast<size_t>(magnitude / largest_ * kBins);
    counts_[std::min<size_t>(bin, kBins - 1)] += count;
  }

  // Returns how many bins the range has.
  int Best();

 private:
  // Sums over the bins before one.
  struct Before {
    double values = 0, entropy = 0, bins = 0;  // entropy: of P, times -n; bins: with values
  };

  const double largest_;
  std::array<double, kBins> counts_ = {};
};

int Bins::Best() {
  static const Logarithms kLog2;
  std::array<Before, kBins + 1> before;
  for (size_t bin = 0; bin < kBins; ++bin) {
    const double count = counts_[bin];
    before[bin + 1] = {before[bin].values + count,
                       before[bin].entropy + count * kLog2.Of(count),
                       before[bin].bins + (count > 0 ? 1 : 0)};
  }
  const double all = before[kBins].values;
  // Of a part of Q with `inside` values in `bins`, for `count` ones of P.
  const auto part = [](double count, double inside, double bins) {
    return inside > 0 ? count * (kLog2.Of(inside) - kLog2.Of(bins)) : 0;
  };
  int best = kBins;
  double least = std::numeric_limits<double>::infinity();
  for (size_t width = 1; width <= kBins / kLevels; ++width) {
    double parts = 0;
    for (size_t level = 0; level + 1 < kLevels; ++level) {
      const Before &from = before[level * width], &to = before[(level + 1) * width];
      parts += part(to.values - from.values, to.values - from.values, to.bins - from.bins);
    }
    const Before& last = before[(kLevels - 1) * width];
    const size_t end = std::min<size_t>((width + 1) * kLevels, kBins + 1);
    for (size_t bins = width * kLevels; bins < end; ++bins) {
      const double beyond = all - before[bins].values;
      const double inside = before[bins].values - last.values;
      if (before[bins].values == 0 || (inside == 0 && beyond > 0)) continue;
      const double edge = counts_[bins - 1] + beyond;
      const double entropy = before[bins - 1].entropy + edge * kLog2.Of(edge);
      const double in_last = before[bins - 1].bins - last.bins + (edge > 0 ? 1 : 0);
      const double divergence = entropy - parts - part(inside + beyond, inside, in_last) +
                                all * (kLog2.Of(before[bins].values) - kLog2.Of(all));
      if (divergence > least) continue;
      least = divergence;
      best = static_cast<int>(bins);
    }
  }
  return best;
}

// Adds what there is to bins, by `add_all(bins)`, and returns the range.
template <typename AddAll>
Range Found(const RangeWish& wish, AddAll add_all) {
  const double largest = std::max(-wish.bounds.min, wish.bounds.max);
  if (!(largest > 0)) return wish.bounds;
  Bins bins(largest);
  add_all(bins);
  const double reach = largest * (bins.Best() / double{kBins});
  return {std::max(wish.bounds.min, -reach), std::min(wish.bounds.max, reach)};
}

Range OfCounts(const Histogram& histogram, const RangeWish& wish) {
  const double largest = std::max(-wish.bounds.min, wish.bounds.max);
  return Found(wish, [&](Bins& bins) {
    constexpr uint32_t kSign = 0x8000;
    for (uint32_t bits = 0; bits < kSign; ++bits) {
      const auto count = static_cast<double>(histogram.counts()[bits]) +
                         static_cast<double>(histogram.counts()[bits | kSign]);
      if (count > 0) bins.Add(ValueOfBucket(static_cast<uint16_t>(bits), {0, largest}), count);
    }
  });
}

}  // namespace

const Calibrator& entropy_calibrator() {
  static constexpr Calibrator kCalibrator = {
      .name = "entropy",
      .text = "entropy",
      .summary = "where 128 levels tell the most of how the values lie (KL divergence)",
      .needs_moments = false,
      .is_minmax = false,
      .parse = [](absl::string_view text) -> std::optional<double> {
        if (text != "entropy") return std::nullopt;
        return 0.0;
      },
      .range =
          [](const GroupStats& stats, double) {
            return stats.count == 0 ? Range{} : Range{stats.min, stats.max};
          },
      .needs_values = true,
      .range_of_values =
          [](TileSpan finite, const RangeWish& wish) {
            return Found(wish, [&](Bins& bins) {
              finite.Visit([&](const auto* values) {
                for (int64_t i = 0; i < finite.num_elems; ++i) {
                  bins.Add(std::fabs(double{values[i]}), 1);
                }
                return 0;
              });
            });
          },
      .range_of_counts = OfCounts};
  return kCalibrator;
}

}  // namespace quantd
