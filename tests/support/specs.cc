#include "tests/support/specs.h"

#include "absl/strings/str_cat.h"
#include "core/scheme/spec_keys.h"

namespace quantd::testing {
namespace {

std::vector<std::string> GranularitiesOf(const SchemeInfo& info) {
  std::vector<std::string> texts;
  for (const Granularity& granularity : info.granularities) {
    switch (granularity.kind) {
      case GranularityKind::kTensor:
        texts.push_back("per=tensor");
        break;
      case GranularityKind::kAxis:
        texts.insert(texts.end(), {"axis=0", "axis=-1"});
        break;
      case GranularityKind::kGroup:
        if (granularity.group_elems != 0) {
          texts.push_back(absl::StrCat("group=", granularity.group_elems));
        } else {
          texts.insert(texts.end(), {"group=32", "group=7", "group=-1"});
        }
        break;
      case GranularityKind::kBlock:
        if (granularity.block_rows != 0) {
          texts.push_back(
              absl::StrCat("block=", granularity.block_rows, "x", granularity.block_cols));
        } else {
          texts.insert(texts.end(), {"block=2x32", "block=3x5"});
        }
        break;
    }
  }
  return texts;
}

}  // namespace

std::vector<std::vector<std::string>> KeysOf(const SchemeInfo& info) {
  std::vector<std::vector<std::string>> keys = {GranularitiesOf(info), {}};
  if (info.takes_range) keys.back() = {"range=minmax", "range=2.5sigma", "range=-0.75..0.5"};
  if (info.takes_scale) {  // int2 ends at 1
    const bool is_int2 = info.bits == 2 && info.is_signed;
    const char* with_zero = is_int2 ? "scale=0.02,zero=1" : "scale=0.02,zero=3";
    keys.back().insert(keys.back().end(), {"scale=0.02", with_zero});
  }
  for (const SpecKey& key : SpecKeys()) {
    QuantSpec granular;
    granular.granularity.emplace();
    const bool is_granularity = key.IsOpen({}) && !key.IsOpen(granular);
    const bool is_special = is_granularity || key.name == "range" || key.name == "seed";
    if (key.choices == nullptr || is_special) continue;
    std::vector<std::string>& values = keys.emplace_back();
    for (const std::string& choice : key.choices(info)) {
      values.push_back(absl::StrCat(key.name, "=", choice));
      if (choice == NameOf(Rounding::kStochastic)) values.back() += ",seed=9";
    }
  }
  std::erase_if(keys, [](const auto& values) { return values.empty(); });
  return keys;
}

std::vector<std::string> SpecsOf(const SchemeInfo& info) {
  std::vector<std::string> specs = {std::string(info.name)};
  for (const std::vector<std::string>& values : KeysOf(info)) {
    for (const std::string& value : values) specs.push_back(absl::StrCat(info.name, ":", value));
  }
  return specs;
}

std::vector<std::string> SpecPairsOf(const SchemeInfo& info) {
  const std::vector<std::vector<std::string>> keys = KeysOf(info);
  std::vector<std::string> specs;
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t j = i + 1; j < keys.size(); ++j) {
      for (const std::string& one : keys[i]) {
        for (const std::string& other : keys[j]) {
          specs.push_back(absl::StrCat(info.name, ":", one, ",", other));
        }
      }
    }
  }
  return specs;
}

}  // namespace quantd::testing
