#include "core/scheme/registry.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"

namespace quantd {

#define QUANTD_SCHEME(name) const Scheme& name##_scheme();
#include "core/scheme/schemes.def"
#undef QUANTD_SCHEME

namespace {

// Takes the scheme's default where `value` is absent; refuses what the scheme does not list.
template <typename T>
absl::Status Complete(absl::string_view scheme, absl::string_view key,
                      const std::vector<T>& allowed, std::optional<T>& value) {
  if (!value.has_value()) {
    if (!allowed.empty()) value = allowed.front();
    return absl::OkStatus();
  }
  if (std::find(allowed.begin(), allowed.end(), *value) != allowed.end()) return absl::OkStatus();
  const std::string has = allowed.empty()
                              ? "nothing for this key"
                              : absl::StrJoin(allowed, ", ", [](std::string* out, T item) {
                                  absl::StrAppend(out, NameOf(item));
                                });
  return absl::InvalidArgumentError(absl::StrCat("scheme ", scheme, " does not have ", key, "=",
                                                 NameOf(*value), "; it has ", has));
}

absl::Status CompleteName(absl::string_view scheme, absl::string_view key,
                          const std::vector<absl::string_view>& allowed, std::string& value) {
  if (value.empty()) {
    if (!allowed.empty()) value = std::string(allowed.front());
    return absl::OkStatus();
  }
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("scheme ", scheme, " does not have ", key, "=", value, "; it has ",
                   allowed.empty() ? "nothing for this key" : absl::StrJoin(allowed, ", ")));
}

absl::Status CompleteGranularity(const SchemeInfo& info, QuantSpec& spec) {
  if (!spec.granularity.has_value()) {
    if (!info.granularities.empty()) spec.granularity = info.granularities.front();
    return absl::OkStatus();
  }
  std::vector<std::string> has;
  for (const Granularity& allowed : info.granularities) {
    // A group whose size is stated is the only one that the scheme takes.
    const bool any_size = allowed.kind == spec.granularity->kind && allowed.group_elems == 0;
    if (any_size || allowed == *spec.granularity) return absl::OkStatus();
    has.push_back(absl::StrCat(NameOf(allowed.kind), "="));
    if (allowed.kind == GranularityKind::kTensor) has.back() += "tensor";
    if (allowed.group_elems != 0) absl::StrAppend(&has.back(), allowed.group_elems);
  }
  QuantSpec wanted;
  wanted.scheme = spec.scheme;
  wanted.granularity = spec.granularity;
  return absl::InvalidArgumentError(
      absl::StrCat(FormatSpec(wanted), " is a granularity that the scheme does not have; it has ",
                   has.empty() ? "none" : absl::StrJoin(has, ", ")));
}

absl::Status CompleteRange(const SchemeInfo& info, QuantSpec& spec) {
  const bool any_range = !spec.range.empty() || spec.given_range.has_value();
  if (any_range && !info.takes_range) {
    return absl::InvalidArgumentError(absl::StrCat("scheme ", info.name, " takes no range="));
  }
  if ((spec.scale || spec.zero_point) && !info.takes_scale) {
    return absl::InvalidArgumentError(
        absl::StrCat("scheme ", info.name, " takes no scale= or zero="));
  }
  if (spec.scale && any_range) {
    return absl::InvalidArgumentError("scale= and range= exclude each other; give one");
  }
  if (spec.zero_point && !spec.scale) {
    return absl::InvalidArgumentError("zero= needs scale= beside it");
  }
  const int64_t min_code = info.is_signed ? -(int64_t{1} << (info.bits - 1)) : 0;
  const int64_t max_code = min_code + (int64_t{1} << info.bits) - 1;
  if (spec.zero_point && (*spec.zero_point < min_code || *spec.zero_point > max_code)) {
    return absl::InvalidArgumentError(absl::StrCat("zero=", *spec.zero_point, " is not a code of ",
                                                   info.name, "; use ", min_code, " to ",
                                                   max_code));
  }
  if (spec.scale && spec.mode) {
    return absl::InvalidArgumentError("mode= does not apply beside scale=, which uses all codes");
  }
  if (!any_range && !spec.scale && info.takes_range) spec.range = "minmax";
  return absl::OkStatus();
}

absl::Status CompleteSeed(QuantSpec& spec) {
  if (spec.rounding == Rounding::kStochastic) {
    if (!spec.seed) spec.seed = 0;
  } else if (spec.seed) {
    return absl::InvalidArgumentError("seed= needs round=stochastic beside it");
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const Scheme* const> AllSchemes() {
#define QUANTD_SCHEME(name) &name##_scheme(),
  static const std::array kSchemes = {
#include "core/scheme/schemes.def"
  };
#undef QUANTD_SCHEME
  return kSchemes;
}

absl::StatusOr<const Scheme*> FindScheme(absl::string_view name) {
  for (const Scheme* scheme : AllSchemes()) {
    if (scheme->info.name == name) return scheme;
  }
  return absl::NotFoundError(absl::StrCat(
      "unknown scheme \"", name,
      "\"; known: ", absl::StrJoin(AllSchemes(), ", ", [](std::string* out, const Scheme* scheme) {
        absl::StrAppend(out, scheme->info.name);
      })));
}

absl::StatusOr<QuantSpec> CompleteSpec(const QuantSpec& spec, const SchemeInfo& info) {
  // The text form's own checks of values hold however the spec was made.
  QUANTD_ASSIGN_OR_RETURN(const QuantSpec read, ParseSpec(FormatSpec(spec)));
  if (read != spec) {
    return absl::InvalidArgumentError(absl::StrCat("spec ", FormatSpec(spec), " reads back as ",
                                                   FormatSpec(read),
                                                   "; names have only a-z, 0-9, _ and ."));
  }
  QuantSpec result = spec;
  const absl::string_view name = info.name;
  QUANTD_RETURN_IF_ERROR(CompleteGranularity(info, result));
  QUANTD_RETURN_IF_ERROR(CompleteRange(info, result));
  if (!spec.scale) QUANTD_RETURN_IF_ERROR(Complete(name, "mode", info.modes, result.mode));
  QUANTD_RETURN_IF_ERROR(Complete(name, "round", info.roundings, result.rounding));
  QUANTD_RETURN_IF_ERROR(CompleteSeed(result));
  QUANTD_RETURN_IF_ERROR(Complete(name, "scale_type", info.scale_types, result.scale_type));
  QUANTD_RETURN_IF_ERROR(CompleteName(name, "dialect", info.dialects, result.dialect));
  QUANTD_RETURN_IF_ERROR(CompleteName(name, "layout", info.layouts, result.layout));
  QUANTD_RETURN_IF_ERROR(Complete(name, "nonfinite", info.nonfinites, result.nonfinite));
  QUANTD_RETURN_IF_ERROR(Complete(name, "tail", info.tails, result.tail));
  if (result.incompatible.empty()) result.incompatible = "reject";
  if (result.incompatible != "reject" && result.incompatible != "keep") {
    QUANTD_RETURN_IF_ERROR(FindScheme(result.incompatible).status());
  }
  return result;
}

}  // namespace quantd
