#include <string>
#include <vector>

#include "core/session/calibration.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/values.h"

namespace quantd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::MakeTensor;

Plan PlanOf(absl::string_view spec, std::vector<int64_t> dims, std::string name = "w") {
  return *MakePlan(*ParseSpec(spec), MakeTensor(std::move(name), DType::kF32, std::move(dims)),
                   int64_t{1} << 30);
}

// What calibrating by `spec` says that its ranges are for.
CalibratedRanges RangesFor(absl::string_view spec, std::vector<int64_t> dims,
                           std::string name = "w") {
  const Plan plan = PlanOf(spec, std::move(dims), std::move(name));
  CalibratedRanges ranges;
  ranges.source = plan.resolved.tensor;
  ranges.spec = FormatSpec(plan.resolved.spec);
  return ranges;
}

std::string Refusal(const CalibratedRanges& ranges, const Plan& plan) {
  const absl::Status status = CheckRangesFit(ranges, plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(RangesFitTest, OtherSizesFitWhereGroupsDoNotCountThem) {
  const auto fits = [](absl::string_view spec, std::vector<int64_t> of, std::vector<int64_t> to) {
    return CheckRangesFit(RangesFor(spec, std::move(of)), PlanOf(spec, std::move(to))).ok();
  };
  EXPECT_TRUE(fits("int8:axis=1", {1000, 32}, {300, 32}));
  EXPECT_TRUE(fits("int8:axis=-1", {1000, 32}, {300, 32}));
  EXPECT_FALSE(fits("int8:axis=1", {1000, 32}, {1000, 16}));
  EXPECT_FALSE(fits("int8:axis=1", {4, 4}, {4, 4, 4}));
  EXPECT_TRUE(fits("int8", {1000, 32}, {7}));
  EXPECT_TRUE(fits("lloyd", {1000, 32}, {7, 7}));
  EXPECT_TRUE(fits("int8:group=16", {8, 32}, {8, 32}));
  // As many groups, but not the same.
  EXPECT_FALSE(fits("int8:group=16", {8, 32}, {4, 64}));
  EXPECT_FALSE(fits("int8:block=2x2", {4, 8}, {8, 4}));
}

TEST(RangesFitTest, AnAxisMayBeCountedFromTheEnd) {
  const CalibratedRanges ranges = RangesFor("int8:axis=-1", {9, 4});
  EXPECT_TRUE(CheckRangesFit(ranges, PlanOf("int8:axis=1", {5, 4})).ok());
}

TEST(RangesFitTest, BothAreNamed) {
  EXPECT_THAT(Refusal(RangesFor("int8", {4}, "sample"), PlanOf("int8", {4}, "shard_1")),
              AllOf(HasSubstr("\"sample\""), HasSubstr("\"shard_1\"")));
  EXPECT_THAT(Refusal(RangesFor("int8:axis=1", {9, 32}), PlanOf("int8:axis=1", {9, 16})),
              AllOf(HasSubstr("[9, 32]"), HasSubstr("[9, 16]"), HasSubstr("axis=1")));
  EXPECT_THAT(Refusal(RangesFor("int8:axis=0", {32, 32}), PlanOf("int8:axis=1", {32, 32})),
              AllOf(HasSubstr("axis=0"), HasSubstr("axis=1")));
  EXPECT_THAT(Refusal(RangesFor("int8", {4}), PlanOf("int8:range=3sigma", {4})),
              AllOf(HasSubstr("range=minmax"), HasSubstr("range=3sigma")));
  EXPECT_THAT(Refusal(RangesFor("int8", {4}), PlanOf("int8:outliers=2", {4})),
              AllOf(HasSubstr("outliers=0"), HasSubstr("outliers=2")));
}

TEST(RangesFitTest, WithoutANameTheyFitAny) {
  CalibratedRanges ranges = RangesFor("int8", {4}, "sample");
  ranges.source.name.clear();
  EXPECT_TRUE(CheckRangesFit(ranges, PlanOf("int8", {4}, "shard_1")).ok());
}

TEST(RangesFitTest, OtherSchemesOfTheSameGroupsMayTakeThem) {
  EXPECT_TRUE(CheckRangesFit(RangesFor("int8:axis=0", {4, 8}),
                             PlanOf("uint4:axis=0,round=floor", {4, 8})).ok());
}

TEST(RangesFitTest, SpecsThatWouldNotUseThemRefuseThem) {
  const CalibratedRanges unsaid;
  EXPECT_TRUE(CheckRangesFit(unsaid, PlanOf("int8", {4})).ok());
  EXPECT_THAT(Refusal(unsaid, PlanOf("int8:scale=0.5", {4})), HasSubstr("scale="));
  EXPECT_THAT(Refusal(unsaid, PlanOf("int8:range=-1..1", {4})), HasSubstr("range=MIN..MAX"));
  for (const char* spec : {"fp16", "fp8_e4m3", "q8_0:tail=pad"}) {
    EXPECT_THAT(Refusal(unsaid, PlanOf(spec, {4})), HasSubstr("takes no calibrated ranges"));
  }
  // A fallback is told of by itself.
  EXPECT_TRUE(CheckRangesFit(unsaid, PlanOf("q4_k:incompatible=fp16", {4, 5})).ok());
}

TEST(RangesFitTest, ASpecThatCannotBeReadIsNamed) {
  CalibratedRanges ranges = RangesFor("int8", {4});
  ranges.spec = "int8:colour=red";
  EXPECT_THAT(Refusal(ranges, PlanOf("int8", {4})), HasSubstr("colour"));
}

}  // namespace
}  // namespace quantd
