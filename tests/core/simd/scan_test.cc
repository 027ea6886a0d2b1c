#include "core/simd/scan.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

template <typename T>
constexpr T kInf = std::numeric_limits<T>::infinity();
template <typename T>
constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// Values with both zeros, subnormals and, on request, ones that are not finite.
template <typename T>
std::vector<T> MakeRun(int64_t num_elems, bool finite, uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<T> values(static_cast<size_t>(num_elems));
  for (T& value : values) {
    const uint32_t kind = rng() % 8;
    value = (static_cast<T>(rng() % 2000) - 1000) / 8;
    if (kind == 0) value = -T{0};
    if (kind == 1) value = std::numeric_limits<T>::denorm_min();
    if (finite || kind < 5) continue;
    value = kind == 5 ? kNan<T> : kind == 6 ? kInf<T> : -kInf<T>;
  }
  return values;
}

template <typename T>
RunRange<T> NaiveRange(const T* values, int64_t num_elems) {
  RunRange<T> range = {kInf<T>, -kInf<T>};
  for (int64_t i = 0; i < num_elems; ++i) {
    if (!std::isfinite(values[i])) continue;
    const T value = values[i] == 0 ? T{0} : values[i];
    if (value < range.min) range.min = value;
    if (value > range.max) range.max = value;
  }
  return range;
}

// -0 must have become +0, so bits count.
template <typename T>
bool SameBits(T a, T b) {
  return a == b && std::signbit(a) == std::signbit(b);
}

class ScanTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }

  template <typename T>
  void RangesOfEveryLength() {
    for (int64_t run_elems = 1; run_elems <= 130; ++run_elems) {
      for (const bool finite : {true, false}) {
        constexpr int64_t kRuns = 37;  // whole vectors of runs and a rest
        const std::vector<T> values =
            MakeRun<T>(run_elems * kRuns, finite, static_cast<uint32_t>(run_elems));
        std::vector<std::byte> moved(values.size() * sizeof(T) + 1);  // at an odd address
        std::memcpy(&moved[1], values.data(), values.size() * sizeof(T));
        std::vector<RunRange<T>> ranges(kRuns);
        ScanRuns(reinterpret_cast<const T*>(&moved[1]), run_elems, kRuns, ranges.data());
        for (int64_t run = 0; run < kRuns; ++run) {
          const RunRange<T> want = NaiveRange(values.data() + run * run_elems, run_elems);
          const RunRange<T>& got = ranges[static_cast<size_t>(run)];
          ASSERT_TRUE(SameBits(got.min, want.min) && SameBits(got.max, want.max))
              << "run " << run << " of " << run_elems << ": " << got.min << ".." << got.max
              << ", not " << want.min << ".." << want.max;
        }
      }
    }
  }

  template <typename T>
  void FindsEachStray() {
    for (int64_t num_elems = 0; num_elems <= 130; ++num_elems) {
      std::vector<T> values = MakeRun<T>(num_elems, true, 3);
      ASSERT_TRUE(AllFinite(values.data(), num_elems)) << num_elems;
      for (T& value : values) {
        for (const T stray : {kNan<T>, -kNan<T>, kInf<T>, -kInf<T>}) {
          const T kept = std::exchange(value, stray);
          ASSERT_FALSE(AllFinite(values.data(), num_elems)) << num_elems;
          value = kept;
        }
      }
    }
    const T largest[] = {std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest()};
    EXPECT_TRUE(AllFinite(largest, 2));
  }

  template <typename T>
  void ColumnsOfEveryWidth() {
    for (int64_t columns = 0; columns <= 130; ++columns) {
      constexpr int64_t kRows = 4;
      const std::vector<T> values =
          MakeRun<T>(columns * kRows, false, static_cast<uint32_t>(columns));
      std::vector<T> mins(static_cast<size_t>(columns), kInf<T>);
      std::vector<T> maxs(static_cast<size_t>(columns), -kInf<T>);
      for (int64_t row = 0; row < kRows; ++row) {
        ScanColumns(values.data() + row * columns, columns, mins.data(), maxs.data());
      }
      for (int64_t column = 0; column < columns; ++column) {
        std::vector<T> gathered;
        for (int64_t row = 0; row < kRows; ++row) {
          gathered.push_back(values[static_cast<size_t>(row * columns + column)]);
        }
        const RunRange<T> want = NaiveRange(gathered.data(), kRows);
        const size_t i = static_cast<size_t>(column);
        ASSERT_TRUE(SameBits(mins[i], want.min) && SameBits(maxs[i], want.max))
            << "column " << column << " of " << columns;
      }
    }
  }
};

// By lanes, whatever vectors have: the bits are those of plain loops.
template <typename T>
double NaiveMagnitudes(const std::vector<T>& values) {
  double lanes[16] = {};
  for (size_t i = 0; i < values.size(); ++i) {
    const double magnitude = std::fabs(double{values[i]});
    if (!std::isfinite(magnitude)) continue;
    lanes[i % 16] += std::min<double>(magnitude, std::numeric_limits<float>::max());
  }
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <typename T>
void MagnitudesOfEveryLength() {
  for (int64_t num_elems = 0; num_elems <= 130; ++num_elems) {
    for (const bool finite : {true, false}) {
      std::vector<T> values = MakeRun<T>(num_elems, finite, static_cast<uint32_t>(num_elems));
      for (size_t i = 0; i < values.size(); ++i) {  // so that sums round
        values[i] *= static_cast<T>(1 + 0.1 * static_cast<double>(i));
        if (i % 50 == 49) values[i] = std::numeric_limits<T>::max();
      }
      std::vector<std::byte> moved(values.size() * sizeof(T) + 1);  // at an odd address
      if (!values.empty()) std::memcpy(&moved[1], values.data(), values.size() * sizeof(T));
      const double got = SumMagnitudes(reinterpret_cast<const T*>(moved.data() + 1), num_elems);
      ASSERT_EQ(got, NaiveMagnitudes(values)) << num_elems << (finite ? "" : ", with strays");
      ASSERT_TRUE(std::isfinite(got));
    }
  }
}

TEST_P(ScanTest, MagnitudesOfEveryLength) {
  MagnitudesOfEveryLength<float>();
  MagnitudesOfEveryLength<double>();
}

TEST_P(ScanTest, RangesOfEveryLength) {
  RangesOfEveryLength<float>();
  RangesOfEveryLength<double>();
}

TEST_P(ScanTest, FindsEachStray) {
  FindsEachStray<float>();
  FindsEachStray<double>();
}

TEST_P(ScanTest, ColumnsOfEveryWidth) {
  ColumnsOfEveryWidth<float>();
  ColumnsOfEveryWidth<double>();
}

INSTANTIATE_TEST_SUITE_P(Targets, ScanTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
