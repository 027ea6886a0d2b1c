// A codebook that is given: no pass over the values, codes of its levels, and what is refused.
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/session/quantize_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::Fingerprint;
using testing::MakeTensor;
using testing::MakeValues;
using testing::QuantizeCut;
using testing::ValueKind;
using ::testing::HasSubstr;

constexpr int64_t kPlenty = int64_t{1} << 32;

absl::StatusOr<QuantizedTensor> Quantize(absl::string_view spec, const std::vector<float>& codebook,
                                         Cut cut = Cut::kWhole, int64_t elems = 200003) {
  Bench bench(1);
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {elems});
  QuantizeOptions options;
  options.codebook = codebook;
  return QuantizeCut(*ParseSpec(spec), tensor, MakeValues(tensor, ValueKind::kNormal, 5), cut,
                     options, kPlenty, bench.context());
}

TEST(CodebookTest, TensorsStreamByAndHaveIt) {
  const std::vector<float> codebook = {-1.5f, -0.5f, 0.25f, 2};
  const auto result = Quantize("lloyd", codebook);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->plan.pass, Pass::kStatic);
  EXPECT_EQ(result->plan.held_bytes, 0);
  EXPECT_EQ(result->plan.resolved.spec.levels, 4);
  EXPECT_EQ(0, std::memcmp(result->planes[1].data(), codebook.data(), 16));
  const auto cut = Quantize("lloyd:levels=4", codebook, Cut::kPrimes);
  ASSERT_TRUE(cut.ok()) << cut.status();
  EXPECT_EQ(Fingerprint(*cut), Fingerprint(*result));
}

TEST(CodebookTest, ValuesTakeTheNearestLevelOrTheLowerOne) {
  Bench bench(0);
  const std::vector<float> values = {-9, -1, -0.999f, 0, 0.125f, 0.126f, 1, 1.001f};
  QuantizeOptions options;
  options.codebook = {-1.5f, -0.5f, 0.75f, 1.25f};
  const auto result = QuantizeAll(*ParseSpec("lloyd"), MakeTensor("t", DType::kF32, {8}),
                                  std::as_bytes(std::span(values)), options, bench.context());
  ASSERT_TRUE(result.ok()) << result.status();
  std::vector<int> codes;
  for (int i = 0; i < 8; ++i) {
    codes.push_back(std::to_integer<int>(result->planes[0][static_cast<size_t>(i / 4)]) >>
                    i % 4 * 2 & 3);
  }
  EXPECT_EQ(codes, (std::vector<int>{0, 0, 1, 1, 1, 2, 2, 3}));
  EXPECT_EQ(result->report.clipped, 1);  // -9
}

TEST(CodebookTest, LearnedLevelsThatAreGivenBackGiveTheSameBytes) {
  for (const char* spec : {"lloyd:levels=8", "lloyd:levels=256"}) {
    const auto learned = Quantize(spec, {});
    ASSERT_TRUE(learned.ok()) << learned.status();
    std::vector<float> levels(learned->planes[1].size() / sizeof(float));
    std::memcpy(levels.data(), learned->planes[1].data(), learned->planes[1].size());
    const auto given = Quantize(spec, levels);
    ASSERT_TRUE(given.ok()) << given.status();
    EXPECT_EQ(given->planes, learned->planes) << spec;
  }
}

TEST(CodebookTest, WhatCannotBeOneIsRefused) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const struct {
    const char* spec;
    std::vector<float> codebook;
    const char* words;
  } kCases[] = {
      {"lloyd", {3, 1}, "codebook[1] is 1 behind 3; levels are in ascending order"},
      {"lloyd", {1, nan}, "codebook[1] is nan; levels are finite"},
      {"lloyd", {1, 2, 3}, "codebook holds 3 levels; scheme lloyd has 16, 2, 4"},
      {"lloyd", std::vector<float>(257), "codebook holds 257 levels"},
      {"lloyd:levels=4", {1, 2}, "says levels=4; use the same in both"},
      {"lloyd:axis=0", {1, 2}, "use per=tensor"},
      {"int8", {1, 2}, "scheme int8 takes no codebook"},
      {"ternary", {1, 2}, "scheme ternary takes no codebook"},
  };
  for (const auto& test : kCases) {
    const absl::Status status = Quantize(test.spec, test.codebook, Cut::kWhole, 64).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.words;
    EXPECT_THAT(status.message(), HasSubstr(test.words));
  }
}

TEST(CodebookTest, PlansThatCountOnOneWantIt) {
  Bench bench(0);
  const TensorDesc tensor = MakeTensor("t", DType::kF32, {64});
  const auto plan = MakePlan(*ParseSpec("lloyd"), tensor, kPlenty, {.codebook_levels = 8});
  ASSERT_TRUE(plan.ok()) << plan.status();
  testing::MemorySink sink(testing::PlaneBytes(plan->resolved.layout));
  const absl::Status none = QuantizeSession::Create(*plan, {}, sink, bench.context()).status();
  EXPECT_THAT(none.message(), HasSubstr("counts on a codebook and none is given"));
  QuantizeOptions options;
  options.codebook = {1, 2};
  const absl::Status few = QuantizeSession::Create(*plan, options, sink, bench.context()).status();
  EXPECT_THAT(few.message(), HasSubstr("codebook holds 2 levels, and the plan counts on 8"));
}

}  // namespace
}  // namespace quantd
