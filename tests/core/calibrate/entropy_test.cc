#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/calibrate/calibrator.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr size_t kBins = 2048, kLevels = 128;

// As the slides have it, bin by bin; returns the divergence of each number of bins from 128 on.
std::vector<double> Divergences(const std::vector<double>& bins) {
  std::vector<double> divergences;
  for (size_t end = kLevels; end <= kBins; ++end) {
    std::vector<double> p(bins.begin(), bins.begin() + static_cast<long>(end)), q(end);
    for (size_t i = end; i < kBins; ++i) p.back() += bins[i];
    const size_t width = end / kLevels;
    for (size_t level = 0; level < kLevels; ++level) {
      const size_t from = level * width, to = level + 1 < kLevels ? from + width : end;
      double sum = 0, filled = 0;
      for (size_t i = from; i < to; ++i) {
        sum += bins[i];
        filled += p[i] > 0;
      }
      for (size_t i = from; i < to; ++i) q[i] = p[i] > 0 ? sum / filled : 0;
    }
    double all_p = 0, all_q = 0, divergence = 0;
    for (size_t i = 0; i < end; ++i) {
      all_p += p[i];
      all_q += q[i];
    }
    for (size_t i = 0; i < end; ++i) {
      if (p[i] > 0) divergence += p[i] / all_p * std::log2(p[i] / all_p / (q[i] / all_q));
    }
    divergences.push_back(divergence);
  }
  return divergences;
}

// log2 by the series that DEFINITIONS.md has; 0 of 0.
double Log2(double x) {
  if (x == 0) return 0;
  int exponent;
  double m = 2 * std::frexp(x, &exponent);
  --exponent;
  if (m > 1.4142135623730951) {
    m /= 2;
    ++exponent;
  }
  const double z = (m - 1) / (m + 1);
  double sum = 0;
  for (int h = 19; h >= 1; h -= 2) sum = sum * (z * z) + 1.0 / h;
  return exponent + 2 * z * sum * 1.4426950408889634;
}

// Returns the number of bins that DEFINITIONS.md finds, term by term as it has them.
size_t PlainBest(const std::vector<double>& bins) {
  std::vector<double> s(kBins + 1), e(kBins + 1), z(kBins + 1);
  for (size_t i = 0; i < kBins; ++i) {
    s[i + 1] = s[i] + bins[i];
    e[i + 1] = e[i] + bins[i] * Log2(bins[i]);
    z[i + 1] = z[i] + (bins[i] > 0 ? 1 : 0);
  }
  const auto part = [](double count, double inside, double filled) {
    return inside > 0 ? count * (Log2(inside) - Log2(filled)) : 0;
  };
  size_t best = kBins;
  double least = std::numeric_limits<double>::infinity();
  for (size_t t = kLevels; t <= kBins; ++t) {
    const size_t w = t / kLevels, last = (kLevels - 1) * w;
    double parts = 0;
    for (size_t k = 0; k < last; k += w) {
      parts += part(s[k + w] - s[k], s[k + w] - s[k], z[k + w] - z[k]);
    }
    const double beyond = s[kBins] - s[t], inside = s[t] - s[last], edge = bins[t - 1] + beyond;
    if (s[t] == 0 || (inside == 0 && beyond > 0)) continue;
    const double filled = z[t - 1] - z[last] + (edge > 0 ? 1 : 0);
    const double divergence = e[t - 1] + edge * Log2(edge) - parts -
                              part(inside + beyond, inside, filled) +
                              s[kBins] * (Log2(s[t]) - Log2(s[kBins]));
    if (!(divergence > least)) {
      least = divergence;
      best = t;
    }
  }
  return best;
}

struct Found {
  Range range;
  size_t bins;
};

Found FindIn(std::vector<float> values) {
  const ChosenCalibrator entropy = *FindCalibrator("entropy");
  const auto [min, max] = std::minmax_element(values.begin(), values.end());
  const RangeWish wish = {0, true, {*min, *max}};
  const double largest = std::max(-wish.bounds.min, wish.bounds.max);
  const Range range =
      entropy.calibrator->range_of_values({values.data(), nullptr, std::ssize(values)}, wish);
  const double reach = std::max(-range.min, range.max);
  EXPECT_GE(range.min, wish.bounds.min);
  EXPECT_LE(range.max, wish.bounds.max);
  return {range, static_cast<size_t>(std::lround(reach / largest * kBins))};
}

std::vector<double> BinsOf(const std::vector<float>& values) {
  double largest = 0;
  for (const float value : values) largest = std::max(largest, std::fabs(double{value}));
  std::vector<double> bins(kBins);
  for (const float value : values) {
    const auto bin = static_cast<size_t>(std::fabs(double{value}) / largest * kBins);
    ++bins[std::min(bin, kBins - 1)];
  }
  return bins;
}

TEST(EntropyTest, HasTheLeastDivergence) {
  std::mt19937 rng(5);
  for (int round = 0; round < 12; ++round) {
    std::vector<float> values(round % 2 == 0 ? 20000 : 300);
    std::normal_distribution<float> normal;
    std::gamma_distribution<float> gamma(0.5f);
    for (float& value : values) value = round % 3 == 0 ? gamma(rng) : normal(rng);
    if (round % 4 == 3) values[0] = -40;
    values.push_back(*std::max_element(values.begin(), values.end()) + 1);
    const Found found = FindIn(values);
    const std::vector<double> divergences = Divergences(BinsOf(values));
    ASSERT_GE(found.bins, kLevels);
    const double least = *std::min_element(divergences.begin(), divergences.end());
    EXPECT_NEAR(divergences[found.bins - kLevels], least, 1e-11) << round;
  }
}

// To the last bit, of few and many values, alike and far apart.
TEST(EntropyTest, IsThatOfThePlainDefinition) {
  std::mt19937 rng(9);
  for (int round = 0; round < 400; ++round) {
    const size_t sizes[] = {1, 2, 5, 32, 64, 128, 128, 128, 200, 6000};
    std::vector<float> values(sizes[rng() % 10]);
    const int kind = static_cast<int>(rng() % 5);
    std::normal_distribution<float> normal;
    std::gamma_distribution<float> gamma(0.3f);
    for (float& value : values) {
      value = kind == 0 ? gamma(rng) : kind == 1 ? std::round(4 * normal(rng)) : normal(rng);
      if (kind == 2 && rng() % 40 == 0) value *= 50;
      if (kind == 3) value = std::ldexp(value, static_cast<int>(rng() % 30));
    }
    if (*std::max_element(values.begin(), values.end()) <= 0) values.push_back(1);
    const Found found = FindIn(values);
    EXPECT_EQ(found.bins, PlainBest(BinsOf(values))) << round << ", " << values.size();
  }
}

TEST(EntropyTest, LeavesOutFewFarValues) {
  std::mt19937 rng(6);
  std::normal_distribution<float> normal;
  std::vector<float> values(50000);
  for (float& value : values) value = normal(rng);
  values[7] = 30;
  const Found found = FindIn(values);
  EXPECT_LT(found.range.max, 8);
  EXPECT_GT(found.range.max, 2);
}

TEST(EntropyTest, CountsAreLikeValues) {
  std::mt19937 rng(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(50000);
  for (float& value : values) value = normal(rng);
  values[0] = 12;
  Histogram histogram;
  histogram.Add(values);
  const ChosenCalibrator entropy = *FindCalibrator("entropy");
  const auto [min, max] = std::minmax_element(values.begin(), values.end());
  const Range counted =
      entropy.calibrator->range_of_counts(ValuesOf(histogram), {0, true, {*min, *max}});
  EXPECT_NEAR(counted.max, FindIn(values).range.max, 1);
}

TEST(EntropyTest, FewOrEqualValuesStay) {
  EXPECT_EQ(FindIn({0, 5}).range, (Range{0, 5}));
  EXPECT_EQ(FindIn({-5, -5, 5}).range, (Range{-5, 5}));
  EXPECT_EQ(FindIn({-1e-40f, 0, 3e38f}).range.max, 3e38f);
}

TEST(EntropyTest, IsOneWord) {
  for (const char* text : {"Entropy", "entropy1", "kl", "entropy "}) {
    EXPECT_EQ(FindCalibrator(text).status().code(), absl::StatusCode::kNotFound) << text;
  }
}

}  // namespace
}  // namespace quantd
