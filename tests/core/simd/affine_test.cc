#include "core/simd/affine.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/simd/targets.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;

class AffineTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

TEST_P(AffineTest, PacksAndUnpacksEveryLength) {
  std::mt19937 rng(5);
  for (int64_t num_codes = 0; num_codes <= 200; ++num_codes) {
    std::vector<uint8_t> codes(static_cast<size_t>(num_codes));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(rng());  // upper bits are ignored
    for (const bool first_high : {false, true}) {
      std::vector<uint8_t> packed((codes.size() + 1) / 2 + 1, 0xEE),
          unpacked(codes.size() + 1, 0xEE);
      PackNibbles(codes.data(), num_codes, first_high, packed.data());
      ASSERT_EQ(packed.back(), 0xEE) << "beyond " << num_codes;
      for (size_t i = 0; i < codes.size(); ++i) {
        const bool high = (i % 2 == 0) == first_high;
        ASSERT_EQ(high ? packed[i / 2] >> 4 : packed[i / 2] & 15, codes[i] & 15) << i;
      }
      if (num_codes % 2 != 0) {
        const uint8_t last = packed[packed.size() - 2];
        ASSERT_EQ(first_high ? last & 15 : last >> 4, 0);
      }
      UnpackNibbles(packed.data(), num_codes, first_high, unpacked.data());
      ASSERT_EQ(unpacked.back(), 0xEE) << "beyond " << num_codes;
      for (size_t i = 0; i < codes.size(); ++i) ASSERT_EQ(unpacked[i], codes[i] & 15);
    }
  }
}

TEST_P(AffineTest, SaturatesAndCountsFromHalfAStep) {
  const std::vector<float> values = {
      127.4f, 127.5f, -127.4f, -127.5f, 1e30f, -1e30f, std::numeric_limits<float>::max(), 0};
  std::vector<uint8_t> codes(values.size());
  const AffineParams params;  // scale 1, codes -127 to 127
  EXPECT_EQ(EncodeAffine(Rounding::kHalfEven, values.data(), 8, params, nullptr, codes.data()), 5);
  EXPECT_THAT(codes, ElementsAre(127, 127, 0x81, 0x81, 127, 0x81, 127, 0));
}

// Around every boundary between two codes, for scales of all sizes.
TEST_P(AffineTest, DividesAsIeeeDoes) {
  std::mt19937 rng(7);
  std::uniform_real_distribution<double> exponent(-126, 120);
  for (int round = 0; round < 3000; ++round) {
    AffineParams params;
    params.scale = static_cast<float>(std::exp2(exponent(rng)));
    std::vector<float> values;
    for (int step = -130; step <= 130; ++step) {
      float value = static_cast<float>((step + 0.5) * static_cast<double>(params.scale));
      for (int i = 0; i < 3; ++i) value = std::nextafter(value, -INFINITY);
      for (int i = 0; i < 7; ++i, value = std::nextafter(value, INFINITY)) values.push_back(value);
    }
    for (const float value : {std::numeric_limits<float>::max(), 1e-45f, -1e-45f, -0.0f}) {
      values.push_back(value);
    }
    std::vector<uint8_t> codes(values.size());
    EncodeAffine(Rounding::kHalfEven, values.data(), std::ssize(values), params, nullptr,
                 codes.data());
    for (size_t i = 0; i < values.size(); ++i) {
      const float whole = std::nearbyint(values[i] / params.scale);
      const float expected = std::fmin(std::fmax(whole, -127.0f), 127.0f);
      ASSERT_EQ(static_cast<int8_t>(codes[i]), expected)
          << values[i] << " / " << params.scale << " on " << GetParam();
    }
  }
}

TEST_P(AffineTest, AddsTheZeroPointAfterRounding) {
  AffineParams params;
  params.zero_point = 3;
  params.min_code = -128;
  const std::vector<float> values = {0.5f, 1.5f, -0.5f, -2.5f, 124.5f, -131.5f};
  std::vector<uint8_t> codes(values.size());
  EXPECT_EQ(EncodeAffine(Rounding::kHalfEven, values.data(), 6, params, nullptr, codes.data()), 2);
  EXPECT_THAT(codes, ElementsAre(3, 5, 3, 1, 127, 0x80));
}

TEST_P(AffineTest, ParametersOfEachElement) {
  constexpr int64_t kElems = 67;
  std::vector<float> scales(kElems), values(kElems), decoded(kElems);
  std::vector<int32_t> zero_points(kElems);
  std::vector<uint8_t> codes(kElems);
  for (size_t i = 0; i < kElems; ++i) {
    scales[i] = std::ldexp(1.0f, static_cast<int>(i % 9) - 4);
    zero_points[i] = static_cast<int32_t>(i % 21);
    values[i] = scales[i] * static_cast<float>(i);
  }
  AffineParams params;
  params.scales = scales.data();
  params.zero_points = zero_points.data();
  params.min_code = 0;
  params.max_code = 255;
  EXPECT_EQ(EncodeAffine(Rounding::kFloor, values.data(), kElems, params, nullptr, codes.data()),
            0);
  for (size_t i = 0; i < kElems; ++i) EXPECT_EQ(codes[i], i + i % 21);
  DecodeAffine(codes.data(), kElems, params, decoded.data());
  EXPECT_EQ(decoded, values);
}

TEST_P(AffineTest, SixteenBits) {
  AffineParams params;
  params.min_code = -32768;
  params.max_code = 32767;
  params.scale = 0.5f;
  const std::vector<double> values = {16383.5, 16384, -16384, -16384.25, 1e300, 0.25};
  std::vector<uint16_t> codes(values.size());
  EXPECT_EQ(EncodeAffine(Rounding::kHalfEven, values.data(), 6, params, nullptr, codes.data()), 3);
  EXPECT_THAT(codes, ElementsAre(32767, 32767, 0x8000, 0x8000, 32767, 0));
  std::vector<double> decoded(values.size());
  DecodeAffine(reinterpret_cast<const int16_t*>(codes.data()), 6, params, decoded.data());
  EXPECT_THAT(decoded, ElementsAre(16383.5, 16383.5, -16384, -16384, 16383.5, 0));
}

TEST_P(AffineTest, NonFiniteValuesShowInTheSignal) {
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY}) {
    for (size_t at = 0; at < 48; ++at) {
      std::vector<float> values(48, 1.5f);
      std::vector<uint8_t> codes(values.size());
      FigureLanes<float> lanes(values[0]);
      values[at] = odd;
      EncodeAffineMeasured(values.data(), std::ssize(values), AffineParams(), codes.data(), lanes);
      EXPECT_FALSE(std::isfinite(lanes.signal[at % 16])) << odd << " at " << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, AffineTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
