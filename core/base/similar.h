#ifndef QUANTD_CORE_BASE_SIMILAR_H_
#define QUANTD_CORE_BASE_SIMILAR_H_

#include <span>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Returns the member of `known` that `word` most likely means: equal but for case and punctuation,
// or a few letters away. Empty: none is that near. The first of equals is taken.
std::string MostSimilar(absl::string_view word, std::span<const std::string> known);

// Returns "; did you mean NAME?", or nothing where MostSimilar finds none.
std::string DidYouMean(absl::string_view word, std::span<const std::string> known);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_SIMILAR_H_
