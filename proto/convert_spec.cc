#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_detail.h"
#include "core/base/status_macros.h"
#include "core/scheme/registry.h"
#include "core/scheme/spec_keys.h"
#include "proto/convert.h"

// Specs and schemes as messages, by core's table of keys (core/scheme/spec_keys.h): each row says
// what its field is called, and a value goes through its text, so that the text form's checks of
// values hold here as well. Members of closed sets have the enum's number plus one, as zero is
// "unspecified". Messages within the spec are read and written by hand.
//
// Tested by tests/proto/convert_spec_test.cc, which also walks the descriptors for what differs.

namespace quantd {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;
using Spec = v1::QuantizationSpec;

struct WireKey {
  const SpecKey* key;
  const FieldDescriptor* field;
};

const std::vector<WireKey>& WireKeys() {
  static const std::vector<WireKey> keys = [] {
    std::vector<WireKey> found;
    for (const SpecKey& key : SpecKeys()) {
      const FieldDescriptor* field = Spec::descriptor()->FindFieldByName(std::string(key.field));
      if (field != nullptr) found.push_back({&key, field});
    }
    return found;
  }();
  return keys;
}

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  return WithField(absl::InvalidArgumentError(absl::StrCat(field, ": ", what)), field);
}

// Refuses text that could smuggle keys into the text form.
absl::Status CheckName(absl::string_view value, absl::string_view path) {
  const bool is_name = std::all_of(value.begin(), value.end(), [](const char& c) {
    return IsSpecName(absl::string_view(&c, 1)) || c == '.';
  });
  return is_name ? absl::OkStatus() : FieldError(path, "a name has only a-z, 0-9, _ and .");
}

// Returns the text of a field that the message has.
absl::StatusOr<std::string> TextOf(const Spec& message, const WireKey& wire,
                                   absl::string_view path) {
  const Reflection& reflection = *Spec::GetReflection();
  std::string text;
  if (wire.field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    text = reflection.GetString(message, wire.field);
    QUANTD_RETURN_IF_ERROR(CheckName(text, path));
  } else if (wire.field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    const int number = reflection.GetEnumValue(message, wire.field);
    const size_t count = wire.key->names.size();
    if (number < 1 || static_cast<size_t>(number) > count) {
      return WithField(absl::InvalidArgumentError(absl::StrCat(
                           path, "=", number, " is not a known value; use 1 to ", count)),
                       path);
    }
    text = std::string(wire.key->names[static_cast<size_t>(number) - 1]);
  } else if (wire.field->number() == Spec::kPerTensorFieldNumber) {
    text = "tensor";
  } else if (wire.field->number() == Spec::kBlockFieldNumber) {
    text = absl::StrCat(message.block().rows(), "x", message.block().cols());
  } else {
    TextFormat::PrintFieldValueToString(message, wire.field, -1, &text);
  }
  return text;
}

// Sets the field of a key, whose value is `text`.
void SetField(const WireKey& wire, const std::string& text, const QuantSpec& spec, Spec* message) {
  const Reflection& reflection = *Spec::GetReflection();
  if (wire.field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    reflection.SetString(message, wire.field, text);
  } else if (wire.field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    const auto& names = wire.key->names;
    const auto index = std::find(names.begin(), names.end(), text) - names.begin();
    reflection.SetEnumValue(message, wire.field, static_cast<int>(index) + 1);
  } else if (wire.field->number() == Spec::kPerTensorFieldNumber) {
    message->mutable_per_tensor();
  } else if (wire.field->number() == Spec::kBlockFieldNumber) {
    message->mutable_block()->set_rows(spec.granularity->block_rows);
    message->mutable_block()->set_cols(spec.granularity->block_cols);
  } else {
    TextFormat::ParseFieldValueFromString(text, wire.field, message);
  }
}

absl::StatusOr<QuantSpec> FromText(const Spec& message, absl::string_view path) {
  Spec rest = message;
  rest.clear_text();
  if (rest.ByteSizeLong() > 0) return FieldError(path, "excludes all other fields of the spec");
  absl::StatusOr<QuantSpec> spec = ParseSpec(message.text());
  return spec.ok() ? std::move(spec) : FieldError(path, spec.status().message());
}

}  // namespace

v1::QuantizationSpec ToProto(const QuantSpec& spec) {
  Spec message;
  message.set_scheme(spec.scheme);
  for (const WireKey& wire : WireKeys()) {
    const std::optional<std::string> text = wire.key->format(spec);
    if (text.has_value()) SetField(wire, *text, spec, &message);
  }
  if (spec.given_range) {  // which has a field of its own
    message.set_range(spec.range);
    *message.mutable_given_range() = ToProto(*spec.given_range);
  }
  return message;
}

absl::StatusOr<QuantSpec> FromProto(const v1::QuantizationSpec& message, absl::string_view field) {
  if (!message.text().empty()) return FromText(message, absl::StrCat(field, ".text"));
  const std::string scheme_path = absl::StrCat(field, ".scheme");
  if (message.scheme().empty())
    return FieldError(scheme_path, "missing; ListSchemes gives the names");
  QUANTD_RETURN_IF_ERROR(CheckName(message.scheme(), scheme_path));
  std::vector<std::string> settings;
  for (const WireKey& wire : WireKeys()) {
    if (!Spec::GetReflection()->HasField(message, wire.field)) continue;
    QUANTD_ASSIGN_OR_RETURN(const std::string text,
                            TextOf(message, wire, absl::StrCat(field, ".", wire.key->field)));
    settings.push_back(absl::StrCat(wire.key->name, "=", text));
  }
  if (message.has_given_range()) {
    const std::string path = absl::StrCat(field, ".given_range");
    if (!message.range().empty()) return FieldError(path, "excludes range; give one");
    QUANTD_ASSIGN_OR_RETURN(const Range range, FromProto(message.given_range(), path));
    settings.push_back(
        absl::StrCat("range=", FormatDouble(range.min), "..", FormatDouble(range.max)));
  }
  absl::StatusOr<QuantSpec> spec = ParseSpec(
      absl::StrCat(message.scheme(), settings.empty() ? "" : ":", absl::StrJoin(settings, ",")));
  return spec.ok() ? std::move(spec) : FieldError(field, spec.status().message());
}

v1::SchemeDescription ToProto(const Scheme& scheme) {
  const SchemeInfo& info = scheme.info;
  v1::SchemeDescription message;
  message.set_name(std::string(info.name));
  message.set_summary(std::string(info.summary));
  message.set_source(std::string(info.source));
  message.set_definition(info.definition);
  message.set_bits_per_code(info.bits_per_code);
  const QuantSpec plain = {.scheme = std::string(info.name)};
  message.set_default_spec(FormatSpec(CompleteSpec(plain, scheme).value_or(plain)));
  for (const Granularity& granularity : info.granularities) {
    const std::string kind(NameOf(granularity.kind));  // once, however many sizes there are
    const auto& listed = message.granularities();
    if (std::find(listed.begin(), listed.end(), kind) == listed.end())
      message.add_granularities(kind);
  }
  const Descriptor& lists = *v1::SchemeDescription::descriptor();
  for (const SpecKey& key : SpecKeys()) {
    const FieldDescriptor* list = lists.FindFieldByName(std::string(key.field));
    if (list == nullptr) list = lists.FindFieldByName(absl::StrCat(key.field, "s"));
    if (list == nullptr || key.choices == nullptr) continue;
    for (std::string& value : key.choices(info)) {
      message.GetReflection()->AddString(&message, list, std::move(value));
    }
  }
  return message;
}

}  // namespace quantd
