#ifndef QUANTD_CORE_SCHEME_SPEC_KEYS_H_
#define QUANTD_CORE_SCHEME_SPEC_KEYS_H_

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "core/scheme/spec.h"

namespace quantd {

struct SchemeInfo;

// The keys of a spec, one row each. ParseSpec, FormatSpec and CompleteSpec walk the rows, and so do
// the converter of messages, ListSchemes, `quantctl schemes --keys` and the shell's completion.
//
// To add a key: a member of QuantSpec, a row in spec_keys.cc, and in quantization.proto a field
// called as the row says. If schemes list what they take, also a list in SchemeInfo and in
// SchemeDescription, which is called like the field or its plural in -s. To add a value to a closed
// set: the enumerator, its name in kNamesOf, and the wire's enumerator of the next number.
//
// tests/core/scheme/spec_keys_test.cc takes each pair of keys to text and back,
// tests/proto/convert_spec_test.cc to messages and back, and finds what the wire lacks.
struct SpecKey {
  absl::string_view name;                    // in the text form
  absl::string_view field;                   // of quantd.v1.QuantizationSpec
  absl::string_view help;                    // what it says, in a line
  std::span<const absl::string_view> names;  // all values of a closed set, in the enum's order
  absl::string_view takes;                   // values of an open set, in words

  // Takes `value` into the spec, or says what is allowed.
  absl::Status (*parse)(const SpecKey&, absl::string_view value, QuantSpec&);
  // Returns the value that `parse` reads back; nullopt: the spec has none.
  std::optional<std::string> (*format)(const QuantSpec&);
  // True if a default may fill the key. Null: wherever it has no value.
  bool (*is_open)(const QuantSpec&) = nullptr;
  // Returns values that the scheme has, its default first. Null: it has no default.
  std::vector<std::string> (*choices)(const SchemeInfo&) = nullptr;
  // Refuses a value that the scheme does not take, or not beside the others. Null: never.
  absl::Status (*check)(const SpecKey&, const SchemeInfo&, const QuantSpec&) = nullptr;

  bool IsOpen(const QuantSpec& spec) const {
    return is_open != nullptr ? is_open(spec) : !format(spec).has_value();
  }
  // Returns what fills the key where nothing else does; nullopt: nothing.
  std::optional<std::string> Default(const SchemeInfo& info) const;
  // Returns what the key takes, in words.
  std::string Values() const;
};

// Returns the rows, in the order of the text form. Thread-safe.
std::span<const SpecKey> SpecKeys();

// Returns the row of `name`, or null. Thread-safe.
const SpecKey* FindSpecKey(absl::string_view name);

// True for what schemes, dialects and layouts may be called: 1 to 64 of a-z, 0-9, _.
bool IsSpecName(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SPEC_KEYS_H_
