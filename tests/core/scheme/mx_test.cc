// What the MX rows decode of codes that no encoder makes: every code with every scale, NaN and
// infinity among them.
#include "core/scheme/mx.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/scheme/registry.h"
#include "core/session/planner.h"
#include "core/simd/targets.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using testing::MakeTensor;

class MxTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

constexpr int64_t kElems = 256;

// Decodes bytes 0 to 255, as they are, with a scale for all of them.
template <typename T>
std::vector<T> DecodeAll(const Scheme& scheme, decltype(Scheme::decode) decode, uint8_t scale) {
  const auto plan = MakePlan({.scheme = std::string(scheme.info.name)},
                             MakeTensor("t", DType::kF32, {kElems}), int64_t{1} << 30);
  EXPECT_TRUE(plan.ok()) << plan.status();
  std::vector<std::byte> codes(kElems);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::byte>(i);
  const std::vector<std::byte> scales(kElems / 32, static_cast<std::byte>(scale));
  ParamView params;
  params.planes[1] = scales;
  const int64_t code_bytes = plan->resolved.layout.CodeOffset(kElems);
  std::vector<T> values(kElems);
  TileSpan out{.num_elems = kElems};
  if constexpr (sizeof(T) == 4) {
    out.f32 = values.data();
  } else {
    out.f64 = values.data();
  }
  decode(plan->resolved, std::span(codes).first(static_cast<size_t>(code_bytes)), params, 0, out);
  return values;
}

// NaN is NaN; all else has the same bits.
template <typename T>
void ExpectSame(const std::vector<T>& got, const std::vector<T>& want, const std::string& what) {
  for (size_t i = 0; i < got.size(); ++i) {
    const bool same = std::isnan(want[i]) ? std::isnan(got[i])
                                          : std::memcmp(&got[i], &want[i], sizeof(T)) == 0;
    ASSERT_TRUE(same) << what << ", element " << i << ": " << got[i] << ", not " << want[i];
  }
}

TEST_P(MxTest, DecodesEveryCodeWithEveryScale) {
  int rows = 0;
  for (const Scheme* scheme : AllSchemes()) {
    if (!absl::StartsWith(scheme->info.name, "mx")) continue;
    ++rows;
    for (int scale = 0; scale < 256; ++scale) {
      const auto code = static_cast<uint8_t>(scale);
      const std::string what = std::string(scheme->info.name) + ", scale " + std::to_string(scale);
      const auto values = DecodeAll<float>(*scheme, scheme->decode, code);
      ExpectSame(values, DecodeAll<float>(*scheme, scheme->decode_ref, code), what);
      ExpectSame(DecodeAll<double>(*scheme, scheme->decode, code),
                 DecodeAll<double>(*scheme, scheme->decode_ref, code), what);
      if (scale == 255) {
        for (const float value : values) EXPECT_TRUE(std::isnan(value)) << what;
      }
    }
  }
  EXPECT_EQ(rows, 6);
}

INSTANTIATE_TEST_SUITE_P(Targets, MxTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return std::string(info.param); });

// What the standard says of single codes (MX 1.0, section 5.3).
TEST(MxValuesTest, CodesStandForWhatTheStandardSays) {
  const auto value = [](const char* name, size_t element, uint8_t scale) {
    const Scheme& scheme = **FindScheme(name);
    return DecodeAll<float>(scheme, scheme.decode, scale)[element];
  };
  EXPECT_EQ(value("mxfp8_e4m3", 0x7E, 127), 448);
  EXPECT_TRUE(std::isnan(value("mxfp8_e4m3", 0x7F, 127)));
  EXPECT_EQ(value("mxfp8_e4m3", 0x01, 127), 0x1p-9f);
  EXPECT_EQ(value("mxfp8_e5m2", 0x7B, 127), 57344);
  EXPECT_EQ(value("mxfp8_e5m2", 0xFC, 127), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(value("mxfp8_e5m2", 0x7D, 127)));
  EXPECT_EQ(value("mxint8", 0x40, 127), 1);
  EXPECT_EQ(value("mxint8", 0x80, 127), -2);
  EXPECT_EQ(value("mxint8", 0x01, 0), 0x1p-133f);
  EXPECT_EQ(value("mxfp4", 14, 129), 24);  // byte 7 is 0x07: 6 times 2^2, and 0
}

}  // namespace
}  // namespace quantd
