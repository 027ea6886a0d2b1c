#ifndef QUANTD_TESTS_SUPPORT_SETTINGS_H_
#define QUANTD_TESTS_SUPPORT_SETTINGS_H_

#include <string>
#include <vector>

#include "core/scheme/spec_keys.h"

namespace quantd::testing {

// Returns values that the key takes, as FormatSpec writes them: all of a closed set, else those of
// a few texts that it accepts, so that a new key is covered untouched.
std::vector<std::string> ValuesOf(const SpecKey& key);

// Returns specs of no, one and two keys, with every combination of their values, as FormatSpec
// writes them.
std::vector<std::string> PairwiseSpecs();

}  // namespace quantd::testing

#endif  // QUANTD_TESTS_SUPPORT_SETTINGS_H_
