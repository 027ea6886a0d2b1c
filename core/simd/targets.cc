// Which code runs. Highway compiles kernels for each target and looks at the CPU once; a choice of
// our own goes through its hook for tests, which masks the other targets.
//
// Entry: ChooseSimdTarget. Tested by all tests that go over the targets, the most by
// tests/core/scheme/reference_test.cc.
#include "core/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "core/simd/targets.cc"
#include <hwy/foreach_target.h>  // so that SupportedAndGeneratedTargets knows them all
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace quantd {
namespace HWY_NAMESPACE {
int64_t ThisTarget() { return HWY_TARGET; }
}  // namespace HWY_NAMESPACE
}  // namespace quantd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd {
namespace {

HWY_EXPORT(ThisTarget);

struct TargetName {
  int64_t target;
  absl::string_view name;
};
constexpr TargetName kNames[] = {{HWY_AVX3, "avx512"},   {HWY_AVX2, "avx2"},
                                 {HWY_SSE4, "sse4"},     {HWY_NEON, "neon"},
                                 {HWY_EMU128, "scalar"}, {HWY_SCALAR, "scalar"}};

}  // namespace

std::vector<std::string> SupportedSimdTargets() {
  std::vector<std::string> names;
  const int64_t chosen = hwy::SupportedTargets();
  hwy::SetSupportedTargetsForTest(0);  // what the CPU has, not what was chosen
  const int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  hwy::SetSupportedTargetsForTest(chosen);
  for (const TargetName& row : kNames) {
    if (supported & row.target) names.emplace_back(row.name);
  }
  return names;
}

std::string ChosenSimdTarget() {
  const int64_t target = HWY_DYNAMIC_DISPATCH(ThisTarget)();
  for (const TargetName& row : kNames) {
    if (row.target == target) return std::string(row.name);
  }
  return "unknown";
}

absl::Status ChooseSimdTarget(absl::string_view target) {
  int64_t mask = 0;
  for (const TargetName& row : kNames) {
    if (row.name == target) mask |= row.target;
  }
  const std::vector<std::string> supported = SupportedSimdTargets();
  const bool known = std::find(supported.begin(), supported.end(), target) != supported.end();
  if (!target.empty() && !known) {
    return absl::NotFoundError(absl::StrCat("no SIMD target \"", target, "\" here; there are ",
                                            absl::StrJoin(supported, ", ")));
  }
  hwy::SetSupportedTargetsForTest(target.empty() ? 0 : mask);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return absl::OkStatus();
}

}  // namespace quantd
#endif  // HWY_ONCE
