#ifndef QUANTD_CORE_IO_QUOTE_H_
#define QUANTD_CORE_IO_QUOTE_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
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

// Returns the error with the file that it is about, unless it names that already.
inline absl::Status InFile(absl::string_view path, const absl::Status& status) {
  const std::string named = absl::StrCat(path, ": ");
  if (absl::StartsWith(status.message(), named)) return status;
  return absl::Status(status.code(), absl::StrCat(named, status.message()));
}

}  // namespace quantd

#endif  // QUANTD_CORE_IO_QUOTE_H_
