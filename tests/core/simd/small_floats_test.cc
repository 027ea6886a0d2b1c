#include "core/simd/small_floats.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr const MiniFormat* kFormats[] = {&kE5m2Format, &kE4m3Format, &kE2m3Format, &kE3m2Format,
                                          &kE2m1Format};

class SmallFloatsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

// All codes, the middles between neighbours, what lies just beside them, and the far ends.
template <typename T>
std::vector<T> HardValues(const MiniFormat& format) {
  constexpr T kInf = std::numeric_limits<T>::infinity();
  std::vector<T> values = {0,
                           std::numeric_limits<T>::min(),
                           std::numeric_limits<T>::denorm_min(),
                           std::numeric_limits<T>::max(),
                           kInf,
                           std::numeric_limits<T>::quiet_NaN()};
  for (uint32_t code = 0; code <= format.max_code; ++code) {
    const T here = WidenFloat<T>(format, code);
    const T step = here - (code > 0 ? WidenFloat<T>(format, code - 1) : 0);
    for (const T value : {here, here + step / 2, here - step / 2}) {
      values.insert(values.end(),
                    {value, std::nextafter(value, kInf), std::nextafter(value, T{0})});
    }
  }
  const size_t count = values.size();
  for (size_t i = 0; i < count; ++i) values.push_back(-values[i]);
  return values;
}

template <typename T>
void ChecksEveryRounding(const MiniFormat& format) {
  const std::vector<T> values = HardValues<T>(format);
  const int64_t count = std::ssize(values);
  const uint32_t mask = (2u << format.sign_shift()) - 1;
  std::vector<uint32_t> noise(values.size());
  for (size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<uint32_t>(i * 2654435761u);
  const T largest = WidenFloat<T>(format, format.max_code);
  const T bound = largest + (largest - WidenFloat<T>(format, format.max_code - 1)) / 2;
  for (int rule = 0; rule < kNumRoundings; ++rule) {
    for (const bool saturate : {true, false}) {
      FloatCoding coding = {.rounding = static_cast<Rounding>(rule), .saturate = saturate};
      if (coding.rounding == Rounding::kStochastic) coding.noise = noise.data();
      std::vector<uint8_t> codes(values.size());
      const int64_t clipped =
          EncodeSmallFloats(format, coding, values.data(), count, codes.data(), nullptr);
      int64_t expected = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        expected += std::isfinite(values[i]) && std::fabs(values[i]) >= bound;
        ASSERT_EQ(codes[i] & mask,
                  NarrowFloat(format, values[i], coding.rounding, saturate, noise[i]))
            << values[i] << " by rounding " << rule;
        codes[i] &= static_cast<uint8_t>(mask);
      }
      ASSERT_EQ(clipped, expected);
      std::vector<T> decoded(values.size());
      DecodeSmallFloats(format, {}, codes.data(), count, decoded.data());
      for (size_t i = 0; i < values.size(); ++i) {
        const T want = WidenFloat<T>(format, codes[i]);
        ASSERT_EQ(0, std::memcmp(&decoded[i], &want, sizeof(want))) << int{codes[i]};
      }
    }
  }
}

TEST_P(SmallFloatsTest, EveryCodeAndTie) {
  for (const MiniFormat* format : kFormats) {
    ChecksEveryRounding<float>(*format);
    ChecksEveryRounding<double>(*format);
  }
}

// What the quick way makes, a run of finite values that are not clipped, is the same.
TEST_P(SmallFloatsTest, FiniteRunsOfEveryLength) {
  for (const MiniFormat* format : kFormats) {
    const uint32_t mask = (2u << format->sign_shift()) - 1;
    std::vector<float> values;
    for (const float value : HardValues<float>(*format)) {
      if (std::fabs(value) <= WidenFloat<float>(*format, format->max_code)) values.push_back(value);
    }
    for (size_t count = 0; count <= std::min<size_t>(values.size(), 70); ++count) {
      const float* from = values.data() + (values.size() - count);
      std::vector<uint8_t> codes(count + 1, 0xEE);
      const int64_t num_elems = static_cast<int64_t>(count);
      ASSERT_EQ(0, EncodeSmallFloats(*format, {}, from, num_elems, codes.data(), nullptr));
      ASSERT_EQ(codes.back(), 0xEE);
      for (size_t i = 0; i < count; ++i) {
        ASSERT_EQ(codes[i] & mask, NarrowFloat(*format, from[i], Rounding::kHalfEven, true));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, SmallFloatsTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
