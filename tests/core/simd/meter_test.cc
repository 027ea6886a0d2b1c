#include "core/simd/meter.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr uint32_t kSeed = 77;

template <typename T>
struct Case {
  std::string name;
  std::vector<T> x, y;
};

// The figures by their definitions, in long double.
template <typename T>
struct Exact {
  explicit Exact(const Case<T>& tile) {
    for (size_t i = 0; i < tile.x.size(); ++i) {
      if (!std::isfinite(tile.x[i])) continue;
      const long double x = tile.x[i], e = x - tile.y[i];
      if (count == 0) min = max = x;
      ++count;
      min = std::min(min, x);
      max = std::max(max, x);
      sum += x;
      magnitude += std::fabs(x);
      signal += x * x;
      error += e * e;
      cross += x * tile.y[i];
      if (std::fabs(e) > max_error) {
        max_error = std::fabs(e);
        max_error_idx = static_cast<int64_t>(i);
      }
    }
    for (const T value : tile.x) {
      const long double delta = value - sum / static_cast<long double>(count);
      if (std::isfinite(value)) m2 += delta * delta;
    }
  }
  int64_t count = 0, max_error_idx = -1;
  long double sum = 0, magnitude = 0, min = 0, max = 0, signal = 0, error = 0, cross = 0, m2 = 0,
              max_error = 0;
};

template <typename T>
std::vector<Case<T>> MakeCases() {
  std::vector<Case<T>> cases;
  std::mt19937 rng(kSeed);
  const auto unit = [&rng] { return static_cast<double>(rng()) * 0x1p-32 - 0.5; };
  const auto add = [&](std::string name, size_t size, double scale, double offset, double error) {
    Case<T> tile = {std::move(name), {}, {}};
    for (size_t i = 0; i < size; ++i) {
      tile.x.push_back(static_cast<T>(offset + scale * unit()));
      tile.y.push_back(static_cast<T>(tile.x.back() + static_cast<T>(error * unit())));
    }
    cases.push_back(std::move(tile));
  };
  for (const size_t size : {1, 2, 15, 16, 17, 33, 255, 4095, 4096}) {
    add("plain " + std::to_string(size), size, 1, 0, 0.01);
  }
  add("offset", 4096, 1, 100, 0.01);
  add("huge offset", 4096, 1, 1e6, 0.5);
  add("negative offset", 4001, 0.5, -3e5, 0.1);
  add("huge offset, odd length", 1237, 4, 1.6e7, 1);
  add("tiny", 4096, 1e-30, 0, 1e-32);
  add("huge", 4096, 1e30, 0, 1e28);
  add("subnormal", 1000, 1e-41, 0, 1e-42);
  add("large signal, tiny error", 4096, 1e16, 0, 0);
  add("constant", 4096, 0, 0.1, 0);
  add("constant and noise", 4096, 0, 1e5, 1);
  add("zero", 100, 0, 0, 0);
  add("one far off", 4096, 1, 0, 1e-3);
  cases.back().y[1234] += 5;
  cases.back().y[2345] += 5;
  add("not finite among them", 4096, 1, 0, 0.01);
  cases.back().x[0] = std::numeric_limits<T>::quiet_NaN();
  cases.back().x[17] = std::numeric_limits<T>::infinity();
  cases.back().x[4095] = -std::numeric_limits<T>::infinity();
  return cases;
}

uint64_t Bits(double value) { return std::bit_cast<uint64_t>(value); }

void ExpectSameBits(const TileFigures& got, const TileFigures& want, const std::string& name) {
  EXPECT_EQ(got.count, want.count) << name;
  EXPECT_EQ(Bits(got.sum), Bits(want.sum)) << name;
  EXPECT_EQ(Bits(got.min), Bits(want.min)) << name;
  EXPECT_EQ(Bits(got.max), Bits(want.max)) << name;
  EXPECT_EQ(Bits(got.m2), Bits(want.m2)) << name;
  EXPECT_EQ(Bits(got.signal_energy), Bits(want.signal_energy)) << name;
  EXPECT_EQ(Bits(got.error_energy), Bits(want.error_energy)) << name;
  EXPECT_EQ(Bits(got.cross_energy), Bits(want.cross_energy)) << name;
  EXPECT_EQ(Bits(got.max_error), Bits(want.max_error)) << name;
  EXPECT_EQ(got.max_error_idx, want.max_error_idx) << name;
}

template <typename T>
class FiguresTest : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  static TileFigures Measure(const Case<T>& tile) {
    return MeasureTile(tile.x.data(), tile.y.data(), static_cast<int64_t>(tile.x.size()));
  }
};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FiguresTest, Types);

TYPED_TEST(FiguresTest, EqualARecomputation) {
  // 0.001 dB is a factor of 1.00023; the sums of a tile are far better.
  constexpr long double kRelative = 1e-5L;
  for (const Case<TypeParam>& tile : MakeCases<TypeParam>()) {
    SCOPED_TRACE(tile.name);
    const TileFigures figures = this->Measure(tile);
    const Exact<TypeParam> exact(tile);
    const auto near = [](double got, long double want, long double scale) {
      EXPECT_LE(std::fabs(static_cast<long double>(got) - want), kRelative * scale)
          << got << ", not " << static_cast<double>(want);
    };
    EXPECT_EQ(figures.count, exact.count);
    EXPECT_EQ(static_cast<long double>(figures.min), exact.min);
    EXPECT_EQ(static_cast<long double>(figures.max), exact.max);
    near(figures.sum, exact.sum, exact.magnitude);
    near(figures.signal_energy, exact.signal, exact.signal);
    near(figures.error_energy, exact.error, exact.error);
    near(figures.cross_energy, exact.cross, exact.signal);
    // Of a constant only rounding errors are left.
    near(figures.m2, exact.m2, std::max(exact.m2, exact.signal * 1e-12L));
    near(figures.max_error, exact.max_error, exact.max_error);
    EXPECT_EQ(figures.max_error_idx, exact.max_error_idx);
  }
}

TYPED_TEST(FiguresTest, EqualOnAllTargets) {
  for (const Case<TypeParam>& tile : MakeCases<TypeParam>()) {
    ASSERT_TRUE(ChooseSimdTarget("").ok());
    const TileFigures best = this->Measure(tile);
    for (const std::string& target : SupportedSimdTargets()) {
      ASSERT_TRUE(ChooseSimdTarget(target).ok());
      ExpectSameBits(this->Measure(tile), best, tile.name + " on " + target);
    }
  }
}

TYPED_TEST(FiguresTest, NegativeZeroCountsAsZero) {
  const std::vector<TypeParam> zeros(20, -TypeParam{0});
  const TileFigures figures = MeasureTile(zeros.data(), zeros.data(), 20);
  EXPECT_FALSE(std::signbit(figures.min));
  EXPECT_FALSE(std::signbit(figures.max));
}

TYPED_TEST(FiguresTest, NothingFinite) {
  const std::vector<TypeParam> values(20, std::numeric_limits<TypeParam>::quiet_NaN());
  const TileFigures figures = MeasureTile(values.data(), values.data(), 20);
  EXPECT_EQ(figures.count, 0);
  EXPECT_EQ(figures.signal_energy, 0);
  EXPECT_EQ(figures.max_error_idx, -1);
}

TYPED_TEST(FiguresTest, InfiniteWhereAFiniteValueBecameInfinite) {
  const std::vector<TypeParam> x = {1, 2, 3};
  const std::vector<TypeParam> y = {1, std::numeric_limits<TypeParam>::infinity(), 3};
  const TileFigures figures = MeasureTile(x.data(), y.data(), 3);
  EXPECT_EQ(figures.count, 3);
  EXPECT_TRUE(std::isinf(figures.max_error));
  EXPECT_EQ(figures.max_error_idx, 1);
  EXPECT_TRUE(std::isinf(figures.error_energy));
  EXPECT_EQ(figures.cross_energy, 1 + 9);
}

TYPED_TEST(FiguresTest, SearchesTheFirstLargestError) {
  const std::vector<TypeParam> x = {1, 2, 3}, y = {1, 1.5, 2.5};
  const TileFigures figures = MeasureTile(x.data(), y.data(), 3);
  EXPECT_EQ(figures.max_error, 0.5);
  EXPECT_EQ(figures.max_error_idx, 1);
  EXPECT_EQ(IndexOfError(x.data(), y.data(), 0.5), 1);
}

// Segments go to lanes from 0 on, and tiles of several fold once.
TYPED_TEST(FiguresTest, SegmentsBeginWithLaneZero) {
  const std::vector<TypeParam> x(37, 1), y(37, 0.5);
  MeterLanes<TypeParam> lanes;
  MeasureSegment(x.data(), y.data(), 20, lanes);
  MeasureSegment(x.data() + 20, y.data() + 20, 17, lanes);
  EXPECT_EQ(lanes.sum[0], 4);
  EXPECT_EQ(lanes.sum[3], 3);
  EXPECT_EQ(lanes.sum[4], 2);
  const auto figures = FiguresOf(lanes, x.data(), 37);
  ASSERT_TRUE(figures.has_value());
  EXPECT_EQ(figures->sum, 37);
  EXPECT_EQ(figures->error_energy, 37 * 0.25);
}

}  // namespace
}  // namespace quantd
