#include "core/scheme/fixed_point.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/session/quantize_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using ::testing::ElementsAre;
using testing::MakeTensor;

constexpr int64_t kMax32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMin32 = std::numeric_limits<int32_t>::min();
constexpr int64_t kMax64 = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin64 = std::numeric_limits<int64_t>::min();

struct Fixed {
  std::vector<int64_t> codes;
  float scale = 0;  // the first
  int64_t clipped = 0;
  bool lossless = false;
  std::vector<double> decoded;
};

template <typename T>
Fixed Quantize(absl::string_view spec, const std::vector<T>& values) {
  Bench bench(0);
  const TensorDesc tensor = MakeTensor("t", sizeof(T) == 4 ? DType::kF32 : DType::kF64,
                                       {static_cast<int64_t>(values.size())});
  const auto result =
      QuantizeAll(*ParseSpec(spec), tensor, std::as_bytes(std::span(values)), {}, bench.context());
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return {};
  Fixed fixed;
  const std::vector<std::byte>& codes = result->planes[0];
  const bool is_wide = result->plan.resolved.layout.planes[0].dtype == DType::kInt64;
  for (size_t at = 0; at < codes.size(); at += is_wide ? 8 : 4) {
    int64_t wide = 0;
    int32_t narrow = 0;
    is_wide ? std::memcpy(&wide, &codes[at], 8) : std::memcpy(&narrow, &codes[at], 4);
    fixed.codes.push_back(is_wide ? wide : narrow);
  }
  std::memcpy(&fixed.scale, result->planes[1].data(), sizeof(fixed.scale));
  fixed.clipped = result->report.clipped;
  fixed.lossless = result->report.figures.Lossless();
  const auto decoded = DequantizeCut(*result, DType::kF64, Cut::kWhole, bench.context());
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  fixed.decoded.resize(values.size());
  std::memcpy(fixed.decoded.data(), decoded->data(), decoded->size());
  return fixed;
}

TEST(FixedPointTest, StepsArePowersOfTwo) {
  const std::vector<float> values = {-1, 0.5f, 0.25f};
  const Fixed narrow = Quantize("int32", values);
  EXPECT_EQ(narrow.scale, 0x1p-30f);
  EXPECT_THAT(narrow.codes, ElementsAre(-(1 << 30), 1 << 29, 1 << 28));
  const Fixed wide = Quantize("int64", values);
  EXPECT_EQ(wide.scale, 0x1p-62f);
  EXPECT_THAT(wide.codes,
              ElementsAre(-(int64_t{1} << 62), int64_t{1} << 61, int64_t{1} << 60));
  EXPECT_TRUE(narrow.lossless && wide.lossless);
}

TEST(FixedPointTest, WhatLiesOutsideSaturates) {
  const Fixed narrow = Quantize<double>(
      "int32:scale=1", {2147483647.4, 2147483647.5, 2147483648.0, 1e300, -2147483648.4,
                        -2147483648.5, -1e300, 2147483646.5});
  EXPECT_THAT(narrow.codes, ElementsAre(kMax32, kMax32, kMax32, kMax32, kMin32, kMin32, kMin32,
                                        2147483646));
  EXPECT_EQ(narrow.clipped, 5);
  const Fixed floats = Quantize<float>("int32:scale=1", {2147483520.0f, 2147483648.0f, FLT_MAX,
                                                         -2147483648.0f, -FLT_MAX});
  EXPECT_THAT(floats.codes, ElementsAre(2147483520, kMax32, kMax32, kMin32, kMin32));
  EXPECT_EQ(floats.clipped, 3);
  const Fixed wide = Quantize<double>(
      "int64:scale=1", {0x1.FFFFFFFFFFFFFp62, 0x1p63, 1e300, -0x1p63, -0x1.0000000000001p63,
                        -1e300, 9007199254740993.0, 0.5, 1.5});
  EXPECT_THAT(wide.codes, ElementsAre(kMax64 - 1023, kMax64, kMax64, kMin64, kMin64, kMin64,
                                      9007199254740992, 0, 2));
  EXPECT_EQ(wide.clipped, 4);
}

TEST(FixedPointTest, ZeroIsAddedToWholeNumbers) {
  const Fixed narrow =
      Quantize<double>("int32:scale=0.5,zero=-7", {0, 1.25, 1e10, -1e10, -1073741820.5});
  EXPECT_THAT(narrow.codes, ElementsAre(-7, -5, kMax32, kMin32, kMin32));
  EXPECT_EQ(narrow.decoded[1], 1);
  for (const int64_t zero : {-3, 3}) {
    const Fixed wide =
        Quantize<double>(absl::StrCat("int64:scale=1,zero=", zero), {5, 1e300, -1e300});
    EXPECT_THAT(wide.codes, ElementsAre(5 + zero, zero < 0 ? kMax64 - 3 : kMax64,
                                        zero > 0 ? kMin64 + 3 : kMin64));
    EXPECT_EQ(wide.clipped, 2);
    EXPECT_EQ(wide.decoded[0], 5);
  }
}

TEST(FixedPointTest, ScalesThatAreFoundHoldTheirRange) {
  std::mt19937_64 rng(3);
  for (const char* spec : {"int32", "int32:scale_type=f32", "int64", "int64:scale_type=f32"}) {
    for (int i = 0; i < 2000; ++i) {
      double largest = std::ldexp(1 + static_cast<double>(rng() >> 11) * 0x1p-53,
                                  static_cast<int>(rng() % 150) - 50);
      if (i % 3 == 0) largest = std::ldexp(1, i % 60 - 30);
      if (i % 3 == 1) largest = std::nextafter(std::ldexp(1, i % 60 - 30), i % 2 == 0 ? 0 : 1e9);
      const Fixed fixed = Quantize<double>(spec, {largest, -largest});
      ASSERT_EQ(fixed.clipped, 0) << spec << " " << largest;
      ASSERT_NEAR(fixed.decoded[0], largest, 0x1p-29 * largest) << spec;
    }
  }
}

}  // namespace
}  // namespace quantd
