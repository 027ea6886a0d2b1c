#include "client/cli/planning.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "core/scheme/registry.h"

namespace quantd::cli {
namespace {

// True if a refusal of the spec is the shape's fault, as far as this program knows the scheme.
bool IsLegal(const QuantSpec& spec) {
  const absl::StatusOr<const Scheme*> scheme = FindScheme(spec.scheme);
  return scheme.ok() && CompleteSpec(spec, **scheme).ok();
}

}  // namespace

absl::Status CheckAnySelected(const Input& input, const std::vector<std::string>& why_kept) {
  constexpr size_t kMostReasons = 3;
  std::map<std::string, int64_t> reasons;
  for (const std::string& why : why_kept) {
    if (why.empty()) return absl::OkStatus();
    ++reasons[why];
  }
  if (reasons.empty()) return absl::OkStatus();
  std::vector<std::string> texts;
  for (const auto& [why, count] : reasons) {
    if (texts.size() == kMostReasons) break;
    texts.push_back(input.size() == 1 ? why : absl::StrCat(count, ": ", why));
  }
  if (reasons.size() > kMostReasons) texts.push_back("...");
  const std::string what = input.size() == 1 ? absl::StrCat("tensor ", input.tensor(0).name)
                                             : absl::StrCat("all ", input.size(), " tensors");
  return absl::InvalidArgumentError(absl::StrCat(
      "nothing to quantize: ", what, " would be kept (", absl::StrJoin(texts, "; "),
      "); --include takes integers and rank 0 and 1 in, and tensors of other types need "
      "conversion first, to f32 for one"));
}

absl::StatusOr<std::vector<std::optional<TensorPlan>>> PlanSelected(
    const Connection& connection, const Input& input, const QuantSpec& spec,
    std::vector<std::string>& why_kept) {
  QUANTD_RETURN_IF_ERROR(CheckAnySelected(input, why_kept));
  std::vector<TensorDesc> selected;
  for (size_t i = 0; i < input.size(); ++i) {
    if (why_kept[i].empty()) selected.push_back(input.tensor(i));
  }
  auto planned = connection.client().PlanMany(selected, spec, connection.call_options());
  std::vector<std::optional<TensorPlan>> plans(input.size());
  for (size_t i = 0, k = 0; i < input.size(); ++i) {
    if (!why_kept[i].empty()) continue;
    absl::StatusOr<TensorPlan>& plan = planned[k++];
    if (plan.ok()) {
      plans[i] = *std::move(plan);
    } else if (spec.incompatible == "keep" && absl::IsInvalidArgument(plan.status()) &&
               IsLegal(spec)) {
      why_kept[i] = std::string(plan.status().message());
    } else {
      return connection.ErrorOf(input.tensor(i).name, plan.status());
    }
  }
  QUANTD_RETURN_IF_ERROR(CheckAnySelected(input, why_kept));
  return plans;
}

std::string ShortSpec(absl::string_view resolved_spec) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(resolved_spec, absl::MaxSplits(':', 1));
  const absl::StatusOr<const Scheme*> scheme = FindScheme(parts.first);
  if (!scheme.ok()) return std::string(resolved_spec);
  QuantSpec plain;
  plain.scheme = std::string(parts.first);
  const absl::StatusOr<QuantSpec> defaults = CompleteSpec(plain, **scheme);
  if (!defaults.ok()) return std::string(resolved_spec);
  const std::string default_text = FormatSpec(*defaults);
  const std::vector<absl::string_view> default_settings =
      absl::StrSplit(default_text, absl::ByAnyChar(":,"));
  std::vector<absl::string_view> settings;
  for (const absl::string_view setting : absl::StrSplit(parts.second, ',', absl::SkipEmpty())) {
    if (std::find(default_settings.begin(), default_settings.end(), setting) ==
        default_settings.end()) {
      settings.push_back(setting);
    }
  }
  return absl::StrCat(parts.first, settings.empty() ? "" : ":", absl::StrJoin(settings, ","));
}

}  // namespace quantd::cli
