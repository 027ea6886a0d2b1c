#ifndef QUANTD_CORE_SCHEME_DEFINITIONS_H_
#define QUANTD_CORE_SCHEME_DEFINITIONS_H_

#include <string>

#include "absl/strings/string_view.h"

// How every byte follows from values and spec, in Markdown, so that a stranger can write it again:
// SchemeInfo::definition has the part of a scheme, and here is what all of them share. ListSchemes,
// `quantctl schemes` and core/scheme/DEFINITIONS.md give the same text. Thread-safe.

namespace quantd {

// Returns what holds for all schemes: types, groups, ranges, stored scales, roundings, files.
absl::string_view CommonDefinition();

// Returns the whole page: the common part, then each scheme under a heading of its own.
std::string DefinitionsPage();

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_DEFINITIONS_H_
