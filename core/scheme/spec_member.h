#ifndef QUANTD_CORE_SCHEME_SPEC_MEMBER_H_
#define QUANTD_CORE_SCHEME_SPEC_MEMBER_H_

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/scheme/scheme.h"
#include "core/scheme/spec_keys.h"

// Rows of the table of keys for what is one member of QuantSpec, and perhaps a list in SchemeInfo:
// the type of the member says all else. For spec_keys.cc alone.
namespace quantd {

inline absl::Status BadValue(const SpecKey& key, absl::string_view value) {
  return absl::InvalidArgumentError(
      absl::StrCat(key.name, "=", value, " is not allowed; use ", key.Values()));
}

// Return the text of a value.
inline std::string TextOf(double value) { return FormatDouble(value); }
inline std::string TextOf(absl::string_view value) { return std::string(value); }
inline std::string TextOf(const Dialect& dialect) { return std::string(dialect.name); }
template <typename T>
std::string TextOf(T value) {
  if constexpr (std::is_enum_v<T>) {
    return std::string(NameOf(value));
  } else {
    return absl::StrCat(value);
  }
}

// Read a value, and return false where the text is none.
inline bool ReadText(absl::string_view text, double& out) {
  return absl::SimpleAtod(text, &out) && std::isfinite(out);
}
inline bool ReadText(absl::string_view text, std::string& out) {
  out = std::string(text);
  return IsSpecName(text);
}
template <typename T>
bool ReadText(absl::string_view text, T& out) {
  if constexpr (std::is_enum_v<T>) {
    const auto found = std::find(std::begin(kNamesOf<T>), std::end(kNamesOf<T>), text);
    out = static_cast<T>(found - std::begin(kNamesOf<T>));
    return found != std::end(kNamesOf<T>);
  } else {
    return absl::SimpleAtoi(text, &out);
  }
}

// A member is an optional, or a text that is absent where it is empty.
template <auto kMember>
absl::Status ParseMember(const SpecKey& key, absl::string_view value, QuantSpec& spec) {
  auto& member = spec.*kMember;
  bool ok;
  if constexpr (requires { member.has_value(); }) {
    ok = ReadText(value, member.emplace());
  } else {
    ok = ReadText(value, member);
  }
  return ok ? absl::OkStatus() : BadValue(key, value);
}

template <auto kMember>
std::optional<std::string> FormatMember(const QuantSpec& spec) {
  const auto& member = spec.*kMember;
  if constexpr (requires { member.has_value(); }) {
    return member ? std::optional(TextOf(*member)) : std::nullopt;
  } else {
    return member.empty() ? std::nullopt : std::optional(member);
  }
}

template <auto kList>
std::vector<std::string> ListOf(const SchemeInfo& info) {
  std::vector<std::string> texts;
  texts.reserve((info.*kList).size());
  for (const auto& item : info.*kList) texts.push_back(TextOf(item));
  return texts;
}

// Refuses what is not among the key's choices.
inline absl::Status CheckListed(const SpecKey& key, const SchemeInfo& info, const QuantSpec& spec) {
  const std::optional<std::string> value = key.format(spec);
  if (!value.has_value()) return absl::OkStatus();
  const std::vector<std::string> has = key.choices(info);
  if (std::find(has.begin(), has.end(), *value) != has.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("scheme ", info.name, " does not have ", key.name, "=", *value, "; it has ",
                   has.empty() ? "nothing for this key" : absl::StrJoin(has, ", ")));
}

// Returns `row`, completed to that of a member.
template <auto kMember>
constexpr SpecKey MemberKey(SpecKey row) {
  using Member = std::remove_reference_t<decltype(std::declval<QuantSpec&>().*kMember)>;
  using Value = typename Member::value_type;
  if constexpr (std::is_enum_v<Value>) row.names = kNamesOf<Value>;
  row.parse = ParseMember<kMember>;
  row.format = FormatMember<kMember>;
  return row;
}

// The same of a member of which each scheme lists the values that it has.
template <auto kMember, auto kList>
constexpr SpecKey ListedKey(SpecKey row) {
  row = MemberKey<kMember>(row);
  row.choices = ListOf<kList>;
  if (row.check == nullptr) row.check = CheckListed;
  return row;
}

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SPEC_MEMBER_H_
