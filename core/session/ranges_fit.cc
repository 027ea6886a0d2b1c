// Whether ranges may stand for those that a tensor's values would give. They were found over
// another tensor as a rule: a sample, from which the sizes may differ that groups do not count.
//
//   ranges of [1000, 32], axis=1    fit [300, 32], not [300, 16], and no spec but one by axis=1
//   ranges of any shape, per=tensor fit any shape
//   ranges by group or block        fit the shape that they were found over
//
// The resolved spec is what files record, so that its range has to be that of the calibrator; where
// it gives a range or a scale, or the scheme has none, ranges would not be used.
//
// Entry: CheckRangesFit. Tested by tests/core/session/ranges_fit_test.cc.
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/scheme/spec_keys.h"
#include "core/session/calibration.h"

namespace quantd {
namespace {

// Returns the granularity in a tensor of `rank`: axes count from 0.
std::optional<Granularity> GranularityOf(const QuantSpec& spec, int rank) {
  std::optional<Granularity> granularity = spec.granularity;
  if (granularity && granularity->kind == GranularityKind::kAxis && granularity->axis < 0) {
    granularity->axis += rank;
  }
  return granularity;
}

std::string TextOf(const std::optional<Granularity>& granularity) {
  if (!granularity) return "no granularity";
  QuantSpec spec;
  spec.granularity = granularity;
  for (const SpecKey& key : SpecKeys()) {
    if (const std::optional<std::string> value = key.format(spec)) {
      return absl::StrCat(key.name, "=", *value);
    }
  }
  return "";
}

std::string NameOf(const TensorDesc& tensor) {
  return absl::StrCat("tensor \"", tensor.name, "\"");
}

// True if groups of `granularity` are the same in both shapes.
bool SameGroups(const std::optional<Granularity>& granularity, const Shape& a, const Shape& b) {
  if (!granularity || granularity->kind == GranularityKind::kTensor) return true;
  if (granularity->kind != GranularityKind::kAxis) return a == b;
  const auto axis = static_cast<int>(granularity->axis);
  return a.rank() == b.rank() && axis >= 0 && axis < a.rank() && a.dim(axis) == b.dim(axis);
}

}  // namespace

absl::Status CheckRangesTaken(const Plan& plan) {
  const QuantSpec& spec = plan.resolved.spec;
  if (spec.given_range.has_value() || spec.scale.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.scale ? "scale=" : "range=MIN..MAX", " of spec ", FormatSpec(spec),
                     " and calibrated ranges exclude each other; give one"));
  }
  const PackedLayout& layout = plan.resolved.layout;
  const bool uses = layout.tensor_evidence != kNoEvidence ||
                    (layout.band_evidence != kNoEvidence && !layout.from_values());
  // What was said of the scheme asked for need not hold of its fallback, which is told of.
  if (uses || !plan.fallback_reason.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("spec ", FormatSpec(spec), " takes no calibrated ranges; leave them out"));
}

absl::Status CheckRangesFit(const CalibratedRanges& ranges, const Plan& plan) {
  QUANTD_RETURN_IF_ERROR(CheckRangesTaken(plan));
  if (ranges.spec.empty()) return absl::OkStatus();
  const TensorDesc& tensor = plan.resolved.tensor;
  const std::string of = absl::StrCat("ranges of ", NameOf(ranges.source));
  if (!ranges.source.name.empty() && ranges.source.name != tensor.name) {
    return absl::InvalidArgumentError(absl::StrCat(
        of, " do not belong to ", NameOf(tensor), "; ranges without a name fit any"));
  }
  const absl::StatusOr<QuantSpec> found_by = ParseSpec(ranges.spec);
  if (!found_by.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(of, " were found by ", ranges.spec, ": ", found_by.status().message()));
  }
  const QuantSpec& spec = plan.resolved.spec;
  const auto theirs = GranularityOf(*found_by, ranges.source.shape.rank());
  const auto ours = GranularityOf(spec, tensor.shape.rank());
  if (theirs != ours) {
    return absl::InvalidArgumentError(absl::StrCat(of, " are by ", TextOf(theirs), ", and ",
                                                   NameOf(tensor), " is quantized by ",
                                                   TextOf(ours), "; use the same in both"));
  }
  if (found_by->range != spec.range) {
    return absl::InvalidArgumentError(absl::StrCat(of, " were found by range=", found_by->range,
                                                   ", and the spec of ", NameOf(tensor),
                                                   " says range=", spec.range,
                                                   "; use the same in both"));
  }
  if (found_by->outliers != spec.outliers) {
    return absl::InvalidArgumentError(
        absl::StrCat(of, " were found with outliers=", found_by->outliers.value_or(0),
                     ", and the spec of ", NameOf(tensor), " says outliers=",
                     spec.outliers.value_or(0), "; use the same in both"));
  }
  if (SameGroups(ours, ranges.source.shape, tensor.shape)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      of, ", ", ranges.source.shape.Text(), " by ", TextOf(theirs), ", have other groups than ",
      NameOf(tensor), ", ", tensor.shape.Text()));
}

}  // namespace quantd
