#include "core/base/minifloat.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

constexpr Rounding kFixed[] = {Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kHalfUp,
                               Rounding::kHalfDown, Rounding::kTruncate, Rounding::kFloor,
                               Rounding::kCeil};

struct Named {
  const char* name;
  MiniFormat format;
};
constexpr Named kFormats[] = {
    {"half", kHalfFormat}, {"bfloat", kBfloatFormat}, {"e4m3", kE4m3Format}, {"e2m1", kE2m1Format}};

class MiniFloatTest : public ::testing::TestWithParam<Named> {
 protected:
  const MiniFormat format_ = GetParam().format;
  const uint32_t num_codes_ = 2u << format_.sign_shift();

  // The value of a finite code by the formula of IEEE 754, section 3.3.
  long double Value(uint32_t code) const {
    const uint32_t magnitude = code & ((1u << format_.sign_shift()) - 1);
    const int exponent = static_cast<int>(magnitude >> format_.man_bits);
    const long double fraction = std::ldexp(
        static_cast<long double>(magnitude & ((1u << format_.man_bits) - 1)), -format_.man_bits);
    const long double value = exponent == 0 ? std::ldexp(fraction, 1 - format_.bias)
                                            : std::ldexp(1 + fraction, exponent - format_.bias);
    return code >> format_.sign_shift() ? -value : value;
  }
  bool IsFinite(uint32_t code) const {
    return (code & ((1u << format_.sign_shift()) - 1)) <= format_.max_code;
  }
  uint32_t Sign() const { return 1u << format_.sign_shift(); }

  // The magnitude code that a value between code `below` and the next one rounds to.
  uint32_t Define(uint32_t below, long double value, bool negative, Rounding rounding) const {
    const long double low = Value(below), high = Value(below + 1);
    if (value == low) return below;
    const long double middle = (low + high) / 2;
    const bool above = value > middle, tie = value == middle;
    switch (rounding) {
      case Rounding::kHalfEven:
        return below + (above || (tie && below % 2 == 1));
      case Rounding::kHalfAway:
        return below + (above || tie);
      case Rounding::kHalfUp:
        return below + (above || (tie && !negative));
      case Rounding::kHalfDown:
        return below + (above || (tie && negative));
      case Rounding::kTruncate:
        return below;
      case Rounding::kFloor:
        return below + negative;
      case Rounding::kCeil:
        return below + !negative;
      case Rounding::kStochastic:
        break;
    }
    return 0;
  }
};

TEST_P(MiniFloatTest, EveryCodeHasItsValueAndComesBack) {
  for (uint32_t code = 0; code < num_codes_; ++code) {
    const float narrow = WidenFloat<float>(format_, code);
    const double wide = WidenFloat<double>(format_, code);
    EXPECT_EQ(std::signbit(narrow), code >= Sign());
    if (IsFinite(code)) {
      ASSERT_EQ(static_cast<long double>(narrow), Value(code)) << code;
      ASSERT_EQ(static_cast<long double>(wide), Value(code)) << code;
    } else if (format_.inf_code != 0 && (code & ~Sign()) == format_.inf_code) {
      ASSERT_TRUE(std::isinf(narrow) && std::isinf(wide)) << code;
    } else {
      ASSERT_TRUE(std::isnan(narrow) && std::isnan(wide)) << code;
      if (!format_.keeps_payload) continue;  // all NaN are one
    }
    for (const Rounding rounding : kFixed) {
      ASSERT_EQ(NarrowFloat(format_, narrow, rounding, /*saturate=*/false), code);
      ASSERT_EQ(NarrowFloat(format_, wide, rounding, /*saturate=*/false), code);
    }
    ASSERT_EQ(NarrowFloat(format_, narrow, Rounding::kStochastic, false, 0xFFFFFFFF), code);
    ASSERT_EQ(NarrowFloat(format_, wide, Rounding::kStochastic, false, 0), code);
  }
}

TEST_P(MiniFloatTest, EveryRuleBetweenEveryTwoCodes) {
  for (uint32_t code = 0; code < format_.max_code; ++code) {
    const double low = WidenFloat<double>(format_, code);
    const double high = WidenFloat<double>(format_, code + 1);
    const double middle = low + (high - low) / 2;
    for (const double value : {std::nextafter(low, high), std::nextafter(middle, low), middle,
                               std::nextafter(middle, high), std::nextafter(high, low)}) {
      for (const Rounding rounding : kFixed) {
        ASSERT_EQ(NarrowFloat(format_, value, rounding, true), Define(code, value, false, rounding))
            << GetParam().name << " " << value << " rule " << static_cast<int>(rounding);
        ASSERT_EQ(NarrowFloat(format_, -value, rounding, true),
                  Sign() | Define(code, value, true, rounding))
            << GetParam().name << " " << -value << " rule " << static_cast<int>(rounding);
        const float narrow = static_cast<float>(value);
        if (static_cast<double>(narrow) != value) continue;
        ASSERT_EQ(NarrowFloat(format_, narrow, rounding, true),
                  Define(code, value, false, rounding));
      }
    }
  }
}

TEST_P(MiniFloatTest, BeyondTheLargest) {
  const double largest = WidenFloat<double>(format_, format_.max_code);
  const double half_step = (largest - WidenFloat<double>(format_, format_.max_code - 1)) / 2;
  const uint32_t overflow = format_.inf_code != 0 ? format_.inf_code : format_.max_code;
  const double tie = largest + half_step, below = std::nextafter(tie, 0.0);
  EXPECT_EQ(NarrowFloat(format_, below, Rounding::kHalfEven, false), format_.max_code);
  EXPECT_EQ(NarrowFloat(format_, -below, Rounding::kHalfEven, false), Sign() | format_.max_code);
  EXPECT_EQ(NarrowFloat(format_, tie, Rounding::kHalfAway, false), overflow);
  EXPECT_EQ(NarrowFloat(format_, tie, Rounding::kHalfDown, false), format_.max_code);
  for (const double value : {tie, 2 * largest, 1e300, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(NarrowFloat(format_, value, Rounding::kHalfAway, true), format_.max_code);
    EXPECT_EQ(NarrowFloat(format_, -value, Rounding::kHalfAway, true), Sign() | format_.max_code);
  }
  EXPECT_EQ(NarrowFloat(format_, kInf, Rounding::kTruncate, false), overflow);
  EXPECT_EQ(NarrowFloat(format_, -kInf, Rounding::kTruncate, false), Sign() | overflow);
}

TEST_P(MiniFloatTest, FarBelowTheSmallest) {
  for (const double value : {5e-324, 1e-300}) {
    EXPECT_EQ(NarrowFloat(format_, value, Rounding::kHalfEven, true), 0u);
    EXPECT_EQ(NarrowFloat(format_, -value, Rounding::kHalfAway, true), Sign());
    EXPECT_EQ(NarrowFloat(format_, value, Rounding::kCeil, true), 1u);
    EXPECT_EQ(NarrowFloat(format_, value, Rounding::kFloor, true), 0u);
    EXPECT_EQ(NarrowFloat(format_, -value, Rounding::kFloor, true), Sign() | 1u);
    EXPECT_EQ(NarrowFloat(format_, -value, Rounding::kCeil, true), Sign());
  }
  EXPECT_EQ(NarrowFloat(format_, 0.0f, Rounding::kCeil, true), 0u);
  EXPECT_EQ(NarrowFloat(format_, -0.0f, Rounding::kFloor, true), Sign());
}

TEST_P(MiniFloatTest, StochasticHitsBothNeighboursInProportion) {
  const double low = WidenFloat<double>(format_, 2), high = WidenFloat<double>(format_, 3);
  int up = 0;
  constexpr int kSteps = 1000;
  for (int i = 0; i < kSteps; ++i) {
    const uint32_t noise =
        static_cast<uint32_t>((uint64_t{static_cast<uint32_t>(i)} << 32) / kSteps);
    const uint32_t code =
        NarrowFloat(format_, low + 0.25 * (high - low), Rounding::kStochastic, true, noise);
    ASSERT_TRUE(code == 2 || code == 3);
    up += code == 3;
  }
  EXPECT_NEAR(up, kSteps / 4, 1);
}

INSTANTIATE_TEST_SUITE_P(Formats, MiniFloatTest, ::testing::ValuesIn(kFormats),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(MiniFloatNanTest, Payloads) {
  const auto narrow = [](const MiniFormat& format, uint32_t bits) {
    return NarrowFloat(format, std::bit_cast<float>(bits), Rounding::kHalfEven, false);
  };
  // As numpy: upper payload kept, not quieted, 1 where it would be lost.
  EXPECT_EQ(narrow(kHalfFormat, 0x7FC00000), 0x7E00u);
  EXPECT_EQ(narrow(kHalfFormat, 0x7F802000), 0x7C01u);
  EXPECT_EQ(narrow(kHalfFormat, 0x7F800001), 0x7C01u);
  EXPECT_EQ(narrow(kHalfFormat, 0xFFFFFFFF), 0xFFFFu);
  // As ml_dtypes: the quiet NaN with the sign.
  EXPECT_EQ(narrow(kBfloatFormat, 0x7F800001), 0x7FC0u);
  EXPECT_EQ(narrow(kBfloatFormat, 0xFFFFFFFF), 0xFFC0u);
  EXPECT_EQ(narrow(kE4m3Format, 0x7FC00000), 0x7Fu);
  EXPECT_EQ(narrow(kE4m3Format, 0xFFC00000), 0xFFu);
  EXPECT_EQ(narrow(kE2m1Format, 0x7FC00000), 0u);
  EXPECT_EQ(narrow(kE2m1Format, 0xFFC00000), 0u);
}

}  // namespace
}  // namespace quantd
