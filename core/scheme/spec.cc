#include "core/scheme/spec.h"

#include <array>
#include <charconv>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/base/status_macros.h"

namespace quantd {
namespace {

// Names of the closed sets, in the order of their enums.
constexpr std::array<absl::string_view, kNumGranularityKinds> kGranularityNames = {
    "per", "axis", "group", "block"};
constexpr std::array<absl::string_view, kNumModes> kModeNames = {"symmetric", "full", "asymmetric"};
constexpr std::array<absl::string_view, kNumRoundings> kRoundingNames = {
    "half_even", "half_away", "half_up", "half_down", "truncate", "floor", "ceil", "stochastic"};
constexpr std::array<absl::string_view, kNumScaleTypes> kScaleTypeNames = {"f32", "f16", "bf16",
                                                                           "pow2"};
constexpr std::array<absl::string_view, kNumNonFinites> kNonFiniteNames = {"reject", "saturate",
                                                                           "propagate"};
constexpr std::array<absl::string_view, kNumTails> kTailNames = {"reject", "short", "pad"};

constexpr absl::string_view kKnownKeys =
    "per, axis, group, block, mode, range, scale, zero, round, seed, scale_type, dialect, layout, "
    "nonfinite, tail, incompatible";

absl::Status BadValue(absl::string_view key, absl::string_view value, absl::string_view allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, "=", value, " is not allowed; use ", allowed));
}

template <typename Enum, size_t N>
absl::StatusOr<Enum> ParseEnum(const std::array<absl::string_view, N>& names, absl::string_view key,
                               absl::string_view value) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == value) return static_cast<Enum>(i);
  }
  return BadValue(key, value, absl::StrJoin(names, ", "));
}

absl::StatusOr<int64_t> ParsePositive(absl::string_view key, absl::string_view value) {
  int64_t result;
  if (!absl::SimpleAtoi(value, &result) || result < 1) {
    return BadValue(key, value, "a whole number of at least 1");
  }
  return result;
}

absl::StatusOr<double> ParseFinite(absl::string_view key, absl::string_view value) {
  double result;
  if (!absl::SimpleAtod(value, &result) || !std::isfinite(result)) {
    return BadValue(key, value, "a finite number");
  }
  return result;
}

bool IsName(absl::string_view text) {
  if (text.empty() || text.size() > 64) return false;
  for (const char c : text) {
    if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '_') return false;
  }
  return true;
}

absl::Status ParseGranularity(absl::string_view key, absl::string_view value, QuantSpec& spec) {
  if (spec.granularity.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        key, "=", value, " is a second granularity; give one of per, axis, group, block"));
  }
  Granularity granularity;
  if (key == "per") {
    if (value != "tensor") return BadValue(key, value, "tensor");
  } else if (key == "axis") {
    granularity.kind = GranularityKind::kAxis;
    if (!absl::SimpleAtoi(value, &granularity.axis) || granularity.axis < -1) {
      return BadValue(key, value, "a dimension's number, or -1 for the last");
    }
  } else if (key == "group") {
    granularity.kind = GranularityKind::kGroup;
    QUANTD_ASSIGN_OR_RETURN(granularity.group_elems, ParsePositive(key, value));
  } else {
    granularity.kind = GranularityKind::kBlock;
    const std::pair<absl::string_view, absl::string_view> sides =
        absl::StrSplit(value, absl::MaxSplits('x', 1));
    if (!absl::SimpleAtoi(sides.first, &granularity.block_rows) || granularity.block_rows < 1 ||
        !absl::SimpleAtoi(sides.second, &granularity.block_cols) || granularity.block_cols < 1) {
      return BadValue(key, value, "ROWSxCOLS, both at least 1");
    }
  }
  spec.granularity = granularity;
  return absl::OkStatus();
}

absl::Status ParseRange(absl::string_view value, QuantSpec& spec) {
  const std::pair<absl::string_view, absl::string_view> ends =
      absl::StrSplit(value, absl::MaxSplits("..", 1));
  if (value.find("..") == absl::string_view::npos) {
    for (const char c : value) {
      if (!IsName(absl::string_view(&c, 1)) && c != '.') {
        return BadValue("range", value, "a calibrator such as minmax or 3sigma, or MIN..MAX");
      }
    }
    if (value.empty()) return BadValue("range", value, "a calibrator such as minmax, or MIN..MAX");
    spec.range = std::string(value);
    return absl::OkStatus();
  }
  Range range;
  QUANTD_ASSIGN_OR_RETURN(range.min, ParseFinite("range", ends.first));
  QUANTD_ASSIGN_OR_RETURN(range.max, ParseFinite("range", ends.second));
  if (range.min > range.max) return BadValue("range", value, "MIN..MAX with MIN at most MAX");
  spec.given_range = range;
  return absl::OkStatus();
}

absl::Status ParseNumbers(absl::string_view key, absl::string_view value, QuantSpec& spec) {
  if (key == "scale") {
    QUANTD_ASSIGN_OR_RETURN(spec.scale, ParseFinite(key, value));
    if (*spec.scale <= 0) return BadValue(key, value, "a number above 0");
  } else if (key == "zero") {
    int64_t zero_point;
    if (!absl::SimpleAtoi(value, &zero_point)) return BadValue(key, value, "a whole number");
    spec.zero_point = zero_point;
  } else {
    uint64_t seed;
    if (!absl::SimpleAtoi(value, &seed)) return BadValue(key, value, "0 to 18446744073709551615");
    spec.seed = seed;
  }
  return absl::OkStatus();
}

absl::Status ParseName(absl::string_view key, absl::string_view value, std::string& out) {
  if (!IsName(value)) return BadValue(key, value, "a name of a-z, 0-9, _");
  out = std::string(value);
  return absl::OkStatus();
}

absl::Status ParseField(absl::string_view key, absl::string_view value, QuantSpec& spec) {
  if (key == "per" || key == "axis" || key == "group" || key == "block") {
    return ParseGranularity(key, value, spec);
  }
  if (key == "range") return ParseRange(value, spec);
  if (key == "scale" || key == "zero" || key == "seed") return ParseNumbers(key, value, spec);
  if (key == "dialect") return ParseName(key, value, spec.dialect);
  if (key == "layout") return ParseName(key, value, spec.layout);
  if (key == "incompatible") return ParseName(key, value, spec.incompatible);
  if (key == "mode") {
    QUANTD_ASSIGN_OR_RETURN(spec.mode, ParseEnum<Mode>(kModeNames, key, value));
  } else if (key == "round") {
    QUANTD_ASSIGN_OR_RETURN(spec.rounding, ParseEnum<Rounding>(kRoundingNames, key, value));
  } else if (key == "scale_type") {
    QUANTD_ASSIGN_OR_RETURN(spec.scale_type, ParseEnum<ScaleType>(kScaleTypeNames, key, value));
  } else if (key == "nonfinite") {
    QUANTD_ASSIGN_OR_RETURN(spec.nonfinite, ParseEnum<NonFinite>(kNonFiniteNames, key, value));
  } else if (key == "tail") {
    QUANTD_ASSIGN_OR_RETURN(spec.tail, ParseEnum<Tail>(kTailNames, key, value));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown key \"", key, "\" in the spec; known: ", kKnownKeys));
  }
  return absl::OkStatus();
}

std::string FormatGranularity(const Granularity& granularity) {
  switch (granularity.kind) {
    case GranularityKind::kTensor:
      return "per=tensor";
    case GranularityKind::kAxis:
      return absl::StrCat("axis=", granularity.axis);
    case GranularityKind::kGroup:
      return absl::StrCat("group=", granularity.group_elems);
    case GranularityKind::kBlock:
      return absl::StrCat("block=", granularity.block_rows, "x", granularity.block_cols);
  }
  return "";
}

}  // namespace

absl::StatusOr<QuantSpec> ParseSpec(absl::string_view text) {
  if (text.size() > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("spec has ", text.size(), " characters; at most 1024 are allowed"));
  }
  QuantSpec spec;
  const std::pair<absl::string_view, absl::string_view> halves =
      absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (!IsName(halves.first)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "spec \"", text, "\" does not start with a scheme; use SCHEME[:key=value,...]"));
  }
  spec.scheme = std::string(halves.first);
  if (halves.second.empty()) return spec;
  std::vector<absl::string_view> seen;
  for (const absl::string_view field : absl::StrSplit(halves.second, ',')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(field, absl::MaxSplits('=', 1));
    for (const absl::string_view key : seen) {
      if (key == parts.first) {
        return absl::InvalidArgumentError(
            absl::StrCat("key \"", key, "\" stands twice in the spec"));
      }
    }
    seen.push_back(parts.first);
    QUANTD_RETURN_IF_ERROR(ParseField(parts.first, parts.second, spec));
  }
  return spec;
}

std::string FormatDouble(double value) {
  std::array<char, 40> text;
  const std::to_chars_result result = std::to_chars(text.data(), text.data() + text.size(), value);
  return std::string(text.data(), result.ptr);
}

std::string FormatSpec(const QuantSpec& spec) {
  std::vector<std::string> fields;
  const auto add = [&fields](absl::string_view key, absl::string_view value) {
    fields.push_back(absl::StrCat(key, "=", value));
  };
  if (spec.granularity) fields.push_back(FormatGranularity(*spec.granularity));
  if (spec.mode) add("mode", NameOf(*spec.mode));
  if (!spec.range.empty()) add("range", spec.range);
  if (spec.given_range) {
    add("range", absl::StrCat(FormatDouble(spec.given_range->min), "..",
                              FormatDouble(spec.given_range->max)));
  }
  if (spec.scale) add("scale", FormatDouble(*spec.scale));
  if (spec.zero_point) add("zero", absl::StrCat(*spec.zero_point));
  if (spec.rounding) add("round", NameOf(*spec.rounding));
  if (spec.seed) add("seed", absl::StrCat(*spec.seed));
  if (spec.scale_type) add("scale_type", NameOf(*spec.scale_type));
  if (!spec.dialect.empty()) add("dialect", spec.dialect);
  if (!spec.layout.empty()) add("layout", spec.layout);
  if (spec.nonfinite) add("nonfinite", NameOf(*spec.nonfinite));
  if (spec.tail) add("tail", NameOf(*spec.tail));
  if (!spec.incompatible.empty()) add("incompatible", spec.incompatible);
  if (fields.empty()) return spec.scheme;
  return absl::StrCat(spec.scheme, ":", absl::StrJoin(fields, ","));
}

absl::string_view NameOf(GranularityKind kind) {
  return kGranularityNames[static_cast<size_t>(kind)];
}
absl::string_view NameOf(Mode mode) { return kModeNames[static_cast<size_t>(mode)]; }
absl::string_view NameOf(Rounding rounding) {
  return kRoundingNames[static_cast<size_t>(rounding)];
}
absl::string_view NameOf(ScaleType type) { return kScaleTypeNames[static_cast<size_t>(type)]; }
absl::string_view NameOf(NonFinite nonfinite) {
  return kNonFiniteNames[static_cast<size_t>(nonfinite)];
}
absl::string_view NameOf(Tail tail) { return kTailNames[static_cast<size_t>(tail)]; }

}  // namespace quantd
