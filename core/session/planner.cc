#include "core/session/planner.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/digest.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/calibrate/calibrator.h"
#include "core/scheme/registry.h"
#include "core/session/group_scan.h"
#include "core/session/tile_encoder.h"
#include "core/session/window.h"

namespace quantd {
namespace {

constexpr int64_t kMaxNameBytes = 1024;

// A window of f32 is 1 MiB: small enough for the L2 cache, large enough to be shared out.
constexpr int64_t kWindowElems = int64_t{256} << 10;
// Values that lie there already are taken in larger windows: workers meet less often.
constexpr int64_t kInPlaceElems = int64_t{1} << 20;
// What is kept of a task that encodes a part of a window.
constexpr int64_t kTaskBytes = 256;

absl::Status CheckTensor(const TensorDesc& tensor) {
  if (tensor.name.size() > kMaxNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor name has ", tensor.name.size(), " bytes; at most ", kMaxNameBytes, " are allowed"));
  }
  if (IsQuantizable(tensor.dtype)) return absl::OkStatus();
  std::string allowed;
  for (const DType dtype : AllDTypes()) {
    if (IsQuantizable(dtype)) absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", NameOf(dtype));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("dtype ", NameOf(tensor.dtype), " cannot be quantized; use ", allowed));
}

// Fills in the scheme, the completed spec and the layout.
absl::Status Resolve(const QuantSpec& spec, const TensorDesc& tensor, Plan& plan) {
  QUANTD_ASSIGN_OR_RETURN(plan.scheme, FindScheme(spec.scheme));
  Resolved& resolved = plan.resolved;
  resolved.info = &plan.scheme->info;
  QUANTD_ASSIGN_OR_RETURN(resolved.spec, CompleteSpec(spec, *plan.scheme, tensor));
  QUANTD_RETURN_IF_ERROR(FindCalibrator(resolved.spec.range).status());
  resolved.tensor = tensor;
  resolved.name_hash = HashName(tensor.name);
  QUANTD_ASSIGN_OR_RETURN(resolved.layout,
                          plan.scheme->plan(*resolved.info, resolved.spec, tensor));
  return absl::OkStatus();
}

// Takes the spec's fallback where the scheme refuses the shape.
absl::Status ResolveOrFallBack(const QuantSpec& spec, const TensorDesc& tensor, Plan& plan) {
  const absl::Status status = Resolve(spec, tensor, plan);
  const bool may_fall_back = absl::IsInvalidArgument(status) && plan.scheme != nullptr &&
                             !plan.resolved.spec.scheme.empty() && !spec.incompatible.empty() &&
                             spec.incompatible != "reject" && spec.incompatible != "keep";
  if (!may_fall_back) return status;
  QuantSpec fallback;
  fallback.scheme = spec.incompatible;
  QUANTD_ASSIGN_OR_RETURN(const Scheme* scheme, FindScheme(fallback.scheme));
  const std::vector<NonFinite>& policies = scheme->info.nonfinites;
  if (std::find(policies.begin(), policies.end(), spec.nonfinite) != policies.end()) {
    fallback.nonfinite = spec.nonfinite;  // what was said of the values still holds
  }
  plan = Plan{.input_bytes = plan.input_bytes};
  QUANTD_RETURN_IF_ERROR(Resolve(fallback, tensor, plan));
  plan.fallback_reason = std::string(status.message());
  return absl::OkStatus();
}

int64_t ParamBytes(const PackedLayout& layout, int64_t num_groups) {
  int64_t bytes = 0;
  for (size_t plane = 1; plane < layout.planes.size(); ++plane) {
    bytes += layout.planes[plane].role == PlaneRole::kPerGroup
                 ? layout.GroupBytes(plane) * num_groups
                 : layout.planes[plane].size_bytes;
  }
  return bytes;
}

// Returns the bytes that a session holds beside the input that it gathers.
int64_t FixedBytes(const Plan& plan, const PlanInputs& inputs) {
  const PackedLayout& layout = plan.resolved.layout;
  const GroupMap& groups = layout.groups;
  const int64_t window_groups =
      plan.params_upfront ? groups.num_groups
                          : std::min(groups.num_groups, MaxRuns(groups, plan.in_place_elems));
  int64_t bytes = MaxCodeBytes(layout, plan.in_place_elems);
  bytes = SaturatingAdd(bytes, SaturatingMul(2, ParamBytes(layout, window_groups)));
  if (layout.needs_ranges && plan.pass != Pass::kStatic) {
    bytes = SaturatingAdd(bytes, SaturatingMul(window_groups, sizeof(GroupStats)));
    bytes = SaturatingAdd(bytes, ScanScratchBytes(groups, plan.in_place_elems));
  }
  if (inputs.has_ranges && !layout.needs_tensor_range) {
    bytes = SaturatingAdd(bytes, SaturatingMul(groups.num_groups, sizeof(Range)));
  }
  const int64_t num_tasks = CeilDiv(plan.in_place_elems, kTileElems);
  bytes = SaturatingAdd(bytes, SaturatingMul(num_tasks, kTaskBytes));
  return SaturatingAdd(bytes, TileEncoder::ResidentBytes(plan.resolved, plan.in_place_elems));
}

}  // namespace

absl::string_view NameOf(Pass pass) {
  static constexpr std::array<absl::string_view, 4> kNames = {"static", "local", "buffered",
                                                              "two_pass"};
  return kNames[static_cast<size_t>(pass)];
}

absl::StatusOr<Plan> MakePlan(const QuantSpec& spec, const TensorDesc& tensor, int64_t budget_bytes,
                              const PlanInputs& inputs) {
  QUANTD_RETURN_IF_ERROR(CheckTensor(tensor));
  Plan plan;
  QUANTD_ASSIGN_OR_RETURN(plan.input_bytes, SizeBytes(tensor));
  QUANTD_RETURN_IF_ERROR(ResolveOrFallBack(spec, tensor, plan));
  const PackedLayout& layout = plan.resolved.layout;
  for (const PlaneDesc& plane : layout.planes) {
    QUANTD_ASSIGN_OR_RETURN(plan.output_bytes, CheckedAdd(plan.output_bytes, plane.size_bytes));
  }
  const int64_t num_elems = tensor.shape.num_elems();
  const GroupMap& groups = layout.groups;
  const bool ranges_known = inputs.has_ranges || plan.resolved.spec.given_range.has_value();
  const bool finds_locally = layout.needs_tensor_range ||
                             (layout.needs_ranges && !ranges_known && groups.IsLocal(num_elems));
  const bool known = ranges_known || !layout.needs_ranges;
  if (known && !layout.needs_tensor_range) {
    plan.pass = Pass::kStatic;
  } else if (finds_locally && (known || !layout.needs_tensor_range)) {
    plan.pass = Pass::kLocal;
  } else {
    plan.pass = Pass::kBuffered;
  }
  // Known parameters of long groups are written up front, so that a window need not hold a group.
  plan.params_upfront = layout.planes.size() > 1 && !layout.needs_tensor_range &&
                        (num_elems == 0 || !groups.IsLocal(num_elems) ||
                         (!finds_locally && LocalUnitElems(groups) > kWindowElems));
  plan.whole_groups = finds_locally || (groups.IsLocal(num_elems) && !plan.params_upfront);
  plan.window_elems = MaxWindowElems(layout, num_elems, kWindowElems, plan.whole_groups);
  plan.target_elems = kWindowElems;
  plan.in_place_target_elems = kInPlaceElems;
  plan.in_place_elems =
      MaxWindowElems(layout, num_elems, plan.in_place_target_elems, plan.whole_groups);

  const int64_t gathered_bytes =
      plan.pass == Pass::kBuffered ? plan.input_bytes : plan.window_elems * SizeOf(tensor.dtype);
  plan.resident_bytes = SaturatingAdd(gathered_bytes, FixedBytes(plan, inputs));
  if (plan.resident_bytes <= budget_bytes) return plan;
  const bool could_stream = layout.needs_ranges && !inputs.has_ranges;
  if (could_stream && plan.pass != Pass::kStatic) {
    plan.pass = Pass::kTwoPass;
    QUANTD_ASSIGN_OR_RETURN(Plan second,
                            MakePlan(spec, tensor, budget_bytes, {.has_ranges = true}));
    plan.resident_bytes = second.resident_bytes;
    plan.window_elems = second.window_elems;
    return plan;
  }
  return WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                       "tensor \"", tensor.name, "\" needs ", plan.resident_bytes,
                       " bytes of memory; ", budget_bytes, " are allowed for one session")),
                   "tensor_memory_bytes", budget_bytes);
}

}  // namespace quantd
