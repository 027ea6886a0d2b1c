#include "core/simd/affine.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
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

// Parameters of one run of `num_elems` values.
struct OneRun {
  OneRun(float scale, int32_t zero_point, size_t num_elems)
      : scale(scale), zero_point(zero_point), end(static_cast<int32_t>(num_elems)) {}
  AffineParams params() const { return {&scale, &zero_point, &end, 1}; }

  float scale;
  int32_t zero_point, end;
};

template <typename T, typename Code>
int64_t Encode(const AffineRule& rule, const OneRun& run, const std::vector<T>& values,
               std::vector<Code>& codes) {
  codes.resize(values.size());
  return EncodeAffine(rule, run.params(), values.data(), std::ssize(values), codes.data(), nullptr);
}

TEST_P(AffineTest, SaturatesAndCountsFromHalfAStep) {
  const std::vector<float> values = {
      127.4f, 127.5f, -127.4f, -127.5f, 1e30f, -1e30f, std::numeric_limits<float>::max(), 0};
  std::vector<uint8_t> codes;
  EXPECT_EQ(Encode({}, OneRun(1, 0, 8), values, codes), 5);
  EXPECT_THAT(codes, ElementsAre(127, 127, 0x81, 0x81, 127, 0x81, 127, 0));
}

// Around every boundary between two codes, for scales of all sizes.
TEST_P(AffineTest, DividesAsIeeeDoes) {
  std::mt19937 rng(7);
  std::uniform_real_distribution<double> exponent(-126, 120);
  for (int round = 0; round < 3000; ++round) {
    const float scale = static_cast<float>(std::exp2(exponent(rng)));
    std::vector<float> values;
    for (int step = -130; step <= 130; ++step) {
      float value = static_cast<float>((step + 0.5) * static_cast<double>(scale));
      for (int i = 0; i < 3; ++i) value = std::nextafter(value, -INFINITY);
      for (int i = 0; i < 7; ++i, value = std::nextafter(value, INFINITY)) values.push_back(value);
    }
    for (const float value : {std::numeric_limits<float>::max(), 1e-45f, -1e-45f, -0.0f}) {
      values.push_back(value);
    }
    std::vector<uint8_t> codes;
    Encode({}, OneRun(scale, 0, values.size()), values, codes);
    for (size_t i = 0; i < values.size(); ++i) {
      const float whole = std::nearbyint(values[i] / scale);
      const float expected = std::fmin(std::fmax(whole, -127.0f), 127.0f);
      ASSERT_EQ(static_cast<int8_t>(codes[i]), expected)
          << values[i] << " / " << scale << " on " << GetParam();
    }
  }
}

TEST_P(AffineTest, AddsTheZeroPointAfterRoundingOrBefore) {
  AffineRule rule;
  rule.min_code = -128;
  const std::vector<float> values = {0.5f, 1.5f, -0.5f, -2.5f, 124.5f, -131.5f};
  std::vector<uint8_t> codes;
  EXPECT_EQ(Encode(rule, OneRun(1, 3, 6), values, codes), 2);
  EXPECT_THAT(codes, ElementsAre(3, 5, 3, 1, 127, 0x80));
  rule.zero_first = true;
  EXPECT_EQ(Encode(rule, OneRun(1, 3, 6), values, codes), 2);
  EXPECT_THAT(codes, ElementsAre(4, 4, 2, 0, 127, 0x80));
}

TEST_P(AffineTest, SixteenBits) {
  AffineRule rule;
  rule.min_code = -32768;
  rule.max_code = 32767;
  const OneRun run(0.5f, 0, 6);
  const std::vector<double> values = {16383.5, 16384, -16384, -16384.25, 1e300, 0.25};
  std::vector<uint16_t> codes;
  EXPECT_EQ(Encode(rule, run, values, codes), 3);
  EXPECT_THAT(codes, ElementsAre(32767, 32767, 0x8000, 0x8000, 32767, 0));
  std::vector<double> decoded(values.size());
  DecodeAffine(AffineCode::kInt16, codes.data(), 6, run.params(), decoded.data());
  EXPECT_THAT(decoded, ElementsAre(16383.5, 16383.5, -16384, -16384, 16383.5, 0));
}

// --- Against the rule as one would write it, with everything mixed ---

// A call with parameters of runs, or of each element.
template <typename T>
struct Call {
  AffineRule rule;
  std::vector<float> scales;
  std::vector<int32_t> zero_points, ends;
  std::vector<uint32_t> noise;
  std::vector<T> values;
  bool one_zero = false;

  AffineParams params() const {
    const bool by_run = !ends.empty();
    const int32_t* zeros = one_zero ? nullptr : zero_points.data();
    return {scales.data(), zeros, by_run ? ends.data() : nullptr, std::ssize(ends), zero_points[0]};
  }
  // Returns the index of the parameters of value i.
  size_t ParamOf(size_t i) const {
    if (ends.empty()) return i;
    return static_cast<size_t>(
        std::upper_bound(ends.begin(), ends.end(), static_cast<int32_t>(i)) - ends.begin());
  }
  // Returns code - zero_point of value i, and whether it is clipped.
  std::pair<T, bool> StepsOf(size_t i) const {
    const T scale = scales[ParamOf(i)], zero = static_cast<T>(zero_points[ParamOf(i)]);
    const T low = static_cast<T>(rule.min_code), high = static_cast<T>(rule.max_code);
    T v = values[i] / scale;
    if (rule.zero_first) {
      v += zero;
      const bool clipped = v <= low - T{0.5} || v >= high + T{0.5};
      return {std::nearbyint(std::clamp(v, low, high)) - zero, clipped};
    }
    const bool clipped = v <= low - zero - T{0.5} || v >= high - zero + T{0.5};
    const uint32_t random = noise.empty() ? 0 : noise[i];
    return {RoundToWhole(std::clamp(v, low - zero, high - zero), rule.rounding, random), clipped};
  }
};

template <typename T>
Call<T> MakeCall(std::mt19937& rng) {
  Call<T> call;
  const int bits = std::vector{4, 8, 16}[rng() % 3];
  call.rule.min_code = rng() % 2 == 0 ? 0 : -(1 << (bits - 1));
  call.rule.max_code = call.rule.min_code + (1 << bits) - 1;
  call.rule.rounding = rng() % 2 == 0 ? Rounding::kHalfEven : static_cast<Rounding>(rng() % 8);
  call.rule.zero_first = call.rule.rounding == Rounding::kHalfEven && rng() % 3 == 0;
  const size_t num_elems = 1 + rng() % (rng() % 2 == 0 ? 70 : 600);
  const bool by_run = rng() % 4 != 0;
  const int exponent = rng() % 8 == 0 ? static_cast<int>(rng() % 240) - 125 : 0;
  for (size_t at = 0; at < num_elems;) {
    at = by_run ? std::min(num_elems, at + 1 + rng() % (rng() % 2 == 0 ? 40 : 200)) : at + 1;
    if (by_run) call.ends.push_back(static_cast<int32_t>(at));
    const float mantissa = rng() % 3 == 0 ? 1 : static_cast<float>(1 + rng() % 1000 * 0.001);
    call.scales.push_back(std::ldexp(mantissa, exponent - static_cast<int>(rng() % 8)));
    call.zero_points.push_back(call.rule.min_code + static_cast<int32_t>(rng() % (1u << bits)));
  }
  call.one_zero = rng() % 3 == 0;
  if (call.one_zero) call.zero_points.assign(call.zero_points.size(), call.zero_points[0]);
  for (size_t i = 0; i < num_elems; ++i) {
    const T scale = call.scales[call.ParamOf(i)];
    const double zero = call.zero_points[call.ParamOf(i)];
    const double code = call.rule.min_code + static_cast<double>(rng() % (1u << bits));
    T value = static_cast<T>((code - zero + (rng() % 2 == 0 ? 0.5 : rng() * 0x1p-32)) * scale);
    if (rng() % 4 == 0) value = std::nextafter(value, rng() % 2 == 0 ? -INFINITY : INFINITY);
    if (rng() % 64 == 0) value *= 3;
    if (rng() % 256 == 0) value = std::numeric_limits<T>::lowest();
    if (rng() % 64 == 0) value = rng() % 2 == 0 ? -T{0} : std::numeric_limits<T>::denorm_min();
    call.values.push_back(value);
  }
  if (call.rule.rounding == Rounding::kStochastic) {
    for (size_t i = 0; i < num_elems; ++i) call.noise.push_back(rng());
    call.rule.noise = call.noise.data();
  }
  return call;
}

template <typename T, typename Code>
void Check(const Call<T>& call) {
  const size_t num_elems = call.values.size();
  std::vector<std::byte> moved(num_elems * sizeof(T) + 1);  // at an odd address
  std::memcpy(&moved[1], call.values.data(), num_elems * sizeof(T));
  const T* values = reinterpret_cast<const T*>(&moved[1]);
  std::vector<Code> codes(num_elems + 1, Code{0x55}), plain = codes;
  MeterLanes<T> lanes, expected_lanes;
  const AffineParams params = call.params();
  const int64_t clipped = EncodeAffine(call.rule, params, values, static_cast<int64_t>(num_elems),
                                       codes.data(), &lanes);
  ASSERT_EQ(clipped, EncodeAffine(call.rule, params, values, static_cast<int64_t>(num_elems),
                                  plain.data(), nullptr));
  ASSERT_EQ(codes, plain);
  ASSERT_EQ(codes.back(), Code{0x55});
  int64_t expected_clipped = 0;
  std::vector<T> y(num_elems);
  for (size_t i = 0; i < num_elems; ++i) {
    const auto [steps, outside] = call.StepsOf(i);
    expected_clipped += outside;
    const size_t at = call.ParamOf(i);
    y[i] = (steps + T{0}) * call.scales[at];
    ASSERT_EQ(codes[i], static_cast<Code>(static_cast<int32_t>(steps) + call.zero_points[at]))
        << call.values[i] << " / " << call.scales[at] << " at " << i << " of " << num_elems;
  }
  ASSERT_EQ(clipped, expected_clipped);
  for (size_t begin = 0, run = 0; begin < num_elems; ++run) {
    const size_t end = call.ends.empty() ? num_elems : static_cast<size_t>(call.ends[run]);
    MeasureSegment(call.values.data() + begin, y.data() + begin,
                   static_cast<int64_t>(end - begin), expected_lanes);
    begin = end;
  }
  ASSERT_EQ(0, std::memcmp(&lanes.sum, &expected_lanes.sum, sizeof(lanes.sum)));
  ASSERT_EQ(0, std::memcmp(&lanes.signal, &expected_lanes.signal, sizeof(lanes.sum)));
  ASSERT_EQ(0, std::memcmp(&lanes.error, &expected_lanes.error, sizeof(lanes.sum)));
  ASSERT_EQ(0, std::memcmp(&lanes.cross, &expected_lanes.cross, sizeof(lanes.sum)));
  ASSERT_EQ(lanes.min, expected_lanes.min);
  ASSERT_EQ(lanes.max, expected_lanes.max);
  ASSERT_EQ(lanes.max_error, expected_lanes.max_error);
  // Back, where the codes are of a type that there is.
  std::vector<T> decoded(num_elems + 1, T{7});
  const bool is_signed = call.rule.min_code < 0;
  if (sizeof(Code) == 2 && !is_signed) return;
  const AffineCode type = sizeof(Code) == 2 ? AffineCode::kInt16
                          : is_signed       ? AffineCode::kInt8
                                            : AffineCode::kUint8;
  DecodeAffine(type, codes.data(), static_cast<int64_t>(num_elems), params, decoded.data());
  ASSERT_EQ(decoded.back(), 7);
  ASSERT_EQ(0, std::memcmp(decoded.data(), y.data(), num_elems * sizeof(T)));
}

template <typename T>
void CheckAnyCalls() {
  std::mt19937 rng(11);
  for (int round = 0; round < 4000; ++round) {
    const Call<T> call = MakeCall<T>(rng);
    if (call.rule.max_code - call.rule.min_code > 255) {
      Check<T, uint16_t>(call);
    } else {
      Check<T, uint8_t>(call);
      Check<T, uint16_t>(call);
    }
    ASSERT_FALSE(::testing::Test::HasFatalFailure()) << "round " << round;
  }
}

TEST_P(AffineTest, AnyRunsAndRulesOfFloats) { CheckAnyCalls<float>(); }
TEST_P(AffineTest, AnyRunsAndRulesOfDoubles) { CheckAnyCalls<double>(); }

INSTANTIATE_TEST_SUITE_P(Targets, AffineTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
