// How a tensor will go through a session and what memory that takes, decided before its first byte:
//
//   spec, tensor -> scheme, completed spec, layout       or those of the spec's fallback
//                -> which parameters are known before the values
//                -> pass, values that are held -> stripes in flight, resident bytes
//
//   constants   parameters of groups   groups          pass       values that are held
//   known       known                  any             static     none
//   known       to be found            do not recur    local      two bands, where they are longer
//                                                                 than a stripe
//   otherwise                                          buffered   all, unless they are one stripe
//
// int8 of [64, 100000] is buffered; with axis=0 it is local and holds two rows, each longer than a
// stripe; with scale=0.02 it is static. A plan has eight stripes in flight for each thread, or as
// many as the budget allows. One that does not fit with a single stripe becomes two_pass, if it
// fits with ranges that Calibrate found first; else it is refused, with the number.
//
// All of it is arithmetic on the layout, whatever the size of the tensor. It is an upper bound:
// memory_test.cc compares what sessions really take with it.
//
// Entry: MakePlan. Tested by tests/core/session/planner_test.cc and memory_test.cc.
#include "core/session/planner.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/checked_math.h"
#include "core/base/digest.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/calibrate/calibrator.h"
#include "core/scheme/registry.h"
#include "core/session/evidence.h"
#include "core/session/outliers.h"
#include "core/session/piece_queue.h"
#include "core/session/stripes.h"
#include "core/session/value_ranges.h"

namespace quantd {
namespace {

constexpr int64_t kMaxNameBytes = 1024;

// Stripes that are at work, or wait for their turn, for each thread: where one of a hundred takes ten
// times as long as the others, one a thread reaches 0.46 of unordered work, four 0.68, eight 0.94.
constexpr int64_t kStripesPerThread = 8;
// What a stripe takes beside its values, codes and parameters: itself, edges of digest leaves.
constexpr int64_t kStripeBytes = 24 << 10;

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

// Our schemes keep to what sessions can carry.
absl::Status CheckLayout(const PackedLayout& layout) {
  if (std::ssize(layout.planes) > kMaxPlanes || layout.atom_elems > kTileElems) {
    return absl::InternalError(absl::StrCat("a layout of ", layout.planes.size(), " planes, atoms of ",
                                            layout.atom_elems));
  }
  return absl::OkStatus();
}

// Returns the scheme's layout of one group, a row, for ranges of `resolved` to be tried out.
absl::StatusOr<Resolved> OneGroupOf(const Scheme& scheme, const Resolved& resolved) {
  Resolved one = resolved;
  one.spec.granularity->axis = 0;
  QUANTD_ASSIGN_OR_RETURN(one.tensor.shape, Shape::Make({1, kTileElems}));
  QUANTD_ASSIGN_OR_RETURN(one.layout, scheme.plan(*one.info, one.spec, one.tensor));
  return one;
}

// Says where a calibrator, or the scheme itself, has the values from that it needs, if it does.
absl::Status DecideValueSource(Plan& plan) {
  const QuantSpec& spec = plan.resolved.spec;
  const PackedLayout& layout = plan.resolved.layout;
  QUANTD_ASSIGN_OR_RETURN(const ChosenCalibrator calibrator, FindCalibrator(spec.range));
  const bool finds = (layout.band_evidence | layout.tensor_evidence) != kNoEvidence;
  const int64_t num_elems = plan.resolved.tensor.shape.num_elems();
  plan.value_source = ValueSource::kNone;
  if (layout.from_values()) {
    plan.value_source = ValueSource::kBands;
    if (num_elems == 0 || layout.groups.num_groups == 1 || layout.groups.IsLocal(num_elems)) {
      return absl::OkStatus();
    }
    const Granularity granularity = spec.granularity.value_or(Granularity{});
    return absl::InvalidArgumentError(absl::StrCat(
        "what scheme ", spec.scheme, " wants of values is not found for axis=", granularity.axis,
        " of shape ", plan.resolved.tensor.shape.Text(), ", whose ", layout.groups.num_groups,
        " groups come again and again; use per=tensor, axis=0 or group="));
  }
  if (!finds || !calibrator.needs_values() || spec.given_range) return absl::OkStatus();
  if (calibrator.tries() && layout.tensor_evidence != kNoEvidence) {
    return absl::InvalidArgumentError(absl::StrCat(
        "range=", spec.range, " tries out one group at a time, and by spec ", FormatSpec(spec),
        " they depend on each other; use scale_type=f32, or another range="));
  }
  const int64_t num_groups = layout.groups.num_groups;
  if (num_groups == 1) {
    plan.value_source = ValueSource::kCounts;
    return absl::OkStatus();
  }
  if (num_elems == 0 || layout.groups.IsLocal(num_elems)) {
    plan.value_source = ValueSource::kBands;
    return absl::OkStatus();
  }
  plan.value_source = ValueSource::kSketches;
  if (num_elems / num_groups > Sketch::kMaxCount) {
    return absl::InvalidArgumentError(absl::StrCat(
        "range=", spec.range, " counts the values of each of ", num_groups, " groups, and by axis=",
        spec.granularity->axis, " of shape ", plan.resolved.tensor.shape.Text(), " they have ",
        num_elems / num_groups, "; at most ", Sketch::kMaxCount,
        " are counted, so use per=tensor, group=, or range=minmax or Nsigma"));
  }
  if (calibrator.tries()) {
    QUANTD_ASSIGN_OR_RETURN(plan.counted, OneGroupOf(*plan.scheme, plan.resolved));
  }
  return absl::OkStatus();
}

// Has a spec that is open about levels have as many as are given.
absl::Status TakeLevels(const SchemeInfo& info, int64_t levels, QuantSpec& spec) {
  if (levels == 0 || !info.takes_codebook) return absl::OkStatus();  // CheckOptions refuses these
  if (spec.granularity.has_value() && spec.granularity->kind != GranularityKind::kTensor) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a codebook that is given is the whole tensor's, and spec ", FormatSpec(spec),
        " wants one for each group; use per=tensor"));
  }
  if (spec.levels.has_value() && *spec.levels != levels) {
    return absl::InvalidArgumentError(absl::StrCat("codebook holds ", levels, " levels, and spec ",
                                                   FormatSpec(spec), " says levels=",
                                                   *spec.levels, "; use the same in both"));
  }
  if (std::find(info.levels.begin(), info.levels.end(), levels) == info.levels.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "codebook holds ", levels, " levels; scheme ", info.name, " has ",
        absl::StrJoin(info.levels, ", "), "; repeat the last one to fill it up"));
  }
  spec.levels = static_cast<uint32_t>(levels);
  return absl::OkStatus();
}

// Fills in the scheme, the completed spec and the layout.
absl::Status Resolve(const QuantSpec& spec, const TensorDesc& tensor, const PlanInputs& inputs,
                     Plan& plan) {
  QUANTD_ASSIGN_OR_RETURN(plan.scheme, FindScheme(spec.scheme));
  Resolved& resolved = plan.resolved;
  resolved.info = &plan.scheme->info;
  QuantSpec wanted = spec;
  QUANTD_RETURN_IF_ERROR(
      WithField(TakeLevels(*resolved.info, inputs.codebook_levels, wanted), "codebook"));
  QUANTD_ASSIGN_OR_RETURN(resolved.spec, CompleteSpec(wanted, *plan.scheme, tensor));
  QUANTD_RETURN_IF_ERROR(FindCalibrator(resolved.spec.range).status());
  resolved.tensor = tensor;
  resolved.name_hash = HashName(tensor.name);
  QUANTD_ASSIGN_OR_RETURN(resolved.layout,
                          plan.scheme->plan(*resolved.info, resolved.spec, tensor));
  QUANTD_RETURN_IF_ERROR(PlanOutliers(resolved.spec, tensor, resolved.layout));
  QUANTD_RETURN_IF_ERROR(CheckLayout(resolved.layout));
  if (inputs.importance_elems > 0 && plan.scheme->plan_importance != nullptr) {
    plan.scheme->plan_importance(tensor, resolved.layout);
  }
  if (inputs.codebook_levels > 0 && resolved.info->takes_codebook) {
    resolved.layout.tensor_evidence = kNoEvidence;  // there is nothing to learn
  }
  return DecideValueSource(plan);
}

// Takes the spec's fallback where the scheme refuses the shape.
absl::Status ResolveOrFallBack(const QuantSpec& spec, const TensorDesc& tensor,
                               const PlanInputs& inputs, Plan& plan) {
  const absl::Status status = Resolve(spec, tensor, inputs, plan);
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
  QUANTD_RETURN_IF_ERROR(Resolve(fallback, tensor, inputs, plan));
  plan.fallback_reason = std::string(status.message());
  return absl::OkStatus();
}

// Which groups statistics are kept of: none but the whole tensor where constants need its range only.
bool KeepsGroups(const PackedLayout& layout) {
  return layout.tensor_evidence == kNoEvidence || (layout.tensor_evidence & kGroupRanges) != 0;
}

// Says what is known before the values, and how the tensor goes through a session.
void DecidePass(const PlanInputs& inputs, Plan& plan) {
  const PackedLayout& layout = plan.resolved.layout;
  const int64_t num_elems = plan.resolved.tensor.shape.num_elems();
  const bool given = plan.resolved.spec.given_range.has_value();
  const bool takes_range = (layout.tensor_evidence & ~(kRange | kGroupRanges)) == 0;
  plan.known_constants = layout.tensor_evidence == kNoEvidence || inputs.has_ranges ||
                         (given && takes_range);
  plan.known_params = layout.band_evidence == kNoEvidence || given ||
                      (inputs.has_ranges && KeepsGroups(layout));
  const int64_t band_elems = MaxBandElems(layout, num_elems);
  if (plan.known_constants && plan.known_params) {
    plan.pass = Pass::kStatic;
  } else if (plan.known_constants && layout.groups.IsLocal(num_elems)) {
    plan.pass = Pass::kLocal;
    // One that is encoded while another one comes.
    const int64_t bands = band_elems >= num_elems ? 1 : 2;
    if (band_elems > kStripeElems) {
      plan.held_bytes = SaturatingMul(bands, band_elems * SizeOf(plan.resolved.tensor.dtype));
    }
  } else {
    plan.pass = Pass::kBuffered;
    if (num_elems > kStripeElems) plan.held_bytes = plan.input_bytes;
  }
}

int64_t ValueRangesBytes(const PackedLayout& layout, int64_t num_elems, DType dtype) {
  return WorksAsF32(dtype) ? ValueRanges<float>::ResidentBytes(layout, num_elems)
                           : ValueRanges<double>::ResidentBytes(layout, num_elems);
}

// Returns the bytes that a session holds with `stripes` in flight.
int64_t ResidentBytes(const Plan& plan, const PlanInputs& inputs, int64_t stripes) {
  const PackedLayout& layout = plan.resolved.layout;
  const DType dtype = plan.resolved.tensor.dtype;
  const int64_t num_elems = plan.resolved.tensor.shape.num_elems();
  const int64_t num_groups = layout.groups.num_groups;
  const int64_t band_elems = MaxBandElems(layout, num_elems);
  const int64_t stripe_elems = std::min(num_elems, kStripeElems);
  // Where a band is longer than a stripe its parameters are the session's, else the stripe's.
  const bool long_bands = band_elems > kStripeElems || plan.held_bytes > 0 || num_elems == 0;
  int64_t bytes = plan.held_bytes;
  const auto add = [&bytes](int64_t more) { bytes = SaturatingAdd(bytes, more); };
  const int64_t stripe_groups = MaxStripeGroups(layout, num_elems);
  int64_t stripe_bytes = stripe_elems * SizeOf(dtype) + MaxCodeBytes(layout, stripe_elems) +
                         kStripeBytes + ParamBytes(layout, stripe_groups);
  stripe_bytes += FindOutliersBytes(layout, stripe_elems) + OutlierEntryBytes(layout, stripe_elems);
  if (!plan.known_params) {
    stripe_bytes += stripe_groups * int64_t{sizeof(GroupStats) + sizeof(Range)};
  }
  if (!plan.known_params && plan.value_source == ValueSource::kCounts) {
    add(std::min(kCountedBytes, SaturatingMul(num_elems, 4 * sizeof(double))));
  }
  if (!plan.known_params && plan.value_source == ValueSource::kSketches) add(kSketchedBytes);
  if (!plan.known_params && plan.value_source == ValueSource::kBands) {
    stripe_bytes += ValueRangesBytes(layout, stripe_elems, dtype);
    if (long_bands) {
      add(ValueRangesBytes(layout, num_elems, dtype));
      add(FindOutliersBytes(layout, num_elems));
    }
  }
  add(SaturatingMul(stripes, stripe_bytes));
  int64_t shared_groups = num_groups;
  if (layout.groups.IsLocal(num_elems) && num_elems > 0) {  // of two bands
    shared_groups = std::min(num_groups, SaturatingMul(2, MaxGroups(layout.groups, band_elems)));
  }
  if (long_bands) add(ParamBytes(layout, shared_groups));
  if (inputs.has_ranges && KeepsGroups(layout)) add(SaturatingMul(num_groups, sizeof(Range)));
  if (inputs.has_ranges && (layout.tensor_evidence & kHistogram) != 0) {
    add(Histogram::kNumBuckets * int64_t{sizeof(int64_t)});
  }
  if (plan.known_constants && (layout.tensor_evidence & kGroupRanges) != 0) {
    add(SaturatingMul(num_groups, sizeof(Range)));
  }
  const bool of_tensor = plan.pass == Pass::kBuffered;
  if (of_tensor || plan.held_bytes > 0) {
    const GroupMap whole = WholeTensor(num_elems);
    const EvidenceWants wants = EvidenceWantsOf(plan);
    const int threads = plan.held_bytes > 0 ? inputs.threads : 1;  // one stripe: its job scans it
    const GroupMap& map = plan.known_constants ? layout.groups : EvidenceMapOf(plan, whole);
    const int64_t evidence = EvidenceCollector::ResidentBytes(
        layout, map, num_elems, dtype, wants, of_tensor ? num_elems : band_elems, threads, stripes);
    add(SaturatingMul(of_tensor ? 1 : 2, evidence));
    add(SaturatingMul(map.num_groups, sizeof(Range)));
  }
  add(std::min(plan.input_bytes, PieceQueue::kBlockBytes));
  add(SaturatingMul(inputs.importance_elems, sizeof(float)));
  add(SaturatingMul(inputs.codebook_levels, sizeof(float)));
  return bytes;
}

}  // namespace

absl::string_view NameOf(Pass pass) {
  static constexpr std::array<absl::string_view, 4> kNames = {"static", "local", "buffered",
                                                              "two_pass"};
  return kNames[static_cast<size_t>(pass)];
}

int64_t ParamBytes(const PackedLayout& layout, int64_t num_groups) {
  int64_t bytes = SaturatingMul(layout.working_bytes, num_groups);
  for (size_t plane = 1; plane < layout.scheme_planes(); ++plane) {
    const PlaneDesc& desc = layout.planes[plane];
    const int64_t entries = CeilDiv(num_groups, desc.groups_per_entry);
    bytes = SaturatingAdd(bytes, desc.role == PlaneRole::kPerGroup
                                     ? SaturatingMul(layout.EntryBytes(plane), entries)
                                     : desc.size_bytes);
  }
  return bytes;
}

EvidenceWants EvidenceWantsOf(const Plan& plan) {
  const absl::StatusOr<ChosenCalibrator> calibrator = FindCalibrator(plan.resolved.spec.range);
  return {.moments = calibrator.ok() && calibrator->calibrator->needs_moments,
          .magnitudes = calibrator.ok() && calibrator->calibrator->needs_magnitudes,
          .histogram = (plan.resolved.layout.tensor_evidence & kHistogram) != 0 ||
                       plan.value_source == ValueSource::kCounts,
          .sketches = plan.value_source == ValueSource::kSketches};
}

const GroupMap& EvidenceMapOf(const Plan& plan, const GroupMap& whole) {
  return KeepsGroups(plan.resolved.layout) ? plan.resolved.layout.groups : whole;
}

absl::StatusOr<Plan> MakePlan(const QuantSpec& spec, const TensorDesc& tensor, int64_t budget_bytes,
                              const PlanInputs& inputs) {
  QUANTD_RETURN_IF_ERROR(CheckTensor(tensor));
  Plan plan;
  QUANTD_ASSIGN_OR_RETURN(plan.input_bytes, SizeBytes(tensor));
  QUANTD_RETURN_IF_ERROR(ResolveOrFallBack(spec, tensor, inputs, plan));
  const PackedLayout& layout = plan.resolved.layout;
  for (const PlaneDesc& plane : layout.planes) {
    QUANTD_ASSIGN_OR_RETURN(plan.output_bytes, CheckedAdd(plan.output_bytes, plane.size_bytes));
  }
  DecidePass(inputs, plan);
  plan.threads = inputs.threads;
  const int64_t num_elems = tensor.shape.num_elems();
  plan.stripes_in_flight =
      std::clamp<int64_t>(CeilDiv(num_elems, kStripeElems), 1, kStripesPerThread * inputs.threads);
  const int64_t least = ResidentBytes(plan, inputs, 1);
  if (least > budget_bytes) {
    const bool could_stream = plan.pass != Pass::kStatic && !inputs.has_ranges &&
                              plan.value_source != ValueSource::kBands;
    if (!could_stream) {
      return WithLimit(absl::ResourceExhaustedError(absl::StrCat(
                           "tensor \"", tensor.name, "\" needs ", least, " bytes of memory; ",
                           budget_bytes, " are allowed for one session")),
                       "tensor_memory_bytes", budget_bytes);
    }
    PlanInputs second_inputs = inputs;
    second_inputs.has_ranges = true;
    QUANTD_ASSIGN_OR_RETURN(const Plan second,
                            MakePlan(spec, tensor, budget_bytes, second_inputs));
    plan.pass = Pass::kTwoPass;
    plan.held_bytes = 0;
    plan.stripes_in_flight = second.stripes_in_flight;
    plan.resident_bytes = second.resident_bytes;
    return plan;
  }
  while (plan.stripes_in_flight > 1 &&
         ResidentBytes(plan, inputs, plan.stripes_in_flight) > budget_bytes) {
    --plan.stripes_in_flight;
  }
  plan.resident_bytes = ResidentBytes(plan, inputs, plan.stripes_in_flight);
  return plan;
}

}  // namespace quantd
