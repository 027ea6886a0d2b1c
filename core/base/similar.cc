// Which known word a mistyped one means. Letters are compared in lower case and punctuation is left
// out, so that INT8, Int-8 and half-even are at no distance from int8 and half_even; beyond that
// the restricted edit distance counts (a letter more, less, changed, or two swapped), up to a third
// of the word: quantise is 1 from quantize, and int9 1 from int8, but fp32 is too far from fp16.
//
// Entries: MostSimilar and DidYouMean. Tested by tests/core/base/similar_test.cc.
#include "core/base/similar.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

// Words of people are short; a longer one is compared by its beginning, in bounded time.
constexpr size_t kMaxLetters = 64;

std::string LettersOf(absl::string_view word) {
  std::string letters;
  for (const char c : word.substr(0, kMaxLetters)) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c))) letters += absl::ascii_tolower(c);
  }
  return letters;
}

// Returns the restricted edit distance (optimal string alignment).
size_t Distance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> before(b.size() + 1), above(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) above[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = above[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({above[j] + 1, row[j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    std::swap(before, above);
    std::swap(above, row);
  }
  return above[b.size()];
}

}  // namespace

std::string MostSimilar(absl::string_view word, std::span<const std::string> known) {
  const std::string letters = LettersOf(word);
  if (letters.empty()) return "";
  size_t best = letters.size() / 3 + 1;  // which is too far
  std::string found;
  for (const std::string& candidate : known) {
    const size_t distance = Distance(letters, LettersOf(candidate));
    if (distance >= best) continue;
    best = distance;
    found = candidate;
  }
  return found;
}

std::string DidYouMean(absl::string_view word, std::span<const std::string> known) {
  const std::string found = MostSimilar(word, known);
  return found.empty() ? "" : absl::StrCat("; did you mean ", found, "?");
}

}  // namespace quantd
