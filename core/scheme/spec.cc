// The text form of specs, SCHEME[:key=value,...], read and written by the rows of spec_keys.h. What
// FormatSpec writes ParseSpec reads back to an equal spec, numbers to the last bit; a key may stand
// once, in any order when read.
//
// Entries: ParseSpec and FormatSpec. Tested by tests/core/scheme/spec_test.cc and
// tests/fuzz/spec_fuzz.cc.
#include "core/scheme/spec.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/similar.h"
#include "core/base/status_macros.h"
#include "core/scheme/registry.h"
#include "core/scheme/spec_keys.h"

namespace quantd {
namespace {

absl::Status UnknownKey(absl::string_view name) {
  std::vector<std::string> names;
  for (const SpecKey& key : SpecKeys()) names.emplace_back(key.name);
  return absl::InvalidArgumentError(absl::StrCat("unknown key \"", name, "\" in the spec",
                                                 DidYouMean(name, names),
                                                 "; known: ", absl::StrJoin(names, ", ")));
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
  if (!IsSpecName(halves.first)) {
    std::vector<std::string> schemes;
    for (const Scheme* scheme : AllSchemes()) schemes.emplace_back(scheme->info.name);
    return absl::InvalidArgumentError(
        absl::StrCat("spec \"", text, "\" does not start with a scheme; use SCHEME[:key=value,...]",
                     DidYouMean(halves.first, schemes)));
  }
  spec.scheme = std::string(halves.first);
  if (halves.second.empty()) return spec;
  std::vector<const SpecKey*> seen;
  for (const absl::string_view field : absl::StrSplit(halves.second, ',')) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(field, absl::MaxSplits('=', 1));
    const SpecKey* key = FindSpecKey(parts.first);
    if (key == nullptr) {
      return UnknownKey(parts.first);
    }
    if (std::find(seen.begin(), seen.end(), key) != seen.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("key \"", key->name, "\" stands twice in the spec"));
    }
    seen.push_back(key);
    QUANTD_RETURN_IF_ERROR(key->parse(*key, parts.second, spec));
  }
  return spec;
}

std::string FormatDouble(double value) {
  std::array<char, 40> text;
  const std::to_chars_result result = std::to_chars(text.data(), text.data() + text.size(), value);
  return std::string(text.data(), result.ptr);
}

std::string FormatSpec(const QuantSpec& spec) {
  std::string text = spec.scheme;
  char separator = ':';
  for (const SpecKey& key : SpecKeys()) {
    const std::optional<std::string> value = key.format(spec);
    if (!value.has_value()) continue;
    absl::StrAppend(&text, std::string(1, separator), key.name, "=", *value);
    separator = ',';
  }
  return text;
}

}  // namespace quantd
