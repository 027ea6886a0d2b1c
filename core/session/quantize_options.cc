// What comes with a tensor that is to be quantized, beside its values: ranges, a histogram, weights
// of columns, a codebook. The plan was made by whether they are there and how many they are, without
// what they hold; a session is given them in the end, and here they meet. Of each is asked
//
//   does the scheme take it?     weights and levels are refused else, never ignored
//   does it fit the layout?      as many ranges as groups, weights as columns, levels as the plan's
//   may it hold what it holds?   the first entry that may not is named, with what is allowed
//
// and ranges of groups that the layout has no use for go, so that nothing is kept in vain. All errors
// name the field of the message that they come from.
//
// Entry: CheckOptions. Tested by tests/core/session/quantize_session_test.cc and codebook_test.cc.
#include "core/session/quantize_options.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/base/checked_math.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

absl::Status BadField(absl::string_view field, absl::string_view what) {
  return WithField(absl::InvalidArgumentError(what), field);
}

// Codebooks are checked when the plan is made, but for what they hold.
absl::Status CheckCodebook(const QuantizeOptions& options, const Plan& plan) {
  const std::vector<float>& codebook = options.codebook;
  const SchemeInfo& info = plan.scheme->info;
  if (codebook.empty()) {
    const PackedLayout& layout = plan.resolved.layout;
    const bool learns = layout.tensor_evidence != kNoEvidence || layout.from_values();
    if (!info.takes_codebook || learns) return absl::OkStatus();
    return BadField("codebook", "the plan counts on a codebook and none is given");
  }
  if (!info.takes_codebook) {
    return BadField("codebook", absl::StrCat("scheme ", info.name, " takes no codebook"));
  }
  if (std::ssize(codebook) != int64_t{*plan.resolved.spec.levels}) {
    return BadField("codebook", absl::StrCat("codebook holds ", codebook.size(),
                                             " levels, and the plan counts on ",
                                             *plan.resolved.spec.levels));
  }
  for (size_t i = 0; i < codebook.size(); ++i) {
    if (!std::isfinite(codebook[i])) {
      return BadField("codebook", absl::StrCat("codebook[", i, "] is ", codebook[i],
                                               "; levels are finite"));
    }
    if (i > 0 && codebook[i] < codebook[i - 1]) {
      return BadField("codebook", absl::StrCat("codebook[", i, "] is ", codebook[i], " behind ",
                                               codebook[i - 1], "; levels are in ascending order"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckImportance(const QuantizeOptions& options, const Plan& plan) {
  if (options.importance.empty()) return absl::OkStatus();
  const Shape& shape = plan.resolved.tensor.shape;
  if (!plan.scheme->info.takes_importance) {
    return BadField("importance",
                    absl::StrCat("scheme ", plan.scheme->info.name, " takes no importance"));
  }
  if (plan.scheme->plan_importance != nullptr && !plan.resolved.layout.from_values()) {
    return BadField("importance", "the plan counts on no importance and it is given");
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
  if (layout.from_values() && plan.known_params) {
    return BadField("ranges", absl::StrCat("scheme ", plan.scheme->info.name,
                                           " finds the parameters of its groups from their values, "
                                           "and takes no ranges"));
  }
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
  QUANTD_RETURN_IF_ERROR(CheckCodebook(options, plan));
  return CheckImportance(options, plan);
}

}  // namespace quantd
