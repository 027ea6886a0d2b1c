// Every tensor of up to two elements over the values where something happens, in every cut of its
// bytes, for every scheme and policy: the same result as in one piece, which is that of the scalar
// definition. Schemes that want whole blocks get one whose other elements are 0.
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/minifloat.h"
#include "core/scheme/registry.h"
#include "tests/support/cuts.h"
#include "tests/support/params.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::FoundParams;
using testing::MakeTensor;
using testing::MemorySink;
using testing::PlaneBytes;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
// 0.5 is a tie beside 1, 63.5 steps of int8, and by itself in the floats of few bits.
constexpr float kValues[] = {0.0f, -0.0f, 1, -1, 0.5f, FLT_MAX, kInf, kNan, FLT_TRUE_MIN};

struct Outcome {
  absl::Status status;
  std::vector<std::vector<std::byte>> planes;
  EncodingReport report;
};

bool SameReport(const EncodingReport& a, const EncodingReport& b) {
  const Figures &x = a.figures, &y = b.figures;
  return a.digests == b.digests && a.clipped == b.clipped && a.non_finite == b.non_finite &&
         a.first_non_finite_elems == b.first_non_finite_elems && x.count == y.count &&
         x.sum == y.sum && x.min == y.min && x.max == y.max && x.m2 == y.m2 &&
         x.signal_energy == y.signal_energy && x.error_energy == y.error_energy &&
         x.cross_energy == y.cross_energy && x.max_error == y.max_error &&
         x.max_error_elem == y.max_error_elem;
}

class SmallInputsTest : public ::testing::TestWithParam<const Scheme*> {
 protected:
  // A tensor of `count` elements that the scheme takes, with whatever tail it wants, or of a block.
  absl::StatusOr<Plan> PlanOf(int64_t count, NonFinite policy, DType dtype) {
    absl::StatusOr<Plan> plan;
    for (const int64_t num_elems : {count, int64_t{256}}) {
      const TensorDesc tensor = MakeTensor("t", dtype, {num_elems});
      QuantSpec spec = {.scheme = std::string(GetParam()->info.name)};
      spec.nonfinite = policy;
      plan = MakePlan(spec, tensor, int64_t{1} << 30);
      for (const Tail tail : GetParam()->info.tails) {
        if (plan.ok()) return plan;
        spec.tail = tail;
        plan = MakePlan(spec, tensor, int64_t{1} << 30);
      }
      if (plan.ok()) break;
    }
    return plan;
  }

  // Quantizes in pieces: bit i of `cuts` says that one ends behind byte i.
  Outcome Quantize(const Plan& plan, std::span<const std::byte> bytes, uint32_t cuts) {
    MemorySink sink(PlaneBytes(plan.resolved.layout));
    auto session = *QuantizeSession::Create(plan, {}, sink, bench_.context());
    size_t begin = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      if (i + 1 < bytes.size() && (i >= 32 || (cuts >> i & 1) == 0)) continue;
      session->Push({bytes.subspan(begin, i + 1 - begin), nullptr});
      begin = i + 1;
    }
    session->EndInput();
    session->Await();
    EXPECT_TRUE(session->ended() && sink.in_order);
    absl::StatusOr<EncodingReport> report = session->Finish();
    if (!report.ok()) return {report.status(), {}, {}};
    return {absl::OkStatus(), std::move(sink.planes), *std::move(report)};
  }

  // The codes of the scalar definition, and the parameters of plain loops.
  void CompareToReference(const Plan& plan, std::vector<double> values, const Outcome& outcome) {
    const FoundParams params(plan, values);
    for (size_t plane = 1; plane < outcome.planes.size(); ++plane) {
      const auto found = params.plane(plane);
      ASSERT_TRUE(std::equal(found.begin(), found.end(), outcome.planes[plane].begin(),
                             outcome.planes[plane].end()))
          << "plane " << plane;
    }
    const bool propagates = *plan.resolved.spec.nonfinite == NonFinite::kPropagate;
    // What infinities become: the largest value, or the largest of the only block.
    double reach = 0;
    for (const double value : values) {
      if (std::isfinite(value)) reach = std::max(reach, std::fabs(value));
    }
    const bool of_block = plan.resolved.layout.atom_scales && reach > 0;
    if (!of_block) reach = FLT_MAX;
    int64_t infinities = 0;
    std::vector<float> narrow;
    for (const double value : values) {
      infinities += std::isinf(value);
      const double finite = std::isnan(value) ? 0 : std::clamp(value, -reach, reach);
      narrow.push_back(static_cast<float>(propagates ? value : finite));
    }
    std::vector<std::byte> codes(outcome.planes[0].size());
    Counts counts;
    const int64_t count = std::ssize(values);
    if (count > 0) {
      const Segment segment = {{narrow.data(), nullptr, count}, 0, params.view(), nullptr};
      plan.scheme->encode_ref(plan.resolved, segment, codes, &counts);
    }
    ASSERT_EQ(outcome.planes[0], codes);
    ASSERT_EQ(outcome.report.clipped, counts.clipped + (of_block ? infinities : 0));
  }

  // In all cuts within the first `lead_bytes`.
  void Check(const Plan& plan, const std::vector<double>& values, size_t lead_bytes,
             std::span<const std::byte> bytes) {
    const Outcome whole = Quantize(plan, bytes, 0);
    int64_t first_stray = -1;
    for (size_t i = values.size(); i-- > 0;) {
      if (!std::isfinite(values[i])) first_stray = static_cast<int64_t>(i);
    }
    if (first_stray >= 0 && *plan.resolved.spec.nonfinite == NonFinite::kReject) {
      ASSERT_EQ(whole.status.message(),
                absl::StrCat("tensor \"t\" has a value that is not finite at [", first_stray, "]; ",
                             GetParam()->info.nonfinites.size() > 1
                                 ? "to accept it use nonfinite=saturate"
                                 : absl::StrCat("scheme ", GetParam()->info.name,
                                                " takes no such values")));
    } else {
      ASSERT_TRUE(whole.status.ok()) << whole.status;
      ASSERT_NO_FATAL_FAILURE(CompareToReference(plan, values, whole));
    }
    const size_t places = std::min(lead_bytes, std::max<size_t>(bytes.size(), 1) - 1);
    for (uint32_t cuts = 1; cuts < 1u << places; ++cuts) {
      const Outcome cut = Quantize(plan, bytes, cuts);
      ASSERT_EQ(cut.status, whole.status) << "cuts " << cuts;
      ASSERT_EQ(cut.planes, whole.planes) << "cuts " << cuts;
      ASSERT_TRUE(SameReport(cut.report, whole.report)) << "cuts " << cuts;
    }
  }

  // All tensors of `count` elements.
  void CheckAll(int64_t count, NonFinite policy, DType dtype) {
    const absl::StatusOr<Plan> plan = PlanOf(count, policy, dtype);
    ASSERT_TRUE(plan.ok()) << plan.status();
    size_t tensors = 1;
    for (int64_t i = 0; i < count; ++i) tensors *= std::size(kValues);
    for (size_t tensor = 0; tensor < tensors; ++tensor) {
      std::vector<double> values;
      std::vector<std::byte> bytes;
      for (size_t digits = tensor; std::ssize(values) < count; digits /= std::size(kValues)) {
        float value = kValues[digits % std::size(kValues)];
        const auto append = [&bytes](auto bits) {
          const auto more = std::as_bytes(std::span(&bits, 1));
          bytes.insert(bytes.end(), more.begin(), more.end());
        };
        if (dtype == DType::kF32) {
          append(value);
        } else {
          const auto bits = static_cast<uint16_t>(
              NarrowFloat(kHalfFormat, value, Rounding::kHalfEven, /*saturate=*/true));
          append(bits);
          value = WidenFloat<float>(kHalfFormat, bits);
        }
        values.push_back(value);
      }
      const size_t lead_bytes = bytes.size();
      const auto num_elems = static_cast<size_t>(plan->resolved.tensor.shape.num_elems());
      values.resize(num_elems);
      bytes.resize(num_elems * static_cast<size_t>(SizeOf(dtype)));
      ASSERT_NO_FATAL_FAILURE(Check(*plan, values, lead_bytes, bytes))
          << FormatSpec(plan->resolved.spec) << ", tensor " << tensor << " of " << count;
    }
  }

  Bench bench_{0};
};

TEST_P(SmallInputsTest, InEveryCut) {
  for (const NonFinite policy : GetParam()->info.nonfinites) {
    for (const int64_t count : {0, 1, 2}) {
      ASSERT_NO_FATAL_FAILURE(CheckAll(count, policy, DType::kF32));
      ASSERT_NO_FATAL_FAILURE(CheckAll(count, policy, DType::kF16));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, SmallInputsTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

}  // namespace
}  // namespace quantd
