#include "core/scheme/affine.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
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

// What a spec makes of a vector.
struct Quantized {
  std::vector<int> codes;
  std::vector<float> scales;
  std::vector<int> zero_points;
  std::vector<double> decoded;
  EncodingReport report;
};

std::vector<int> ToInts(const PlaneDesc& plane, const std::vector<std::byte>& bytes) {
  std::vector<int> values;
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(SizeOf(plane.dtype))) {
    int16_t wide = 0;
    std::memcpy(&wide, &bytes[at], static_cast<size_t>(SizeOf(plane.dtype)));
    values.push_back(plane.dtype == DType::kInt8 ? static_cast<int8_t>(wide) : wide);
  }
  return values;
}

template <typename T>
Quantized Quantize(absl::string_view spec, const std::vector<T>& values,
                   std::vector<int64_t> dims = {}) {
  if (dims.empty()) dims = {static_cast<int64_t>(values.size())};
  Bench bench(0);
  const TensorDesc tensor = MakeTensor("t", sizeof(T) == 4 ? DType::kF32 : DType::kF64, dims);
  const auto result =
      QuantizeAll(*ParseSpec(spec), tensor, std::as_bytes(std::span(values)), {}, bench.context());
  EXPECT_TRUE(result.ok()) << result.status();
  if (!result.ok()) return {};
  const std::vector<PlaneDesc>& planes = result->plan.resolved.layout.planes;
  Quantized quantized;
  quantized.report = result->report;
  quantized.codes = ToInts(planes[0], result->planes[0]);
  if (planes[1].dtype == DType::kF32) {
    quantized.scales.resize(result->planes[1].size() / 4);
    std::memcpy(quantized.scales.data(), result->planes[1].data(), result->planes[1].size());
  }
  if (planes.size() > 2) quantized.zero_points = ToInts(planes[2], result->planes[2]);
  const auto decoded = DequantizeCut(*result, DType::kF64, Cut::kWhole, bench.context());
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  quantized.decoded.resize(values.size());
  std::memcpy(quantized.decoded.data(), decoded->data(), decoded->size());
  return quantized;
}

TEST(AffineSchemeTest, CodesThatShareBytes) {
  const std::vector<float> centred = {-1, 0.5f, 0.25f}, aside = {-1, 0, 3};
  EXPECT_THAT(Quantize("int2", centred).codes, ElementsAre(0x03));  // 11 00 00, the first lowest
  EXPECT_THAT(Quantize("int3", centred).codes, ElementsAre(0x55, 0x00));
  EXPECT_THAT(Quantize("int5", centred).codes, ElementsAre(0xF1, 0x10));
  EXPECT_THAT(Quantize("int6", centred).codes, ElementsAre(0x21, 0x84, 0x00));
  EXPECT_THAT(Quantize("uint2", aside).codes, ElementsAre(0x34));
  EXPECT_THAT(Quantize("uint3", aside).codes, ElementsAre(0xD0, 0x01));
  EXPECT_THAT(Quantize("uint5", aside).codes, ElementsAre(0x00, 0x7D));
  EXPECT_THAT(Quantize("uint6", aside).codes, ElementsAre(0x00, 0xF4, 0x03));
}

TEST(AffineSchemeTest, ModesByHand) {
  const std::vector<float> values = {-1, 0, 0.5f, 2};
  const Quantized symmetric = Quantize("int8", values);
  EXPECT_THAT(symmetric.scales, ElementsAre(2.0f / 127));
  EXPECT_THAT(symmetric.codes, ElementsAre(-64, 0, 32, 127));  // -63.5 to even
  EXPECT_TRUE(symmetric.zero_points.empty());
  const Quantized full = Quantize("int8:mode=full", values);
  EXPECT_THAT(full.scales, ElementsAre(static_cast<float>(2 / 127.5)));
  EXPECT_THAT(full.codes, ElementsAre(-64, 0, 32, 127));
  const Quantized asymmetric = Quantize("int8:mode=asymmetric", values);
  EXPECT_THAT(asymmetric.scales, ElementsAre(static_cast<float>(3.0 / 255)));
  EXPECT_THAT(asymmetric.zero_points, ElementsAre(-43));           // -128 + 85
  EXPECT_THAT(asymmetric.codes, ElementsAre(-128, -43, -1, 127));  // 42.5 to even, then the zero
  const Quantized unsigned_default = Quantize("uint8", values);
  EXPECT_THAT(unsigned_default.zero_points, ElementsAre(85));
  EXPECT_THAT(unsigned_default.codes, ElementsAre(0, 85, 127, 255));
  const Quantized unsigned_symmetric = Quantize("uint8:mode=symmetric", values);
  EXPECT_THAT(unsigned_symmetric.zero_points, ElementsAre(128));
  EXPECT_THAT(unsigned_symmetric.codes, ElementsAre(64, 128, 160, 255));
  const Quantized wide = Quantize("int16", values);
  EXPECT_THAT(wide.scales, ElementsAre(static_cast<float>(2.0 / 32767)));
  EXPECT_THAT(wide.codes, ElementsAre(-16384, 0, 8192, 32767));
  const Quantized nibbles = Quantize("uint4", std::vector<float>{-5, 0, 10});
  EXPECT_THAT(nibbles.scales, ElementsAre(1.0f));
  EXPECT_THAT(nibbles.zero_points, ElementsAre(5));
  EXPECT_THAT(nibbles.codes, ElementsAre(0x50, 0x0F));  // the first in the low nibble
}

TEST(AffineSchemeTest, SignedNibbles) {
  const Quantized symmetric = Quantize("int4", std::vector<float>{-7, 3, 0});
  EXPECT_THAT(symmetric.scales, ElementsAre(1.0f));
  EXPECT_TRUE(symmetric.zero_points.empty());
  EXPECT_THAT(symmetric.codes, ElementsAre(0x39, 0x00));  // the first in the low nibble
  EXPECT_THAT(symmetric.decoded, ElementsAre(-7, 3, 0));
  const Quantized full = Quantize("int4:mode=full", std::vector<float>{-7.5f, 7});
  EXPECT_THAT(full.codes, ElementsAre(0x78));  // -7.5 to even
  const Quantized asymmetric = Quantize("int4:mode=asymmetric", std::vector<float>{-5, 10});
  EXPECT_THAT(asymmetric.zero_points, ElementsAre(-3));
  EXPECT_THAT(asymmetric.codes, ElementsAre(0x78));
  EXPECT_THAT(asymmetric.decoded, ElementsAre(-5, 10));
}

TEST(AffineSchemeTest, CompressedTensorsAddsTheZeroPointBeforeRounding) {
  // Scale 1 and zero point 1, which is odd: ties go the other way.
  const std::vector<float> values = {-9, 6, 0.5f, 1.5f};
  const Quantized theirs =
      Quantize("int4:dialect=compressed_tensors,mode=asymmetric", values);
  EXPECT_THAT(theirs.scales, ElementsAre(1.0f));
  EXPECT_THAT(theirs.zero_points, ElementsAre(1));
  EXPECT_THAT(theirs.codes, ElementsAre(0x78, 0x22));  // 1.5 and 2.5, to even
  const Quantized onnx = Quantize("int4:mode=asymmetric", values);
  EXPECT_THAT(onnx.codes, ElementsAre(0x78, 0x31));  // 0 and 2, and then 1
}

TEST(AffineSchemeTest, CompressedTensorsHasScalesOfItsOwn) {
  const Quantized rows = Quantize("int8:dialect=compressed_tensors,axis=0",
                                  std::vector<float>{0, -0.0f, 1, -0.5f, 1e-45f, 0}, {3, 2});
  EXPECT_THAT(rows.scales, ElementsAre(FLT_EPSILON, 1 / 127.5f, FLT_EPSILON));
  EXPECT_THAT(rows.codes, ElementsAre(0, 0, 127, -64, 0, 0));
  const Quantized small =
      Quantize("int4:dialect=compressed_tensors", std::vector<float>{FLT_MIN, -FLT_MIN / 2});
  EXPECT_THAT(small.scales, ElementsAre(FLT_MIN / 7.5f));  // subnormal
  EXPECT_THAT(small.codes, ElementsAre(0xC7));
  const Quantized wide = Quantize("int8:dialect=compressed_tensors,mode=asymmetric",
                                  std::vector<float>{FLT_MAX, -FLT_MAX});
  EXPECT_NEAR(wide.decoded[0] / FLT_MAX, 1, 0.01);  // where theirs overflows
  EXPECT_NEAR(wide.decoded[1] / FLT_MAX, -1, 0.01);
}

TEST(AffineSchemeTest, TheRangeIsWidenedToHoldZero) {
  const Quantized above = Quantize("uint8", std::vector<float>{10, 25.5f});
  EXPECT_THAT(above.scales, ElementsAre(0.1f));
  EXPECT_THAT(above.zero_points, ElementsAre(0));
  const Quantized below = Quantize("uint8", std::vector<float>{-10, -25.5f});
  EXPECT_THAT(below.zero_points, ElementsAre(255));
}

TEST(AffineSchemeTest, GroupsOfZerosHaveScaleOne) {
  const Quantized rows =
      Quantize("uint8:axis=0", std::vector<float>{0, -0.0f, 100.5f, 255}, {2, 2});
  EXPECT_THAT(rows.scales, ElementsAre(1.0f, 1.0f));
  EXPECT_THAT(rows.zero_points, ElementsAre(0, 0));
  EXPECT_THAT(rows.codes, ElementsAre(0, 0, 100, 255));
  EXPECT_FALSE(rows.report.figures.Lossless());
  EXPECT_TRUE(Quantize("int8", std::vector<float>{0, 0}).report.figures.Lossless());
}

TEST(AffineSchemeTest, SubnormalValuesKeepANormalScale) {
  const float tiny = FLT_MIN / 64;
  const Quantized quantized = Quantize("int8", std::vector<float>{tiny, -tiny, 0});
  EXPECT_THAT(quantized.scales, ElementsAre(FLT_MIN));
  EXPECT_THAT(quantized.codes, ElementsAre(0, 0, 0));
  EXPECT_EQ(quantized.report.clipped, 0);
  const float small = 100 * FLT_MIN;
  EXPECT_THAT(Quantize("int8", std::vector<float>{small, -FLT_MIN}).codes, ElementsAre(100, -1));
}

TEST(AffineSchemeTest, TheLargestValues) {
  const std::vector<float> values = {FLT_MAX, -FLT_MAX, 1};
  for (const char* spec : {"int8", "int16", "uint8:mode=symmetric"}) {
    const Quantized quantized = Quantize(spec, values);
    EXPECT_EQ(quantized.report.clipped, 0) << spec;
    EXPECT_NEAR(quantized.decoded[0] / FLT_MAX, 1, 1e-6) << spec;
    EXPECT_NEAR(quantized.decoded[1] / FLT_MAX, -1, 1e-6) << spec;
  }
  // The sum of both reaches is beyond f32, not beyond f64.
  const Quantized asymmetric = Quantize("int8:mode=asymmetric", values);
  EXPECT_THAT(asymmetric.scales, ElementsAre(0x1.FFFFFEp120f));  // 128 steps fit
  EXPECT_NEAR(asymmetric.decoded[0] / FLT_MAX, 1, 0.01);
}

TEST(AffineSchemeTest, DoublesBeyondF32Saturate) {
  const Quantized quantized = Quantize("int8", std::vector<double>{1e300, -1e300, 1, DBL_MAX});
  EXPECT_THAT(quantized.scales, ElementsAre(FLT_MAX));
  EXPECT_THAT(quantized.codes, ElementsAre(127, -127, 0, 127));
  EXPECT_EQ(quantized.report.clipped, 3);
  const Quantized pow2 = Quantize("uint8:scale_type=pow2", std::vector<double>{-DBL_MAX, DBL_MAX});
  EXPECT_THAT(pow2.scales, ElementsAre(0x1p127f));
  EXPECT_THAT(pow2.codes, ElementsAre(0, 255));
  EXPECT_EQ(pow2.report.clipped, 2);
}

// 127 and 128 steps must not overflow, which the scale by the rule's own division may let them.
TEST(AffineSchemeTest, F32HoldsWhatTheOutermostCodesStandFor) {
  const std::vector<float> mask = {-FLT_MAX, 0, FLT_MAX, -FLT_MAX};
  for (const char* spec :
       {"int8", "int8:mode=full", "int8:mode=asymmetric", "int8:dialect=compressed_tensors",
        "int8:scale_type=bf16", "int8:scale_type=pow2", "int8:range=-1e300..1e300", "int16",
        "int16:mode=asymmetric", "uint8", "uint4", "int4:mode=full", "uint4:scale_type=pow2"}) {
    const Quantized quantized = Quantize(spec, mask);
    EXPECT_EQ(quantized.decoded[1], 0) << spec;
    for (const double value : quantized.decoded) {
      EXPECT_TRUE(std::isfinite(static_cast<float>(value))) << spec;
    }
    EXPECT_LE(quantized.decoded[0], -0.43 * FLT_MAX) << spec;
    EXPECT_GE(quantized.decoded[2], 0.43 * FLT_MAX) << spec;
  }
  const Quantized full = Quantize("int8:mode=full", mask);
  EXPECT_THAT(full.scales, ElementsAre(0x1.FFFFFEp120f));  // FLT_MAX / 128, not / 127.5
  EXPECT_THAT(full.codes, ElementsAre(-128, 0, 127, -128));
  EXPECT_EQ(full.report.clipped, 1);
  const Quantized pow2 = Quantize("int8:scale_type=pow2", mask);
  EXPECT_THAT(pow2.scales, ElementsAre(0x1p121f));  // up would be 2^122
}

// A step before the end nothing differs.
TEST(AffineSchemeTest, ScalesThatF32HoldsAreTheRulesOwn) {
  const Quantized quantized = Quantize("int8:mode=full", std::vector<float>{-FLT_MAX / 2, 1});
  EXPECT_THAT(quantized.scales, ElementsAre(static_cast<float>(FLT_MAX / 2.0 / 127.5)));
}

TEST(AffineSchemeTest, ScaleOutrightUsesAllCodes) {
  const Quantized quantized =
      Quantize("int8:scale=0.5,zero=1", std::vector<float>{0.25f, 0.75f, -64.5f, -1000, 1000});
  EXPECT_THAT(quantized.scales, ElementsAre(0.5f));
  EXPECT_THAT(quantized.zero_points, ElementsAre(1));
  EXPECT_THAT(quantized.codes, ElementsAre(1, 3, -128, -128, 127));
  EXPECT_EQ(quantized.report.clipped, 2);
  EXPECT_TRUE(Quantize("int8:scale=0.5", std::vector<float>{1}).zero_points.empty());
}

TEST(AffineSchemeTest, CodesAreMadeWithTheStoredScale) {
  // 1 / 127 rounds down in bf16, so that 1 / scale is 127.5 and a bit.
  const Quantized quantized =
      Quantize("int16:scale=0.00787401575,scale_type=bf16", std::vector<float>{1});
  const double stored = quantized.decoded[0] / quantized.codes[0];
  EXPECT_EQ(stored, RoundScale(0.00787401575, ScaleType::kBf16));
  EXPECT_NE(stored, 0.00787401575);
  EXPECT_EQ(quantized.codes[0], static_cast<int>(std::nearbyint(1 / stored)));
}

TEST(NearestScaleTest, GivesWhatIsStoredOrSaysWhatIs) {
  const auto stored = [](double scale, ScaleType type) { return *NearestScale(scale, type); };
  EXPECT_EQ(stored(0.02, ScaleType::kF32), 0.02f);
  EXPECT_EQ(stored(0.1, ScaleType::kF16), 0.0999755859375);
  EXPECT_EQ(stored(0.1, ScaleType::kBf16), 0.10009765625);
  EXPECT_EQ(stored(0.02, ScaleType::kPow2), 0x1p-6);  // not up, as scales that are found
  EXPECT_EQ(stored(1.5, ScaleType::kPow2), 2);
  EXPECT_EQ(stored(0x1p-126, ScaleType::kPow2), 0x1p-126);
  EXPECT_EQ(stored(FLT_MIN, ScaleType::kF32), FLT_MIN);
  EXPECT_EQ(stored(65504, ScaleType::kF16), 65504);
  EXPECT_EQ(stored(1e-6, ScaleType::kF16), 17 * 0x1p-24);
  for (const auto& [scale, type] : std::vector<std::pair<double, ScaleType>>{
           {1e-46, ScaleType::kF32}, {1e300, ScaleType::kF32}, {1e-8, ScaleType::kF16},
           {65505, ScaleType::kF16}, {FLT_MAX, ScaleType::kBf16}, {FLT_MAX, ScaleType::kPow2},
           {1e-39, ScaleType::kPow2}, {0x1.fp-114, ScaleType::kDyadic16},
           {FLT_MAX, ScaleType::kDyadic16}}) {
    const absl::Status status = NearestScale(scale, type).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << scale;
    EXPECT_THAT(std::string(status.message()),
                ::testing::HasSubstr(std::string(NameOf(type)) + "; use ")) << scale;
  }
}

TEST(AffineSchemeTest, TheSpecHasTheScaleThatIsStored) {
  const auto complete = [](absl::string_view spec, DType dtype = DType::kF32) {
    return CompleteSpec(*ParseSpec(spec), **FindScheme("int8"), {"t", dtype, Shape()});
  };
  EXPECT_EQ(complete("int8:scale=0.1,scale_type=f16")->scale, 0.0999755859375);
  EXPECT_EQ(complete("int8:scale=0.5")->scale, 0.5);
  EXPECT_EQ(complete("int8:scale=1e-46").status().code(), absl::StatusCode::kInvalidArgument);
}

// What is decoded beyond f32 is its largest, and so it is in the figures.
TEST(AffineSchemeTest, ALargeScaleThatIsGiven) {
  const Quantized quantized = Quantize("int8:scale=2.5e38", std::vector<float>{FLT_MAX, 1});
  EXPECT_THAT(quantized.codes, ElementsAre(1, 0));
  const Quantized beyond = Quantize("int8:scale=1.3e38", std::vector<float>{FLT_MAX, 1});
  EXPECT_THAT(beyond.codes, ElementsAre(3, 0));  // 3.9e38
  EXPECT_EQ(beyond.report.figures.max_error, 1);
}

TEST(RoundScaleTest, RoundsOnceAndStaysNormal) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  for (const ScaleType type :
       {ScaleType::kF32, ScaleType::kF16, ScaleType::kBf16, ScaleType::kPow2,
        ScaleType::kDyadic16}) {
    EXPECT_EQ(RoundScale(0, type), 1);
    EXPECT_EQ(RoundScale(0.25, type), 0.25);
    EXPECT_GT(RoundScale(5e-324, type), 0);
    EXPECT_TRUE(std::isfinite(RoundScale(kInf, type)));
    EXPECT_GE(RoundScale(kInf, type), 65504);
    EXPECT_EQ(RoundScale(RoundScale(0.1, type), type), RoundScale(0.1, type));
  }
  EXPECT_EQ(RoundScale(0.1, ScaleType::kF32), 0.1f);
  EXPECT_EQ(RoundScale(1e-300, ScaleType::kF32), FLT_MIN);
  EXPECT_EQ(RoundScale(1e300, ScaleType::kF32), FLT_MAX);
  EXPECT_EQ(RoundScale(1e-300, ScaleType::kF16), 0x1p-24);
  EXPECT_EQ(RoundScale(0x1.8p-23, ScaleType::kF16), 0x1.8p-23);  // subnormal
  EXPECT_EQ(RoundScale(1e300, ScaleType::kF16), 65504);
  EXPECT_EQ(RoundScale(1 + 0x1p-8, ScaleType::kBf16), 1);  // a tie to even
  EXPECT_EQ(RoundScale(1 + 3 * 0x1p-8, ScaleType::kBf16), 1 + 0x1p-6);
  EXPECT_EQ(RoundScale(0.3, ScaleType::kPow2), 0.5);  // up
  EXPECT_EQ(RoundScale(1e-300, ScaleType::kPow2), 0x1p-126);
  EXPECT_EQ(RoundScale(kInf, ScaleType::kPow2), 0x1p127);
  EXPECT_EQ(RoundScale(0.3, ScaleType::kDyadic16), 19661 * 0x1p-16);
  EXPECT_EQ(RoundScale(1 + 0x1p-15, ScaleType::kDyadic16), 1);  // a tie to even
  EXPECT_EQ(RoundScale(1 + 0x3p-15, ScaleType::kDyadic16), 1 + 0x4p-15);
  EXPECT_EQ(RoundScale(1e-300, ScaleType::kDyadic16), 0x1p-113);
  EXPECT_EQ(RoundScale(kInf, ScaleType::kDyadic16), 32767 * 0x1p113);
}

// Golden: transformers 5.24.0, models.ibert.quant_modules.batch_frexp(scales, 15), of f64. Where it
// has 32768 the multiplier is halved, as the value is the same.
TEST(Dyadic16Test, IsIBertsMultiplierAndShift) {
  struct Golden {
    double scale;
    int multiplier, shift;
  };
  for (const Golden& golden : std::vector<Golden>{{0.3, 19661, 16},
                                                  {1.0 / 127, 16513, 21},
                                                  {2.0 / 255, 16448, 21},
                                                  {0.02, 20972, 20},
                                                  {1, 16384, 14},
                                                  {3.14159, 25736, 13},
                                                  {1e-9, 17592, 44},
                                                  {123456.789, 30864, -2},
                                                  {7.9e-6, 16965, 31},
                                                  {0x1.fffep0, 32768, 14},
                                                  {0x1.ffffp-3, 32768, 17},
                                                  {1e30, 25849, -85},
                                                  {1e-30, 20769, 114}}) {
    const double stored = RoundScale(golden.scale, ScaleType::kDyadic16);
    EXPECT_EQ(stored, std::ldexp(golden.multiplier, -golden.shift));
    const Dyadic16 parts = Dyadic16Of(stored);
    const bool halved = golden.multiplier == 32768;
    EXPECT_EQ(parts.multiplier, halved ? 16384 : golden.multiplier) << golden.scale;
    EXPECT_EQ(parts.shift, golden.shift - (halved ? 1 : 0)) << golden.scale;
  }
}

// Every multiplier with every shift is a scale that comes back, and that f32 holds.
TEST(Dyadic16Test, AllPartsComeBack) {
  for (int shift = -113; shift <= 127; ++shift) {
    for (int multiplier = 1 << 14; multiplier < 1 << 15; multiplier += shift % 16 == 0 ? 1 : 37) {
      const double scale = std::ldexp(multiplier, -shift);
      ASSERT_EQ(RoundScale(scale, ScaleType::kDyadic16), scale);
      ASSERT_EQ(static_cast<float>(scale), scale);
      const Dyadic16 parts = Dyadic16Of(scale);
      ASSERT_EQ(parts.multiplier, multiplier);
      ASSERT_EQ(parts.shift, shift);
    }
  }
}

// Integers alone: codes, zero points, multipliers and shifts give what Dequantize gives, and a
// product fits 32 bits.
TEST(Dyadic16Test, DecodingNeedsIntegersOnly) {
  std::vector<float> values;
  for (int i = 0; i < 4096; ++i) {
    values.push_back(static_cast<float>((i * 7919 % 4096 - 1500) * std::ldexp(1.0, i / 64 - 40)));
  }
  for (const char* spec : {"int2", "uint4", "int8", "uint8:mode=full", "uint16", "int16"}) {
    Bench bench;
    QuantSpec whole = *ParseSpec(spec);
    whole.granularity = {.kind = GranularityKind::kAxis, .axis = 0};
    whole.scale_type = ScaleType::kDyadic16;
    if (!whole.mode) whole.mode = Mode::kAsymmetric;
    const absl::StatusOr<QuantizedTensor> made = QuantizeAll(
        whole, MakeTensor("t", DType::kF32, {64, 64}), std::as_bytes(std::span(values)), {},
        bench.context());
    ASSERT_TRUE(made.ok()) << made.status();
    const PackedLayout& layout = made->plan.resolved.layout;
    ASSERT_EQ(layout.planes[1].name, "multiplier");
    ASSERT_EQ(layout.planes[2].name, "shift");
    const auto decoded =
        testing::DequantizeCut(*made, DType::kF32, testing::Cut::kWhole, bench.context());
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    const int bits = made->plan.resolved.info->bits;
    const bool is_signed = made->plan.resolved.info->is_signed;
    const auto code_at = [&](const std::vector<std::byte>& plane, int64_t i, int width) {
      int64_t code = 0;
      for (int64_t bit = 0; bit < width; ++bit) {
        const int64_t at = i * width + bit;
        const int byte = std::to_integer<int>(plane[static_cast<size_t>(at / 8)]);
        code |= int64_t{byte >> at % 8 & 1} << bit;
      }
      return is_signed && code >> (width - 1) != 0 ? code - (int64_t{1} << width) : code;
    };
    for (int64_t i = 0; i < 4096; ++i) {
      const auto* multipliers = reinterpret_cast<const int16_t*>(made->planes[1].data());
      const int64_t multiplier = LoadAt(multipliers, i / 64);
      const int shift = static_cast<int8_t>(made->planes[2][static_cast<size_t>(i / 64)]);
      const int64_t zero = code_at(made->planes[3], i / 64, std::max(bits, 8));
      const int64_t product = (code_at(made->planes[0], i, bits) - zero) * multiplier;
      ASSERT_EQ(product, static_cast<int32_t>(product));
      const auto* theirs = reinterpret_cast<const float*>(decoded->data());
      ASSERT_EQ(LoadAt(theirs, i),
                static_cast<float>(std::ldexp(static_cast<double>(product), -shift)))
          << spec << " " << i;
    }
  }
}

}  // namespace
}  // namespace quantd
