#ifndef QUANTD_CORE_SESSION_PLANNER_H_
#define QUANTD_CORE_SESSION_PLANNER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/scheme/scheme.h"

namespace quantd {

// How a tensor goes through a session.
enum class Pass : uint8_t {
  kStatic,    // parameters are known: output flows at once
  kLocal,     // parameters of each window come from the window: output flows at once
  kBuffered,  // the whole tensor is kept, then encoded
  kTwoPass,   // does not fit the budget: Calibrate first, then send again with the ranges
};
absl::string_view NameOf(Pass pass);

// What is known before the values, beside the spec.
struct PlanInputs {
  bool has_ranges = false;  // ranges of every group (and of the tensor, where needed) are given
};

// The decision about one tensor.
struct Plan {
  const Scheme* scheme = nullptr;
  Resolved resolved;
  Pass pass = Pass::kStatic;
  int64_t input_bytes = 0;   // size of the tensor's values
  int64_t output_bytes = 0;  // sum over the planes
  int64_t target_elems = 0;  // what a window aims at that is gathered
  int64_t window_elems = 0;  // the largest of these
  // The same of windows whose values all lie there.
  int64_t in_place_target_elems = 0;
  int64_t in_place_elems = 0;
  bool params_upfront = false;  // all parameters are written before the first codes
  bool whole_groups = false;    // windows end where groups do
  int64_t resident_bytes = 0;   // what a session of this plan holds at most
  std::string fallback_reason;  // why the spec's `incompatible` scheme was taken; empty: it was not
};

// Returns the plan of quantizing `tensor` by `spec` where a session may hold `budget_bytes`. Pure.
// kNotFound: unknown scheme or calibrator. kInvalidArgument: spec or shape. kResourceExhausted: not
// even one window fits, with the number.
absl::StatusOr<Plan> MakePlan(const QuantSpec& spec, const TensorDesc& tensor, int64_t budget_bytes,
                              const PlanInputs& inputs = {});

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_PLANNER_H_
