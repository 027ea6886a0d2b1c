#include "core/session/planner.h"

#include <array>
#include <deque>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
#include "core/session/calibration.h"
#include "core/session/dequantize_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cuts.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using ::testing::HasSubstr;
using testing::MakeTensor;
using testing::MakeValues;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Counts what a session writes, by plane.
class CountingSink : public PayloadSink {
 public:
  SinkMemory Acquire(int64_t, int64_t size_bytes) override {
    return memory_.emplace_back(static_cast<size_t>(size_bytes));
  }
  void Commit(int64_t offset_bytes, int64_t size_bytes, uint32_t) override {
    Count(0, offset_bytes, size_bytes);
  }
  void Put(int plane, int64_t offset_bytes, std::span<const std::byte> put) override {
    Count(plane, offset_bytes, std::ssize(put));
  }

  std::array<int64_t, kMaxPlanes> bytes = {};

 private:
  void Count(int plane, int64_t offset_bytes, int64_t size_bytes) {
    EXPECT_EQ(offset_bytes, bytes[static_cast<size_t>(plane)]);
    bytes[static_cast<size_t>(plane)] += size_bytes;
  }

  std::deque<std::vector<std::byte>> memory_;
};

absl::StatusOr<Plan> PlanOf(absl::string_view spec, std::vector<int64_t> dims,
                            int64_t budget = kPlenty, bool has_ranges = false,
                            DType dtype = DType::kF32) {
  return MakePlan(*ParseSpec(spec), MakeTensor("t", dtype, std::move(dims)), budget,
                  {.has_ranges = has_ranges});
}

std::string PassOf(absl::string_view spec, std::vector<int64_t> dims, int64_t budget = kPlenty,
                   bool has_ranges = false) {
  const absl::StatusOr<Plan> plan = PlanOf(spec, std::move(dims), budget, has_ranges);
  return plan.ok() ? std::string(NameOf(plan->pass)) : plan.status().ToString();
}

TEST(PlannerTest, PassFollowsFromTheGranularity) {
  EXPECT_EQ(PassOf("int8", {1000, 1000}), "buffered");
  EXPECT_EQ(PassOf("int8:axis=-1", {1000, 1000}), "buffered");
  EXPECT_EQ(PassOf("int8:axis=0", {1000, 1000}), "local");
  EXPECT_EQ(PassOf("int8:axis=1", {1, 1000, 10}), "local");  // batches of one
  EXPECT_EQ(PassOf("int8:axis=1", {2, 1000, 10}), "buffered");
  EXPECT_EQ(PassOf("int8:group=100", {1000, 1000}), "local");
  EXPECT_EQ(PassOf("int8:block=10x100", {1000, 1000}), "local");
  EXPECT_EQ(PassOf("nf4", {1000, 1000}), "local");
  EXPECT_EQ(PassOf("nvfp4", {1000, 1024}), "buffered");  // its global scale needs all
  EXPECT_EQ(PassOf("nvfp4", {1000, 1024}, kPlenty, true), "local");
  for (const char* spec : {"fp16", "bf16", "q8_0", "int8:scale=0.1", "int8:range=-1..1",
                           "int8:range=-1..1,axis=-1", "int8:scale=1,group=100"}) {
    EXPECT_EQ(PassOf(spec, {800, 800}), "static") << spec;
  }
  EXPECT_EQ(PassOf("int8", {1000, 1000}, kPlenty, true), "static");
  EXPECT_EQ(PassOf("int8:axis=-1", {1000, 1000}, kPlenty, true), "static");
}

TEST(PlannerTest, TwoPassesWhereTheTensorDoesNotFit) {
  constexpr int64_t kBudget = int64_t{8} << 20;
  EXPECT_EQ(PassOf("int8", {1000, 1000}, kBudget), "buffered");
  for (const char* spec : {"int8", "int8:axis=-1", "uint4:range=3sigma", "nvfp4"}) {
    const absl::StatusOr<Plan> plan = PlanOf(spec, {4096, 4096}, kBudget);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->pass, Pass::kTwoPass) << spec;
    EXPECT_LE(plan->resident_bytes, kBudget);
    EXPECT_EQ(PlanOf(spec, {4096, 4096}, kBudget, true)->resident_bytes, plan->resident_bytes);
  }
  // A row that does not fit either.
  EXPECT_EQ(PassOf("int8:axis=0", {2, 10'000'000}, kBudget), "two_pass");
  EXPECT_EQ(PassOf("int8:axis=0", {4096, 4096}, kBudget), "local");
}

TEST(PlannerTest, RefusesWithTheNumberWhatNoPassCanHold) {
  absl::StatusOr<Plan> plan = PlanOf("fp16", {1'000'000});
  ASSERT_TRUE(plan.ok());
  int64_t least = 0;
  for (int64_t stripes = plan->stripes_in_flight; plan.ok(); --stripes) {
    EXPECT_EQ(plan->stripes_in_flight, stripes);  // less memory, fewer of them
    least = plan->resident_bytes;
    plan = PlanOf("fp16", {1'000'000}, least - 1);
    EXPECT_TRUE(plan.ok() || stripes == 1);
  }
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(absl::StrCat(least)));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(absl::StrCat(least - 1)));
  EXPECT_TRUE(PlanOf("fp16", {1'000'000}, least).ok());
  EXPECT_EQ(PlanOf("int8", {1000}, 10).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(PlannerTest, RefusesWhatCannotBe) {
  EXPECT_EQ(PlanOf("int9", {4}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(PlanOf("int8:range=median", {4}).status().code(), absl::StatusCode::kNotFound);
  const absl::Status group = PlanOf("int8:group=48", {4, 4096}).status();
  EXPECT_EQ(group.message(),
            "group=48 does not divide axis 1 (4096 elems); use a divisor, or tail=short");
  EXPECT_EQ(PlanOf("int8:scale=1,zero=128", {4}).status().message(),
            "zero=128 is not a code of int8; use -128 to 127");
  EXPECT_THAT(std::string(PlanOf("q8_0", {4, 33}).status().message()),
              HasSubstr("blocks of 32 do not divide axis 1 (33 elems)"));
  EXPECT_THAT(std::string(PlanOf("q8_0", {}).status().message()), HasSubstr("rank 1"));
  const absl::Status dtype = PlanOf("int8", {4}, kPlenty, false, DType::kBool).status();
  EXPECT_EQ(dtype.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(dtype.message()), HasSubstr("dtype bool"));
  EXPECT_THAT(std::string(dtype.message()), HasSubstr("f64, f32, f16"));
  TensorDesc tensor = MakeTensor(std::string(1025, 'x'), DType::kF32, {4});
  EXPECT_THAT(std::string(MakePlan({.scheme = "int8"}, tensor, kPlenty).status().message()),
              HasSubstr("1025 bytes; at most 1024"));
}

TEST(PlannerTest, FallsBackOnlyWhereAllowed) {
  const absl::StatusOr<Plan> plan = PlanOf("q8_0:incompatible=fp16", {4, 33});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->resolved.spec.scheme, "fp16");
  EXPECT_EQ(plan->input_bytes, 4 * 33 * 4);
  EXPECT_THAT(plan->fallback_reason, HasSubstr("blocks of 32 do not divide axis 1 (33 elems)"));
  EXPECT_EQ(PlanOf("q8_0:incompatible=fp16", {4, 64})->fallback_reason, "");
  for (const char* spec :
       {"q8_0", "q8_0:incompatible=reject", "q8_0:incompatible=keep", "q8_0:incompatible=nvfp4"}) {
    EXPECT_EQ(PlanOf(spec, {4, 33}).status().code(), absl::StatusCode::kInvalidArgument) << spec;
  }
  // A spec that the scheme does not have is an error, not a shape.
  EXPECT_FALSE(PlanOf("int8:scale=1,zero=128,incompatible=fp16", {4}).ok());
  EXPECT_FALSE(PlanOf("q8_0:group=64,incompatible=fp16", {4, 64}).ok());
  // What was said of the values still holds.
  EXPECT_EQ(PlanOf("q8_0:nonfinite=saturate,incompatible=fp16", {4, 33})->resolved.spec.nonfinite,
            NonFinite::kSaturate);
}

class PlanSchemeTest : public ::testing::TestWithParam<const Scheme*> {};

TEST_P(PlanSchemeTest, SizesAreTheBytesWritten) {
  const std::string name(GetParam()->info.name);
  std::vector<std::vector<int64_t>> shapes = {{},      {1},     {0},     {31},       {4, 33},
                                              {3, 64}, {0, 64}, {64, 0}, {2, 3, 32}, {700, 512}};
  std::vector<std::string> specs = {name};
  for (const Tail tail : GetParam()->info.tails) {
    specs.push_back(absl::StrCat(name, ":tail=", NameOf(tail)));
    if (!GetParam()->info.takes_scale) continue;
    specs.push_back(absl::StrCat(specs.back(), ",axis=0"));
    specs.push_back(absl::StrCat(name, ":axis=-1,tail=", NameOf(tail)));
    specs.push_back(absl::StrCat(name, ":group=16,tail=", NameOf(tail)));
    specs.push_back(absl::StrCat(name, ":block=2x16,tail=", NameOf(tail)));
  }
  int planned = 0;
  for (const std::string& spec : specs) {
    for (const std::vector<int64_t>& dims : shapes) {
      const TensorDesc tensor = MakeTensor("t", DType::kF32, dims);
      SCOPED_TRACE(absl::StrCat(spec, " of ", tensor.shape.Text()));
      const absl::StatusOr<Plan> plan = MakePlan(*ParseSpec(spec), tensor, kPlenty);
      if (!plan.ok()) continue;
      ++planned;
      int64_t sum = 0;
      for (const PlaneDesc& plane : plan->resolved.layout.planes) {
        EXPECT_EQ(plane.size_bytes, plane.shape.num_elems() * SizeOf(plane.dtype)) << plane.name;
        sum += plane.size_bytes;
      }
      EXPECT_EQ(plan->output_bytes, sum);
      Bench bench(0);
      const std::vector<std::byte> values = MakeValues(tensor, ValueKind::kNormal, 3);
      CountingSink sink;
      const absl::StatusOr<std::unique_ptr<QuantizeSession>> session =
          QuantizeSession::Create(*plan, {}, sink, bench.context());
      ASSERT_TRUE(session.ok()) << session.status();
      (*session)->Push({values, nullptr});
      (*session)->EndInput();
      (*session)->Await();
      ASSERT_TRUE((*session)->Finish().ok()) << (*session)->status();
      for (size_t i = 0; i < plan->resolved.layout.planes.size(); ++i) {
        EXPECT_EQ(sink.bytes[i], plan->resolved.layout.planes[i].size_bytes) << "plane " << i;
      }
    }
  }
  EXPECT_GE(planned, 4);
}

// Sizes next to 2^63 are planned or refused, without overflow (UBSan looks on); a plan's numbers
// are never negative.
TEST_P(PlanSchemeTest, HugeShapes) {
  const std::string name(GetParam()->info.name);
  constexpr int64_t kHalf = int64_t{1} << 62;
  const std::vector<std::vector<int64_t>> shapes = {{kMax},
                                                    {1, kMax},
                                                    {kMax, 1},
                                                    {int64_t{1} << 40, int64_t{1} << 20},
                                                    {2, kHalf / 2},
                                                    {kHalf},
                                                    {kHalf, 0},
                                                    {0, kHalf},
                                                    {int64_t{1} << 61, 3},
                                                    {3, 3, int64_t{1} << 59},
                                                    {kHalf / 4, 1},
                                                    {2, 1 << 20, 1 << 20, 1 << 20}};
  std::vector<std::string> specs = {name};
  for (const Tail tail : GetParam()->info.tails) {
    specs.push_back(absl::StrCat(name, ":tail=", NameOf(tail)));
  }
  if (GetParam()->info.takes_scale) {
    for (const char* more :
         {"axis=0", "axis=-1", "axis=1", "group=1", "group=4611686018427387904,tail=short",
          "group=9223372036854775807,tail=short", "block=1x9223372036854775807,tail=short",
          "block=9223372036854775807x9223372036854775807,tail=short",
          "block=4611686018427387904x3,tail=short", "scale=1,axis=0", "scale=1,zero=1,axis=-1",
          "range=-1..1,group=1", "range=3sigma,block=2x1,tail=short"}) {
      specs.push_back(absl::StrCat(name, ":", more));
    }
  }
  constexpr int64_t kSmall = int64_t{64} << 20;
  Bench bench(0, kSmall);
  const GroupMap whole = WholeTensor(1);
  CountingSink sink;
  for (const std::string& spec : specs) {
    for (const std::vector<int64_t>& dims : shapes) {
      for (const DType dtype : {DType::kUint8, DType::kF64}) {
        for (const int64_t budget : {kPlenty, kMax}) {
          for (const bool has_ranges : {false, true}) {
            const absl::StatusOr<Plan> plan = PlanOf(spec, dims, budget, has_ranges, dtype);
            if (!plan.ok()) continue;
            SCOPED_TRACE(absl::StrCat(spec, " of ", plan->resolved.tensor.shape.Text()));
            EXPECT_GE(plan->resident_bytes, 0);
            EXPECT_GE(plan->output_bytes, 0);
            EXPECT_GE(plan->held_bytes, 0);
            EXPECT_GE(plan->stripes_in_flight, 1);
            EXPECT_LE(plan->resident_bytes, budget);
            EXPECT_TRUE(plan->pass != Pass::kBuffered || plan->resident_bytes >= plan->input_bytes);
            // What a small budget does not hold is refused, not allocated.
            if (plan->output_bytes - plan->resolved.layout.planes[0].size_bytes > kSmall) {
              EXPECT_FALSE(
                  DequantizeSession::Create(*plan, DType::kF32, sink, bench.context()).ok());
            }
            if (dims.back() > kSmall) {
              EXPECT_FALSE(
                  CalibrationSession::Create(*plan, {.column_moments = true}, bench.context())
                      .ok());
              EXPECT_FALSE(CalibrationSession::Create(*plan, {.gram = true}, bench.context()).ok());
            }
            if (plan->resolved.layout.groups.num_groups > kSmall &&
                &EvidenceMapOf(*plan, whole) != &whole) {
              EXPECT_FALSE(CalibrationSession::Create(*plan, {}, bench.context()).ok());
            }
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, PlanSchemeTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

}  // namespace
}  // namespace quantd
