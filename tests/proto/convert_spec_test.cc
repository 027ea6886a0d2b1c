#include <google/protobuf/descriptor.h>
#include <gtest/gtest.h>

#include <limits>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/scheme/registry.h"
#include "core/scheme/spec_keys.h"
#include "proto/convert.h"
#include "tests/support/settings.h"

namespace quantd {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

// Checks that the wire's enum has the key's names, in order, after "unspecified".
void ExpectSameNames(const EnumDescriptor& wire, const SpecKey& key) {
  absl::string_view prefix = wire.FindValueByNumber(0)->name();
  ASSERT_TRUE(absl::ConsumeSuffix(&prefix, "UNSPECIFIED")) << prefix;
  ASSERT_EQ(static_cast<size_t>(wire.value_count()), key.names.size() + 1) << wire.name();
  for (size_t i = 0; i < key.names.size(); ++i) {
    const auto* value = wire.FindValueByNumber(static_cast<int>(i) + 1);
    ASSERT_NE(value, nullptr) << wire.name() << " lacks " << key.names[i];
    EXPECT_EQ(value->name(), absl::StrCat(prefix, absl::AsciiStrToUpper(key.names[i])));
  }
}

TEST(SpecFields, HaveNotDriftedFromTheKeys) {
  std::set<std::string> fields = {"text", "scheme", "given_range"};  // which are no keys
  for (const SpecKey& key : SpecKeys()) {
    fields.insert(std::string(key.field));
    const FieldDescriptor* field =
        v1::QuantizationSpec::descriptor()->FindFieldByName(std::string(key.field));
    ASSERT_NE(field, nullptr) << "no field of QuantizationSpec is called " << key.field;
    const bool is_enum = field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM;
    EXPECT_EQ(is_enum, !key.names.empty() && key.name != "per") << key.name;
    if (is_enum) ExpectSameNames(*field->enum_type(), key);
  }
  for (int i = 0; i < v1::QuantizationSpec::descriptor()->field_count(); ++i) {
    const std::string& name = v1::QuantizationSpec::descriptor()->field(i)->name();
    EXPECT_EQ(fields.count(name), 1u) << "no key has the field " << name;
  }
}

TEST(SchemeFields, HaveNotDriftedFromTheKeys) {
  const std::set<absl::string_view> told_otherwise = {"per", "axis", "group", "block", "range"};
  const auto& description = *v1::SchemeDescription::descriptor();
  for (const SpecKey& key : SpecKeys()) {
    const bool is_listed = key.choices != nullptr && key.choices(SchemeInfo{}).empty();
    if (!is_listed || told_otherwise.count(key.name) != 0) continue;
    const std::string field(key.field);
    EXPECT_TRUE(description.FindFieldByName(field) || description.FindFieldByName(field + "s"))
        << "SchemeDescription does not list " << field;
  }
}

TEST(Spec, EachPairOfKeysGoesThroughTheMessage) {
  std::vector<std::string> texts = testing::PairwiseSpecs();
  texts.push_back(
      "uint8:axis=-1,mode=symmetric,range=p99.9,round=half_down,seed=0,scale_type=pow2,dialect="
      "onnx,"
      "layout=low_nibble_first,nonfinite=propagate,tail=pad,incompatible=keep");
  for (const std::string& text : texts) {
    const auto spec = ParseSpec(text);
    ASSERT_TRUE(spec.ok()) << spec.status();
    const auto through_fields = FromProto(ToProto(*spec));
    ASSERT_TRUE(through_fields.ok()) << text << ": " << through_fields.status();
    ASSERT_EQ(*through_fields, *spec) << text;
    v1::QuantizationSpec message;
    message.set_text(text);
    const auto through_text = FromProto(message);
    ASSERT_TRUE(through_text.ok()) << text << ": " << through_text.status();
    ASSERT_EQ(*through_text, *spec) << text;
  }
}

void ExpectError(const absl::Status& status, absl::string_view part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(part), absl::string_view::npos) << status << " lacks " << part;
}

TEST(Spec, ErrorsNameTheField) {
  const auto error_of = [](auto change) {
    v1::QuantizationSpec message;
    message.set_scheme("int8");
    change(message);
    return FromProto(message).status();
  };
  using Spec = v1::QuantizationSpec;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  ExpectError(error_of([](Spec& s) { s.clear_scheme(); }), "spec.scheme: missing");
  ExpectError(error_of([](Spec& s) { s.set_scheme("int8:axis=0"); }), "spec.scheme");
  ExpectError(error_of([](Spec& s) { s.set_text("int8"); }), "spec.text: excludes all other");
  ExpectError(error_of([](Spec& s) {
                s.Clear();
                s.set_text("int8:bits=4");
              }),
              "spec.text: unknown key \"bits\"");
  ExpectError(error_of([](Spec& s) { s.set_dialect("onnx,scale=2"); }), "spec.dialect");
  ExpectError(error_of([](Spec& s) { s.set_rounding(static_cast<v1::Rounding>(77)); }),
              "spec.rounding=77 is not a known value; use 1 to 8");
  ExpectError(error_of([](Spec& s) { s.set_axis(-2); }), "spec: axis=-2");
  ExpectError(error_of([](Spec& s) { s.set_group_elems(0); }), "spec: group=0");
  ExpectError(error_of([](Spec& s) { s.set_group_elems(-2); }), "spec: group=-2");
  ExpectError(error_of([](Spec& s) { s.mutable_block()->set_rows(4); }), "spec: block=4x0");
  ExpectError(error_of([nan](Spec& s) { s.set_scale(nan); }), "spec: scale=nan");
  ExpectError(error_of([](Spec& s) { s.set_scale(-1); }), "spec: scale=-1");
  ExpectError(error_of([nan](Spec& s) { s.mutable_given_range()->set_max(nan); }),
              "spec.given_range: 0..nan");
  ExpectError(error_of([](Spec& s) {
                s.set_range("minmax");
                s.mutable_given_range()->set_max(1);
              }),
              "spec.given_range: excludes range");
}

// ListSchemes says what there is of each key that schemes list.
TEST(Schemes, AreDescribedByEachList) {
  Scheme scheme;
  scheme.info.modes = {Mode::kFull, Mode::kSymmetric};
  scheme.info.roundings = {Rounding::kFloor, Rounding::kCeil};
  scheme.info.scale_types = {ScaleType::kNested8, ScaleType::kF32};
  scheme.info.levels = {16, 256};
  scheme.info.dialects = {{.name = "a"}, {.name = "b"}};
  scheme.info.layouts = {"c", "d"};
  scheme.info.nonfinites = {NonFinite::kReject, NonFinite::kPropagate};
  scheme.info.tails = {Tail::kPad, Tail::kShort};
  const std::string text = ToProto(scheme).ShortDebugString();
  for (const SpecKey& key : SpecKeys()) {
    if (key.choices == nullptr || key.choices(scheme.info).size() < 2) continue;
    for (const std::string& value : key.choices(scheme.info)) {
      EXPECT_NE(text.find(absl::StrCat("\"", value, "\"")), std::string::npos)
          << key.name << "=" << value << " is not in " << text;
    }
  }
}

TEST(Schemes, AreDescribedWithADefaultThatTheyTake) {
  for (const Scheme* scheme : AllSchemes()) {
    const v1::SchemeDescription message = ToProto(*scheme);
    EXPECT_EQ(message.name(), scheme->info.name);
    EXPECT_FALSE(message.summary().empty()) << message.name();
    EXPECT_FALSE(message.definition().empty()) << message.name();
    const auto spec = ParseSpec(message.default_spec());
    ASSERT_TRUE(spec.ok()) << message.default_spec() << ": " << spec.status();
    const auto completed = CompleteSpec(*spec, *scheme);
    ASSERT_TRUE(completed.ok()) << message.default_spec() << ": " << completed.status();
    EXPECT_EQ(*completed, *spec);
  }
}

}  // namespace
}  // namespace quantd
