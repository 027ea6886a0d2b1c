// What a spec can say, as a table: a row has a key's name and what it takes, and the functions that
// read it, write it, fill it in and check it. All else walks the rows: ParseSpec and FormatSpec,
// CompleteSpec, the converter of messages, `quantctl schemes --keys`.
//
//   text --parse--> member of QuantSpec --format--> the same text
//                   absent and is_open? <-- the dialect's, then the scheme's default, as text
//                   check, against what the scheme lists and against the other keys
//
// Most rows are a member of QuantSpec (spec_member.h) and nothing else. The rules of the others
// stand above the table: per=, axis=, group= and block= share one member, so that a second one of
// them is refused; scale= closes mode= and range=, which stay absent in int8:scale=0.02, where int8
// alone gets symmetric and minmax.
//
// The order of rows is that of the text form, and that in which defaults are filled in: seed= comes
// after round=, since only round=stochastic opens it.
//
// Entry: SpecKeys. Tested by tests/core/scheme/spec_keys_test.cc, spec_test.cc, registry_test.cc
// and tests/proto/convert_spec_test.cc.
#include "core/scheme/spec_keys.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"
#include "core/scheme/registry.h"
#include "core/scheme/scheme.h"
#include "core/scheme/spec_member.h"

namespace quantd {
namespace {

using absl::InvalidArgumentError;
using absl::StrCat;
using Texts = std::vector<std::string>;

// per=, axis=, group=, block=: one member has at most one of them.
std::string ValueOf(const Granularity& granularity) {
  switch (granularity.kind) {
    case GranularityKind::kTensor:
      return "tensor";
    case GranularityKind::kAxis:
      return StrCat(granularity.axis);
    case GranularityKind::kGroup:
      return StrCat(granularity.group_elems);
    case GranularityKind::kBlock:
      return StrCat(granularity.block_rows, "x", granularity.block_cols);
  }
  return "";
}

bool ReadGranularity(absl::string_view value, Granularity& out) {
  switch (out.kind) {
    case GranularityKind::kTensor:
      return value == "tensor";
    case GranularityKind::kAxis:
      return ReadText(value, out.axis) && out.axis >= -1;
    case GranularityKind::kGroup:
      return ReadText(value, out.group_elems) &&
             (out.group_elems >= 1 || out.group_elems == kWholeRow);
    case GranularityKind::kBlock:
      const std::pair<absl::string_view, absl::string_view> sides =
          absl::StrSplit(value, absl::MaxSplits('x', 1));
      return ReadText(sides.first, out.block_rows) && out.block_rows >= 1 &&
             ReadText(sides.second, out.block_cols) && out.block_cols >= 1;
  }
  return false;
}

absl::Status CheckGranularity(const SpecKey& key, const SchemeInfo& info, const QuantSpec& spec) {
  if (!key.format(spec).has_value()) return absl::OkStatus();
  Texts has;
  for (const Granularity& allowed : info.granularities) {
    // A group whose size is stated is the only one that the scheme takes.
    const bool any_size = allowed.kind == spec.granularity->kind && allowed.group_elems == 0;
    if (any_size || allowed == *spec.granularity) return absl::OkStatus();
    has.push_back(StrCat(NameOf(allowed.kind), "="));
    if (allowed.kind == GranularityKind::kTensor) has.back() += "tensor";
    if (allowed.group_elems != 0) absl::StrAppend(&has.back(), allowed.group_elems);
  }
  return InvalidArgumentError(StrCat(info.name, ":", key.name, "=", ValueOf(*spec.granularity),
                                     " is a granularity that the scheme does not have; it has ",
                                     has.empty() ? "none" : absl::StrJoin(has, ", ")));
}

template <GranularityKind kKind>
constexpr SpecKey GranularityKey(SpecKey row) {
  row.name = NameOf(kKind);
  row.parse = [](const SpecKey& key, absl::string_view value, QuantSpec& spec) {
    if (spec.granularity.has_value()) {
      return InvalidArgumentError(StrCat(key.name, "=", value,
                                         " is a second granularity; give one of ",
                                         absl::StrJoin(kNamesOf<GranularityKind>, ", ")));
    }
    spec.granularity = Granularity{.kind = kKind};
    if (ReadGranularity(value, *spec.granularity)) return absl::OkStatus();
    if (kKind != GranularityKind::kTensor) return BadValue(key, value);
    // per=axis, per=channel, per=row ...: what is meant has a number.
    return InvalidArgumentError(
        StrCat("per=", value, " is not allowed; use per=tensor, axis=0 for parameters by index of "
               "dimension 0, group=128 by runs on the last axis, group=-1 by its rows, or block=RxC"));
  };
  row.format = [](const QuantSpec& spec) -> std::optional<std::string> {
    if (!spec.granularity || spec.granularity->kind != kKind) return std::nullopt;
    return ValueOf(*spec.granularity);
  };
  row.is_open = [](const QuantSpec& spec) { return !spec.granularity.has_value(); };
  row.choices = [](const SchemeInfo& info) {  // the default of all four is the scheme's first
    const auto& all = info.granularities;
    const bool is_default =
        !all.empty() && all.front().kind == kKind && !info.granularity_optional;
    return is_default ? Texts{ValueOf(all.front())} : Texts{};
  };
  row.check = CheckGranularity;
  return row;
}

// range=, which names a calibrator or gives the range; scale= and zero= instead of it.
bool HasRange(const QuantSpec& spec) { return !spec.range.empty() || spec.given_range; }

absl::Status ParseRange(const SpecKey& key, absl::string_view value, QuantSpec& spec) {
  if (value.find("..") == absl::string_view::npos) {
    const bool is_name = std::all_of(value.begin(), value.end(), [](const char& c) {
      return IsSpecName(absl::string_view(&c, 1)) || c == '.';
    });
    if (value.empty() || !is_name) return BadValue(key, value);
    spec.range = std::string(value);
    return absl::OkStatus();
  }
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(value, absl::MaxSplits("..", 1));
  Range& range = spec.given_range.emplace();
  for (const bool is_min : {true, false}) {
    const absl::string_view end = is_min ? ends.first : ends.second;
    if (ReadText(end, is_min ? range.min : range.max)) continue;
    return InvalidArgumentError(StrCat("range=", end, " is not allowed; use a finite number"));
  }
  if (range.min <= range.max) return absl::OkStatus();
  return InvalidArgumentError(
      StrCat("range=", value, " is not allowed; use MIN..MAX with MIN at most MAX"));
}

std::optional<std::string> FormatRange(const QuantSpec& spec) {
  if (!spec.given_range) return FormatMember<&QuantSpec::range>(spec);
  return StrCat(FormatDouble(spec.given_range->min), "..", FormatDouble(spec.given_range->max));
}

absl::Status CheckRange(const SpecKey&, const SchemeInfo& info, const QuantSpec& spec) {
  if (!HasRange(spec)) return absl::OkStatus();
  if (!info.takes_range) {
    return InvalidArgumentError(StrCat("scheme ", info.name, " takes no range="));
  }
  if (!spec.scale) return absl::OkStatus();
  return InvalidArgumentError("scale= and range= exclude each other; give one");
}

absl::Status ParseScale(const SpecKey& key, absl::string_view value, QuantSpec& spec) {
  QUANTD_RETURN_IF_ERROR(ParseMember<&QuantSpec::scale>(key, value, spec));
  return *spec.scale > 0 ? absl::OkStatus() : BadValue(key, value);
}

absl::Status ParseOutliers(const SpecKey& key, absl::string_view value, QuantSpec& spec) {
  QUANTD_RETURN_IF_ERROR(ParseMember<&QuantSpec::outliers>(key, value, spec));
  return *spec.outliers >= 1 ? absl::OkStatus() : BadValue(key, value);
}

absl::Status CheckScale(const SpecKey&, const SchemeInfo& info, const QuantSpec& spec) {
  if ((spec.scale || spec.zero_point) && !info.takes_scale) {
    return InvalidArgumentError(StrCat("scheme ", info.name, " takes no scale= or zero="));
  }
  if (!spec.zero_point) return absl::OkStatus();
  if (!spec.scale) return InvalidArgumentError("zero= needs scale= beside it");
  const int digits = info.bits - (info.is_signed ? 1 : 0);  // at most 63
  const int64_t max_code = static_cast<int64_t>((uint64_t{1} << digits) - 1);
  const int64_t min_code = info.is_signed ? -max_code - 1 : 0;
  if (*spec.zero_point >= min_code && *spec.zero_point <= max_code) return absl::OkStatus();
  return InvalidArgumentError(StrCat("zero=", *spec.zero_point, " is not a code of ", info.name,
                                     "; use ", min_code, " to ", max_code));
}

absl::Status CheckMode(const SpecKey& key, const SchemeInfo& info, const QuantSpec& spec) {
  if (!spec.scale || !spec.mode) return CheckListed(key, info, spec);
  return InvalidArgumentError("mode= does not apply beside scale=, which uses all codes");
}

absl::Status CheckSeed(const SpecKey&, const SchemeInfo&, const QuantSpec& spec) {
  if (!spec.seed || spec.rounding == Rounding::kStochastic) return absl::OkStatus();
  return InvalidArgumentError("seed= needs round=stochastic beside it");
}

absl::Status CheckIncompatible(const SpecKey&, const SchemeInfo&, const QuantSpec& spec) {
  if (spec.incompatible == "reject" || spec.incompatible == "keep") return absl::OkStatus();
  return FindScheme(spec.incompatible).status();
}

constexpr absl::string_view kPerValues[] = {"tensor"};
constexpr absl::string_view kName = "a name of a-z, 0-9, _";

constexpr SpecKey kKeys[] = {
    GranularityKey<GranularityKind::kTensor>(
        {.field = "per_tensor", .help = "all elements share parameters", .names = kPerValues}),
    GranularityKey<GranularityKind::kAxis>(
        {.field = "axis",
         .help = "elements of the same index in this dimension share parameters",
         .takes = "a dimension's number, or -1 for the last"}),
    GranularityKey<GranularityKind::kGroup>(
        {.field = "group_elems",
         .help = "runs of so many elements on the last axis share parameters",
         .takes = "a whole number of at least 1, or -1 for the whole axis"}),
    GranularityKey<GranularityKind::kBlock>(
        {.field = "block",
         .help = "blocks of the last two dimensions share parameters",
         .takes = "ROWSxCOLS, both at least 1"}),
    ListedKey<&QuantSpec::mode, &SchemeInfo::modes>(
        {.name = "mode",
         .field = "mode",
         .help = "how integer code ranges are used",
         .is_open = [](const QuantSpec& spec) { return !spec.mode && !spec.scale; },
         .check = CheckMode}),
    {.name = "range",
     .field = "range",
     .help = "how ranges are found, or the range of all groups",
     .takes = "minmax, 3sigma, p99.9 or the like, or MIN..MAX",
     .parse = ParseRange,
     .format = FormatRange,
     .is_open = [](const QuantSpec& spec) { return !HasRange(spec) && !spec.scale; },
     .choices = [](const SchemeInfo& info) { return Texts(info.takes_range ? 1 : 0, "minmax"); },
     .check = CheckRange},
    {.name = "scale",
     .field = "scale",
     .help = "the scale of all groups, instead of a range",
     .takes = "a finite number above 0",
     .parse = ParseScale,
     .format = FormatMember<&QuantSpec::scale>,
     .check = CheckScale},
    MemberKey<&QuantSpec::zero_point>({.name = "zero",
                                       .field = "zero_point",
                                       .help = "the zero point that goes with scale, in codes",
                                       .takes = "a whole number",
                                       .check = CheckScale}),
    ListedKey<&QuantSpec::rounding, &SchemeInfo::roundings>(
        {.name = "round", .field = "rounding", .help = "how values between two codes are rounded"}),
    MemberKey<&QuantSpec::seed>({.name = "seed",
                                 .field = "seed",
                                 .help = "seed of stochastic rounding",
                                 .takes = "0 to 18446744073709551615",
                                 .is_open =
                                     [](const QuantSpec& spec) {
                                       return !spec.seed && spec.rounding == Rounding::kStochastic;
                                     },
                                 .choices = [](const SchemeInfo&) { return Texts{"0"}; },
                                 .check = CheckSeed}),
    ListedKey<&QuantSpec::scale_type, &SchemeInfo::scale_types>(
        {.name = "scale_type", .field = "scale_type", .help = "what stored scales are rounded to"}),
    ListedKey<&QuantSpec::levels, &SchemeInfo::levels>({.name = "levels",
                                                        .field = "levels",
                                                        .help = "how many levels a codebook has",
                                                        .takes = "a whole number"}),
    ListedKey<&QuantSpec::dialect, &SchemeInfo::dialects>(
        {.name = "dialect",
         .field = "dialect",
         .help = "whose rule applies where projects disagree",
         .takes = kName}),
    ListedKey<&QuantSpec::layout, &SchemeInfo::layouts>(
        {.name = "layout",
         .field = "layout",
         .help = "packing order where consumers differ",
         .takes = kName}),
    ListedKey<&QuantSpec::nonfinite, &SchemeInfo::nonfinites>(
        {.name = "nonfinite", .field = "non_finite", .help = "what happens to NaN and infinities"}),
    ListedKey<&QuantSpec::tail, &SchemeInfo::tails>(
        {.name = "tail",
         .field = "tail",
         .help = "what happens where a group does not divide its axis"}),
    {.name = "outliers",
     .field = "outliers",
     .help = "how many of the largest values of each row are kept exactly, beside the codes",
     .takes = "a whole number of at least 1",
     .parse = ParseOutliers,
     .format = FormatMember<&QuantSpec::outliers>},
    MemberKey<&QuantSpec::incompatible>(
        {.name = "incompatible",
         .field = "incompatible",
         .help = "what happens to shapes that the scheme cannot take: reject, keep, or a scheme",
         .takes = kName,
         .choices = [](const SchemeInfo&) { return Texts{"reject"}; },
         .check = CheckIncompatible}),
};

}  // namespace

std::string SpecKey::Values() const {
  return names.empty() ? std::string(takes) : absl::StrJoin(names, ", ");
}

std::optional<std::string> SpecKey::Default(const SchemeInfo& info) const {
  if (choices == nullptr) return std::nullopt;
  const std::vector<std::string> all = choices(info);
  return all.empty() ? std::nullopt : std::optional(all.front());
}

std::span<const SpecKey> SpecKeys() { return kKeys; }

const SpecKey* FindSpecKey(absl::string_view name) {
  for (const SpecKey& key : kKeys) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

bool IsSpecName(absl::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  });
}

}  // namespace quantd
