#include "core/session/quantize_options.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_detail.h"

// Tested by tests/core/session/quantize_session_test.cc.

namespace quantd {
namespace {

absl::Status BadField(absl::string_view field, absl::string_view what) {
  return WithField(absl::InvalidArgumentError(what), field);
}

absl::Status CheckImportance(const QuantizeOptions& options, const Plan& plan) {
  if (options.importance.empty()) return absl::OkStatus();
  const Shape& shape = plan.resolved.tensor.shape;
  if (!plan.scheme->info.takes_importance) {
    return BadField("importance",
                    absl::StrCat("scheme ", plan.scheme->info.name, " takes no importance"));
  }
  const int64_t columns = shape.last_dim();
  const int64_t rows = shape.rank() < 2 ? 1 : shape.dim(shape.rank() - 2);
  const int64_t batch_elems = SaturatingMul(columns, rows);
  const int64_t batches =
      batch_elems == 0 ? 1 : std::max<int64_t>(shape.num_elems() / batch_elems, 1);
  const int64_t given = std::ssize(options.importance);
  if (given != columns && given != batches * columns) {
    return BadField("importance", absl::StrCat(
        "importance holds ", given, " weights; the tensor has ", columns, " columns",
        batches > 1 ? absl::StrCat(", ", batches * columns, " with its batches") : ""));
  }
  for (size_t i = 0; i < options.importance.size(); ++i) {
    const float weight = options.importance[i];
    if (weight >= 0 && std::isfinite(weight)) continue;
    return BadField("importance", absl::StrCat("importance[", i, "] is ", weight,
                                               "; weights are finite and not negative"));
  }
  return absl::OkStatus();
}

}  // namespace

Importance ImportanceOf(const QuantizeOptions& options, const Shape& shape) {
  Importance importance;
  importance.weights = options.importance;
  importance.columns = std::max<int64_t>(shape.last_dim(), 1);
  const int64_t rows = shape.rank() < 2 ? 1 : shape.dim(shape.rank() - 2);
  importance.batch_elems = SaturatingMul(importance.columns, std::max<int64_t>(rows, 1));
  return importance;
}

absl::Status CheckOptions(const Plan& plan, QuantizeOptions& options) {
  const Resolved& resolved = plan.resolved;
  const PackedLayout& layout = resolved.layout;
  const auto num_groups = static_cast<size_t>(layout.groups.num_groups);
  const bool wants_groups =
      layout.band_evidence != kNoEvidence && (layout.tensor_evidence & ~kGroupRanges) == 0;
  if (wants_groups && !options.ranges.empty() && options.ranges.size() != num_groups) {
    return BadField("ranges", absl::StrCat("ranges hold ", options.ranges.size(),
                                           " groups; the tensor has ", num_groups));
  }
  const bool given = resolved.spec.given_range.has_value();
  if (plan.known_constants && (layout.tensor_evidence & kRange) != 0 && !given &&
      !options.tensor_range) {
    return BadField(
        "ranges", "ranges hold no range of the whole tensor, which the scheme needs");
  }
  if (plan.known_constants && (layout.tensor_evidence & kHistogram) != 0 && !options.histogram) {
    return BadField("ranges", "ranges hold no histogram, which the scheme needs");
  }
  if (plan.known_params && wants_groups && !given && options.ranges.empty() && num_groups > 0) {
    return BadField("ranges", "the plan counts on ranges and none are given");
  }
  if (!wants_groups) options.ranges.clear();
  return CheckImportance(options, plan);
}

}  // namespace quantd
