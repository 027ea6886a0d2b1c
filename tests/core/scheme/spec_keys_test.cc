#include "core/scheme/spec_keys.h"

#include <set>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tests/support/settings.h"

namespace quantd {
namespace {

using testing::PairwiseSpecs;
using testing::ValuesOf;

TEST(SpecKeysTest, EachRowIsWhole) {
  std::set<absl::string_view> names;
  std::set<absl::string_view> fields;
  for (const SpecKey& key : SpecKeys()) {
    EXPECT_TRUE(IsSpecName(key.name)) << key.name;
    EXPECT_TRUE(names.insert(key.name).second) << key.name;
    EXPECT_TRUE(fields.insert(key.field).second) << key.field;
    EXPECT_FALSE(key.help.empty()) << key.name;
    EXPECT_NE(key.names.empty(), key.takes.empty()) << key.name;
    ASSERT_NE(key.parse, nullptr) << key.name;
    ASSERT_NE(key.format, nullptr) << key.name;
    EXPECT_FALSE(key.format({}).has_value()) << key.name;
    EXPECT_EQ(FindSpecKey(key.name), &key);
  }
  EXPECT_EQ(FindSpecKey("colour"), nullptr);
}

TEST(SpecKeysTest, EachKeyTakesValuesAndSaysWhichOfOthers) {
  for (const SpecKey& key : SpecKeys()) {
    EXPECT_FALSE(ValuesOf(key).empty()) << key.name;
    QuantSpec spec;
    const absl::Status status = key.parse(key, "$", spec);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << key.name;
    EXPECT_TRUE(absl::StrContains(status.message(), key.Values())) << status;
  }
}

TEST(SpecKeysTest, EachPairGoesThroughText) {
  for (const std::string& text : PairwiseSpecs()) {
    const absl::StatusOr<QuantSpec> spec = ParseSpec(text);
    ASSERT_TRUE(spec.ok()) << text << ": " << spec.status();
    ASSERT_EQ(FormatSpec(*spec), text);
  }
}

}  // namespace
}  // namespace quantd
