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
// Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, slides 38 to 43. onnxruntime does it
// on bins of x, gives empty bins of P and Q 10^-4, and TensorRT ends half a bin farther out: the
// ranges are alike, not the same.
//
// As t grows by one bin, all of Q but its last part stays, unless its parts get wider, which
// happens 15 times; and D itself stays where the bin is empty. So D is made of prefix sums, over
// filled bins alone, where the usual way adds up 1,921 times 2,048 terms. Parts of Q whose bins have
// one value each add 0, so that of a few values in as many bins hardly a part is looked at. Logarithms
// are our own, so that ranges are the same everywhere; counts are whole numbers in f64.
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

constexpr size_t kBins = 2048;
constexpr size_t kLevels = 128;

// Returns log2 of `x`, a normal number above 0: x = 2^e m, m in (sqrt(1/2), sqrt(2)], and
// ln m = 2 (z + z^3 / 3 + z^5 / 5 ..), z = (m - 1) / (m + 1), up to z^19: the rest is below 2^-54.
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

const Logarithms& Logs() {
  static const Logarithms kLogarithms;
  return kLogarithms;
}

// |x| by bins.
class Bins {
 public:
  explicit Bins(double largest) : largest_(largest) {}

  void Add(double magnitude, double count) { AddTo(BinOf(magnitude), count); }
  // One value each.
  template <typename T>
  void AddAll(const T* values, int64_t num_elems) {
    constexpr int64_t kAtOnce = 128;
    int32_t bins[kAtOnce];
    for (int64_t done = 0; done < num_elems; done += kAtOnce) {
      const int64_t count = std::min(kAtOnce, num_elems - done);
      for (int64_t i = 0; i < count; ++i) bins[i] = BinOf(std::fabs(double{values[done + i]}));
      for (int64_t i = 0; i < count; ++i) AddTo(bins[i], 1);
    }
  }

  // Returns how many bins the range has.
  size_t Best();

 private:
  int32_t BinOf(double magnitude) const {
    return std::min(static_cast<int32_t>(magnitude / largest_ * kBins), int32_t{kBins - 1});
  }
  void AddTo(int32_t at, double count) {
    const auto bin = static_cast<size_t>(at);
    uint64_t& word = filled_[bin / 64];
    const uint64_t bit = uint64_t{1} << (bin % 64);
    counts_[bin] = (word & bit) != 0 ? counts_[bin] + count : count;
    word |= bit;
  }

  // Sums over the filled bins before one.
  struct Before {
    double values, entropy;  // entropy: of P, times -n
  };
  // A number of bins and the divergence with it, times n.
  struct Least {
    size_t bins = kBins;
    double divergence = std::numeric_limits<double>::infinity();
  };

  // Finds the filled bins and the sums before each.
  void Sum();
  // Returns the sum of the parts of Q before bin `end`, of `width` bins each.
  double SumOfParts(size_t width, size_t end) const;
  // Of parts of Q of `width` bins.
  void TryWidth(size_t width, Least& least) const;

  const double largest_;
  const Logarithms& logs_ = Logs();
  std::array<double, kBins> counts_;  // of the filled ones
  std::array<uint64_t, kBins / 64> filled_ = {};
  std::array<uint16_t, kBins> places_;  // of the filled ones
  size_t num_filled_ = 0;
  std::array<uint16_t, kBins> shared_;  // those that have more than one value, among the filled
  size_t num_shared_ = 0;
  std::array<Before, kBins + 1> before_;
};

// Returns the part of D of `count` values of P in `bins` filled bins, in which Q has `inside`.
double PartOf(const Logarithms& logs, double count, double inside, size_t bins) {
  return inside > 0 ? count * (logs.Of(inside) - logs.Of(static_cast<double>(bins))) : 0;
}

void Bins::Sum() {
  before_[0] = {0, 0};
  for (size_t word = 0; word < filled_.size(); ++word) {
    for (uint64_t left = filled_[word]; left != 0; left &= left - 1) {
      const size_t bin = word * 64 + static_cast<size_t>(std::countr_zero(left));
      const double count = counts_[bin];
      places_[num_filled_] = static_cast<uint16_t>(bin);
      Before next = {before_[num_filled_].values + count, before_[num_filled_].entropy};
      if (count > 1) {
        next.entropy += count * logs_.Of(count);
        shared_[num_shared_++] = static_cast<uint16_t>(num_filled_);
      }
      before_[++num_filled_] = next;
    }
  }
}

double Bins::SumOfParts(size_t width, size_t end) const {
  double parts = 0;
  for (size_t next = 0; next < num_shared_ && places_[shared_[next]] < end;) {
    size_t from = shared_[next], to = from + 1;  // of filled bins
    const size_t part = places_[from] / static_cast<uint32_t>(width) * width;
    while (from > 0 && places_[from - 1] >= part) --from;
    while (to < num_filled_ && places_[to] < part + width) ++to;
    const double inside = before_[to].values - before_[from].values;
    parts += PartOf(logs_, inside, inside, to - from);
    while (next < num_shared_ && shared_[next] < to) ++next;
  }
  return parts;
}

void Bins::TryWidth(size_t width, Least& least) const {
  const size_t last_begin = (kLevels - 1) * width;
  const double parts = SumOfParts(width, last_begin);
  const auto filled_end = places_.begin() + static_cast<std::ptrdiff_t>(num_filled_);
  const auto last = static_cast<size_t>(std::lower_bound(places_.begin(), filled_end, last_begin) -
                                        places_.begin());
  size_t i = last;  // of filled bins
  const double all = before_[num_filled_].values;
  const double log_of_all = logs_.Of(all);
  const size_t end = std::min((width + 1) * kLevels, kBins + 1);
  for (size_t bins = width * kLevels; bins < end; ++bins) {
    while (i < num_filled_ && places_[i] < bins) ++i;
    const bool at_filled = i > 0 && places_[i - 1] == bins - 1;
    // D is the same up to the next filled bin; the largest of equal ones counts.
    if (!at_filled) bins = std::min<size_t>(end - 1, i < num_filled_ ? places_[i] : kBins);
    const double below = before_[i].values, beyond = all - below;
    const double inside = below - before_[last].values;
    if (below == 0 || (inside == 0 && beyond > 0)) continue;
    const size_t before_edge = at_filled ? i - 1 : i;
    const double edge = (at_filled ? counts_[bins - 1] : 0) + beyond;
    const double entropy = before_[before_edge].entropy + edge * logs_.Of(edge);
    const size_t filled = before_edge - last + (edge > 0 ? 1 : 0);
    const double divergence = entropy - parts - PartOf(logs_, inside + beyond, inside, filled) +
                              all * (logs_.Of(below) - log_of_all);
    if (!(divergence > least.divergence)) least = {bins, divergence};
  }
}

size_t Bins::Best() {
  Sum();
  Least least;
  for (size_t width = 1; width <= kBins / kLevels; ++width) TryWidth(width, least);
  return least.bins;
}

// Adds what there is to bins, by `add_all(bins)`, and returns the range.
template <typename AddAll>
Range Found(const RangeWish& wish, AddAll add_all) {
  const double largest = std::max(-wish.bounds.min, wish.bounds.max);
  if (!(largest > 0)) return wish.bounds;
  Bins bins(largest);
  add_all(bins);
  const double reach = largest * (static_cast<double>(bins.Best()) / double{kBins});
  return {std::max(wish.bounds.min, -reach), std::min(wish.bounds.max, reach)};
}

Range OfCounts(std::span<const CountedValue> counts, const RangeWish& wish) {
  const double largest = std::max(-wish.bounds.min, wish.bounds.max);
  return Found(wish, [&](Bins& bins) {
    for (const CountedValue& counted : counts) {
      bins.Add(std::min(std::fabs(counted.value), largest), static_cast<double>(counted.count));
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
      .range = RangeOfExtremes,
      .needs_values = true,
      .range_of_values =
          [](TileSpan finite, const RangeWish& wish) {
            return Found(wish, [&](Bins& bins) {
              finite.Visit([&](const auto* values) {
                bins.AddAll(values, finite.num_elems);
                return 0;
              });
            });
          },
      .range_of_counts = OfCounts};
  return kCalibrator;
}

}  // namespace quantd
