// All keys of a spec beside each other: in any cuts, on any threads, the bytes of one shot.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/scheme/registry.h"
#include "tests/support/cuts.h"
#include "tests/support/specs.h"

namespace quantd {
namespace {

using testing::Bench;
using testing::Cut;
using testing::DequantizeCut;
using testing::Fingerprint;
using testing::MakeTensor;
using testing::MakeValues;
using testing::QuantizeCut;
using testing::ValueKind;

constexpr int64_t kPlenty = int64_t{1} << 32;

class SpecPairsTest : public ::testing::TestWithParam<const Scheme*> {
 protected:
  // False if the scheme does not take `spec` for such a tensor.
  bool Check(const QuantSpec& spec, const std::vector<int64_t>& dims) {
    const TensorDesc tensor = MakeTensor("w", DType::kF32, dims);
    const absl::StatusOr<Plan> plan = MakePlan(spec, tensor, kPlenty);
    if (!plan.ok()) {
      EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << plan.status();
      return false;
    }
    const bool strays = *plan->resolved.spec.nonfinite != NonFinite::kReject;
    const std::vector<std::byte> values =
        MakeValues(tensor, strays ? ValueKind::kNonFinite : ValueKind::kNormal, 12);
    const auto whole =
        QuantizeCut(spec, tensor, values, Cut::kWhole, {}, kPlenty, alone_.context());
    const auto cut =
        QuantizeCut(spec, tensor, values, Cut::kRandom, {}, kPlenty, shared_.context());
    EXPECT_TRUE(whole.ok()) << whole.status();
    EXPECT_TRUE(cut.ok()) << cut.status();
    if (!whole.ok() || !cut.ok()) return true;
    EXPECT_EQ(Fingerprint(*cut), Fingerprint(*whole));
    const auto decoded = DequantizeCut(*whole, DType::kF32, Cut::kWhole, alone_.context());
    const auto again = DequantizeCut(*whole, DType::kF32, Cut::kRandom, shared_.context());
    EXPECT_TRUE(decoded.ok() && again.ok() && *decoded == *again);
    return true;
  }

  Bench alone_{0}, shared_{2};
};

TEST_P(SpecPairsTest, OneShotAndCut) {
  std::vector<std::string> specs = testing::SpecPairsOf(GetParam()->info);
  for (const std::string& spec : testing::SpecsOf(GetParam()->info)) specs.push_back(spec);
  int taken = 0;
  for (const std::string& text : specs) {
    SCOPED_TRACE(text);
    const absl::StatusOr<QuantSpec> spec = ParseSpec(text);
    ASSERT_TRUE(spec.ok()) << spec.status();
    taken += Check(*spec, {5, 96});
    taken += Check(*spec, {67, 1024});  // two stripes
    taken += Check(*spec, {3, 37});
    if (HasFailure()) return;
  }
  EXPECT_GE(taken, static_cast<int>(specs.size()) / 3);
}

INSTANTIATE_TEST_SUITE_P(Schemes, SpecPairsTest, ::testing::ValuesIn(AllSchemes()),
                         [](const auto& info) { return std::string(info.param->info.name); });

}  // namespace
}  // namespace quantd
