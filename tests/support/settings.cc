#include "tests/support/settings.h"

#include "absl/strings/str_cat.h"

namespace quantd::testing {
namespace {

bool IsGranularity(const SpecKey& key) {
  QuantSpec spec;
  spec.granularity.emplace();
  return !key.IsOpen(spec) && key.IsOpen({});
}

}  // namespace

std::vector<std::string> ValuesOf(const SpecKey& key) {
  std::vector<std::string> values;
  for (const absl::string_view name : key.names) values.emplace_back(name);
  if (!values.empty()) return values;
  for (const char* text : {"-1", "0", "16", "9223372036854775807", "18446744073709551615", "0.02",
                           "2.5e-308", "2x3", "-1.5..2", "3sigma", "keep", "a_1"}) {
    QuantSpec spec;
    if (key.parse(key, text, spec).ok() && key.format(spec) == text) values.emplace_back(text);
  }
  return values;
}

std::vector<std::string> PairwiseSpecs() {
  std::vector<std::string> specs = {"int8"};
  const std::span<const SpecKey> keys = SpecKeys();
  for (size_t i = 0; i < keys.size(); ++i) {
    for (const std::string& first : ValuesOf(keys[i])) {
      specs.push_back(absl::StrCat("int8:", keys[i].name, "=", first));
      for (size_t j = i + 1; j < keys.size(); ++j) {
        if (IsGranularity(keys[i]) && IsGranularity(keys[j])) continue;
        for (const std::string& second : ValuesOf(keys[j])) {
          specs.push_back(
              absl::StrCat("int8:", keys[i].name, "=", first, ",", keys[j].name, "=", second));
        }
      }
    }
  }
  return specs;
}

}  // namespace quantd::testing
