#include "core/base/rounding.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr Rounding kFixed[] = {Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kHalfUp,
                               Rounding::kHalfDown, Rounding::kTruncate, Rounding::kFloor,
                               Rounding::kCeil};

// The definition, in integers: `value` is `quotient` and a fraction of a step, told by whether it
// is zero, below, at or above one half.
int64_t Define(long double value, Rounding rounding) {
  const long double floor = std::floor(value);
  const int64_t below = static_cast<int64_t>(floor);
  const long double fraction = value - floor;  // exact: 64 bits of mantissa, |value| < 2^22
  if (fraction == 0) return below;
  const bool above_half = fraction > 0.5L, at_half = fraction == 0.5L, negative = value < 0;
  switch (rounding) {
    case Rounding::kHalfEven:
      return below + (above_half || (at_half && below % 2 != 0));
    case Rounding::kHalfAway:
      return below + (above_half || (at_half && !negative));
    case Rounding::kHalfUp:
      return below + (above_half || at_half);
    case Rounding::kHalfDown:
      return below + above_half;
    case Rounding::kTruncate:
      return below + negative;
    case Rounding::kFloor:
      return below;
    case Rounding::kCeil:
      return below + 1;
    case Rounding::kStochastic:
      break;
  }
  return 0;
}

template <typename T>
std::vector<T> ValuesNextToTies() {
  std::vector<T> values;
  constexpr T kInf = std::numeric_limits<T>::infinity();
  for (const int whole : {0, 1, 2, 3, 7, 126, 127, 128, 255, 32767, 65535, 4194303}) {
    for (const T part : {T{0}, T{0.25}, T{0.5}, T{0.75}}) {
      const T value = static_cast<T>(whole) + part;
      for (const T near : {value, std::nextafter(value, kInf), std::nextafter(value, -kInf)}) {
        values.push_back(near);
        values.push_back(-near);
      }
    }
  }
  values.push_back(std::numeric_limits<T>::denorm_min());
  values.push_back(-std::numeric_limits<T>::denorm_min());
  return values;
}

template <typename T>
class RoundingTest : public ::testing::Test {};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RoundingTest, Types);

TYPED_TEST(RoundingTest, AtTiesAndNextToThem) {
  for (const TypeParam value : ValuesNextToTies<TypeParam>()) {
    for (const Rounding rounding : kFixed) {
      const TypeParam got = RoundToWhole(value, rounding, 0);
      EXPECT_EQ(static_cast<long double>(got), static_cast<long double>(Define(value, rounding)))
          << static_cast<double>(value) << " by rule " << static_cast<int>(rounding);
    }
  }
}

TYPED_TEST(RoundingTest, StochasticGoesUpBelowTheFraction) {
  const auto round = [](TypeParam value, uint32_t noise) {
    return RoundToWhole(value, Rounding::kStochastic, noise);
  };
  EXPECT_EQ(round(2.25f, 0x3FFFFFFF), 3);  // 1/4 - 2^-24 is below 1/4
  EXPECT_EQ(round(2.25f, 0x40000000), 2);
  EXPECT_EQ(round(-2.25f, 0xBFFFFFFF), -2);  // 3/4 above -3
  EXPECT_EQ(round(-2.25f, 0xC0000000), -3);
  for (const uint32_t noise : {0u, 1u, 0xFFFFFFFFu}) {
    EXPECT_EQ(round(5, noise), 5);
    EXPECT_EQ(round(-5, noise), -5);
    EXPECT_EQ(round(0, noise), 0);
  }
}

TYPED_TEST(RoundingTest, StochasticIsUnbiased) {
  int64_t sum = 0;
  constexpr uint32_t kSteps = 1000;
  for (uint32_t i = 0; i < kSteps; ++i) {
    const uint32_t noise = static_cast<uint32_t>((uint64_t{i} << 32) / kSteps);
    sum += static_cast<int64_t>(RoundToWhole(TypeParam{-7.75}, Rounding::kStochastic, noise));
  }
  EXPECT_NEAR(static_cast<double>(sum) / kSteps, -7.75, 1e-3);
}

}  // namespace
}  // namespace quantd
