#ifndef QUANTD_CORE_IO_QUOTE_H_
#define QUANTD_CORE_IO_QUOTE_H_

#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantd {

// Returns `text` from a file as a message may show it: quoted, escaped (a terminal obeys control
// characters) and at most 80 bytes of it.
inline std::string Quote(absl::string_view text) {
  constexpr size_t kShownBytes = 80;
  const bool cut = text.size() > kShownBytes;
  return absl::StrCat("\"", absl::CHexEscape(text.substr(0, kShownBytes)), cut ? "...\"" : "\"");
}

}  // namespace quantd

#endif  // QUANTD_CORE_IO_QUOTE_H_
