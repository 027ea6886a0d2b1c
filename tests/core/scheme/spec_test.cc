#include "core/scheme/spec.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

QuantSpec Parsed(absl::string_view text) {
  const absl::StatusOr<QuantSpec> spec = ParseSpec(text);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : QuantSpec{};
}

TEST(ParseSpecTest, ReadsEveryKey) {
  const QuantSpec spec = Parsed(
      "int8:block=32x48,mode=full,range=-1.5..2e3,round=stochastic,seed=18446744073709551615,"
      "scale_type=bf16,dialect=onnx,layout=flat,nonfinite=saturate,tail=short,incompatible=fp16");
  EXPECT_EQ(spec.scheme, "int8");
  EXPECT_EQ(spec.granularity,
            (Granularity{.kind = GranularityKind::kBlock, .block_rows = 32, .block_cols = 48}));
  EXPECT_EQ(spec.mode, Mode::kFull);
  EXPECT_EQ(spec.given_range, (Range{-1.5, 2000}));
  EXPECT_EQ(spec.rounding, Rounding::kStochastic);
  EXPECT_EQ(spec.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(spec.scale_type, ScaleType::kBf16);
  EXPECT_EQ(spec.dialect, "onnx");
  EXPECT_EQ(spec.layout, "flat");
  EXPECT_EQ(spec.nonfinite, NonFinite::kSaturate);
  EXPECT_EQ(spec.tail, Tail::kShort);
  EXPECT_EQ(spec.incompatible, "fp16");
  EXPECT_EQ(Parsed("int8:scale=0.02,zero=-3").zero_point, -3);
  EXPECT_EQ(Parsed("int8:axis=-1").granularity->axis, -1);
  EXPECT_EQ(Parsed("int8:range=2.5sigma").range, "2.5sigma");
}

// Every choice of every key comes back from its text form, which holds no character that a shell
// takes.
TEST(ParseSpecTest, ReadsBackWhatFormatSpecWrites) {
  constexpr absl::string_view kShellSafe =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:=,._-+";
  std::mt19937_64 rng(7);
  const auto pick = [&rng](int choices) {
    return static_cast<int>(rng() % static_cast<uint64_t>(choices));
  };
  const auto number = [&] {
    return std::ldexp(static_cast<double>(static_cast<int64_t>(rng())), pick(600) - 300);
  };
  const int64_t sizes[] = {1, 7, 128, std::numeric_limits<int64_t>::max(), kWholeRow};
  for (int i = 0; i < 5000; ++i) {
    QuantSpec spec = {.scheme = "int8"};
    if (pick(2)) {
      Granularity granularity{
          .kind = static_cast<GranularityKind>(pick(std::size(kNamesOf<GranularityKind>)))};
      if (granularity.kind == GranularityKind::kAxis) granularity.axis = pick(5) - 1;
      if (granularity.kind == GranularityKind::kGroup) granularity.group_elems = sizes[pick(5)];
      if (granularity.kind == GranularityKind::kBlock) {
        granularity.block_rows = sizes[pick(4)];
        granularity.block_cols = sizes[pick(4)];
      }
      spec.granularity = granularity;
    }
    if (pick(2)) spec.mode = static_cast<Mode>(pick(std::size(kNamesOf<Mode>)));
    const int range = pick(4);
    if (range == 0) spec.range = pick(2) ? "minmax" : "3.25sigma";
    if (range == 1) {
      spec.given_range = Range{number(), number()};
      if (spec.given_range->min > spec.given_range->max) {
        std::swap(spec.given_range->min, spec.given_range->max);
      }
    }
    if (range == 2) spec.scale = std::fabs(number()) + std::numeric_limits<double>::denorm_min();
    if (pick(2)) spec.zero_point = static_cast<int64_t>(rng());
    if (pick(2)) spec.rounding = static_cast<Rounding>(pick(std::size(kNamesOf<Rounding>)));
    if (pick(2)) spec.seed = rng();
    if (pick(2)) spec.scale_type = static_cast<ScaleType>(pick(std::size(kNamesOf<ScaleType>)));
    if (pick(2)) spec.levels = static_cast<uint32_t>(rng());
    if (pick(2)) spec.dialect = "onnx";
    if (pick(2)) spec.layout = "x_1";
    if (pick(2)) spec.nonfinite = static_cast<NonFinite>(pick(std::size(kNamesOf<NonFinite>)));
    if (pick(2)) spec.tail = static_cast<Tail>(pick(std::size(kNamesOf<Tail>)));
    if (pick(2)) spec.incompatible = "keep";
    const std::string text = FormatSpec(spec);
    ASSERT_EQ(text.find_first_not_of(std::string(kShellSafe)), std::string::npos) << text;
    const absl::StatusOr<QuantSpec> back = ParseSpec(text);
    ASSERT_TRUE(back.ok()) << text << ": " << back.status();
    ASSERT_EQ(*back, spec) << text;
  }
}

struct Refusal {
  const char* text;
  const char* names;    // what the message has to hold
  const char* allowed;  // and what it says of what is allowed
};

TEST(ParseSpecTest, SaysWhatIsWrongAndWhatIsAllowed) {
  const Refusal refusals[] = {
      {"", "", "SCHEME[:key=value,...]"},
      {":", ":", "SCHEME[:key=value,...]"},
      {"Int8", "Int8", "SCHEME[:key=value,...]"},
      {"int8;rm", "int8;rm", "SCHEME[:key=value,...]"},
      {"int8:colour=red", "colour", "per, axis, group"},
      {"int8:,", "\"\"", "known: per"},
      {"int8:mode", "mode=", "symmetric, full, asymmetric"},
      {"int8:mode=none", "mode=none", "symmetric, full, asymmetric"},
      {"int8:per=row", "per=row", "tensor"},
      {"int8:axis=x", "axis=x", "dimension"},
      {"int8:axis=-2", "axis=-2", "-1"},
      {"int8:axis=99999999999999999999", "axis=99999999999999999999", "dimension"},
      {"int8:group=0", "group=0", "at least 1"},
      {"int8:group=-2", "group=-2", "at least 1"},
      {"int8:group=1.5", "group=1.5", "at least 1"},
      {"int8:group=9223372036854775808", "group=9223372036854775808", "at least 1"},
      {"int8:block=3", "block=3", "ROWSxCOLS"},
      {"int8:block=3x", "block=3x", "ROWSxCOLS"},
      {"int8:block=0x4", "block=0x4", "ROWSxCOLS"},
      {"int8:block=2x3x4", "block=2x3x4", "ROWSxCOLS"},
      {"int8:axis=0,group=4", "group=4", "per, axis, group, block"},
      {"int8:range=", "range=", "MIN..MAX"},
      {"int8:range=a b", "range=a b", "MIN..MAX"},
      {"int8:range=2..1", "range=2..1", "MIN at most MAX"},
      {"int8:range=nan..1", "range=nan", "finite"},
      {"int8:range=0..inf", "range=inf", "finite"},
      {"int8:range=0..1e999", "range=1e999", "finite"},
      {"int8:range=..", "range=", "finite"},
      {"int8:scale=0", "scale=0", "above 0"},
      {"int8:scale=-1", "scale=-1", "above 0"},
      {"int8:scale=nan", "scale=nan", "finite"},
      {"int8:zero=1.5", "zero=1.5", "whole number"},
      {"int8:round=up", "round=up", "half_even"},
      {"int8:seed=-1", "seed=-1", "0 to 18446744073709551615"},
      {"int8:scale_type=f8", "scale_type=f8", "f32, f16, bf16, pow2"},
      {"int8:levels=4294967296", "levels=4294967296", "whole number"},
      {"int8:levels=-1", "levels=-1", "whole number"},
      {"int8:dialect=ON NX", "dialect=ON NX", "a-z, 0-9, _"},
      {"int8:layout=$(x)", "layout=$(x)", "a-z, 0-9, _"},
      {"int8:nonfinite=ok", "nonfinite=ok", "reject, saturate, propagate"},
      {"int8:tail=cut", "tail=cut", "reject, short, pad"},
      {"int8:incompatible=", "incompatible=", "a-z, 0-9, _"},
      {"int8:mode=full,mode=full", "\"mode\"", "twice"},
      {"int8:range=minmax,range=0..1", "\"range\"", "twice"},
  };
  for (const Refusal& refusal : refusals) {
    const absl::Status status = ParseSpec(refusal.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << refusal.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.names)) << refusal.text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.allowed)) << refusal.text;
  }
}

TEST(ParseSpecTest, TakesNoEndlessText) {
  const absl::Status status = ParseSpec(std::string(1 << 20, 'a')).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_LT(status.message().size(), 200u);
  EXPECT_FALSE(ParseSpec(absl::StrCat("int8:dialect=", std::string(65, 'a'))).ok());
  EXPECT_FALSE(ParseSpec(std::string("int8\0:axis=0", 12)).ok());
}

// Whatever the bytes: an error, or a spec that its own text gives back.
TEST(ParseSpecTest, SurvivesRandomText) {
  constexpr absl::string_view kPieces[] = {"int8",  ":",     ",",     "=",
                                           "axis",  "group", "block", "range",
                                           "scale", "zero",  "seed",  "mode",
                                           "full",  "x",     "..",    "-",
                                           "+",     ".",     "1",     "9223372036854775807",
                                           "1e308", "nan",   "\xff",  "\n"};
  std::mt19937 rng(3);
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = "int8:";
    for (uint32_t left = rng() % 8; left > 0; --left) {
      text += std::string(kPieces[rng() % std::size(kPieces)]);
    }
    const absl::StatusOr<QuantSpec> spec = ParseSpec(text);
    if (!spec.ok()) continue;
    ++accepted;
    const absl::StatusOr<QuantSpec> back = ParseSpec(FormatSpec(*spec));
    ASSERT_TRUE(back.ok()) << text << ": " << back.status();
    ASSERT_EQ(*back, *spec) << text;
  }
  EXPECT_GT(accepted, 100);
}

TEST(FormatDoubleTest, IsShortestAndReadsBack) {
  EXPECT_EQ(FormatDouble(0.1), "0.1");
  EXPECT_EQ(FormatDouble(-1.5), "-1.5");
  EXPECT_EQ(FormatDouble(1e300), "1e+300");
  EXPECT_EQ(FormatDouble(5e-324), "5e-324");
}

}  // namespace
}  // namespace quantd
