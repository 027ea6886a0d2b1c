#ifndef QUANTD_TESTS_SUPPORT_SPECS_H_
#define QUANTD_TESTS_SUPPORT_SPECS_H_

#include <string>
#include <vector>

#include "core/scheme/scheme.h"

namespace quantd::testing {

// Returns, key by key, what a scheme may be told: {{"axis=0", "group=32"}, {"mode=full"} ...}.
// Some go together only with others, and some not with every tensor.
std::vector<std::vector<std::string>> KeysOf(const SchemeInfo& info);

// Returns spec texts: the scheme's defaults, and each value of each key beside them.
std::vector<std::string> SpecsOf(const SchemeInfo& info);

// Returns spec texts with each value of each key beside each value of every other one.
std::vector<std::string> SpecPairsOf(const SchemeInfo& info);

// True of ggml's formats that search for their scales, with importance and without; the simple ones
// search with it alone.
inline bool AlwaysSearches(const Scheme& scheme) {
  return scheme.info.takes_importance && scheme.plan_importance == nullptr;
}

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_SPECS_H_
