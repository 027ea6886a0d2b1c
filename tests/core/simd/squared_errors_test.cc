#include "core/simd/squared_errors.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

template <typename T>
double Naive(const T* x, const T* y, int64_t num_elems) {
  double lanes[16] = {};
  for (int64_t i = 0; i < num_elems; ++i) {
    if (!std::isfinite(x[i])) continue;
    const double error = static_cast<T>(x[i] - y[i]);
    lanes[i % 16] += error * error;
  }
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <typename T>
void CheckAllLengths() {
  std::mt19937 rng(3);
  std::normal_distribution<double> normal;
  constexpr int64_t kRuns = 3;
  for (int64_t run_elems = 1; run_elems <= 67; ++run_elems) {
    std::vector<T> x(static_cast<size_t>(run_elems * kRuns)), y(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<T>(normal(rng) * 1e20);
      y[i] = static_cast<T>(normal(rng) * 1e20);
      if (rng() % 20 == 0) x[i] = std::numeric_limits<T>::quiet_NaN();
      if (rng() % 20 == 0) x[i] = -std::numeric_limits<T>::infinity();
    }
    std::vector<std::byte> moved(x.size() * sizeof(T) + 1);  // at an odd address
    std::memcpy(&moved[1], x.data(), x.size() * sizeof(T));
    double sums[kRuns];
    SumSquaredErrors(reinterpret_cast<const T*>(&moved[1]), y.data(), run_elems, kRuns, sums);
    for (int64_t run = 0; run < kRuns; ++run) {
      ASSERT_EQ(sums[run], Naive(&x[static_cast<size_t>(run * run_elems)],
                                 &y[static_cast<size_t>(run * run_elems)], run_elems))
          << run_elems;
    }
  }
}

class SquaredErrorsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

TEST_P(SquaredErrorsTest, OfEveryLength) {
  CheckAllLengths<float>();
  CheckAllLengths<double>();
}

INSTANTIATE_TEST_SUITE_P(Targets, SquaredErrorsTest, ::testing::ValuesIn(SupportedSimdTargets()));

}  // namespace
}  // namespace quantd
