#ifndef QUANTD_CLIENT_CLI_TEXT_H_
#define QUANTD_CLIENT_CLI_TEXT_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/tensor/shape.h"

namespace quantd::cli {

// Returns `text` with all that a terminal obeys, or does not show, written as \xNN a byte:
// controls, marks that turn the direction of writing, invisible spaces, what is not UTF-8. Names
// come from files.
std::string Printable(absl::string_view text);

// Returns the columns that printable UTF-8 `text` takes on a terminal.
size_t ColumnsOf(absl::string_view text);

// Returns the size of the longest beginning of `text` that takes at most `columns`.
size_t BytesWithin(absl::string_view text, size_t columns);

// Returns `text` in at most `columns` (5 or more): its beginning and its end around "...", where it
// is longer.
std::string Shortened(absl::string_view text, size_t columns);

// Returns the name of a tensor, or another text of a file, as messages show it: printable, and at
// most 200 columns of it.
std::string ShownName(absl::string_view name);

// Returns the message of an error, printable and at most 1,000 columns of it.
std::string ShownMessage(absl::string_view message);

// Returns what the output `path` is called in messages: "-" is standard output.
std::string ShownOutput(absl::string_view path);

// Returns e.g. "1.18 MiB".
std::string HumanBytes(int64_t bytes);

// Returns e.g. "612 MiB/s".
std::string HumanRate(int64_t bytes, absl::Duration elapsed);

// Returns e.g. "0.42 s", "1:05 min".
std::string HumanTime(absl::Duration elapsed);

// Returns e.g. "128x64", "scalar".
std::string ShapeText(const Shape& shape);

// Returns e.g. "1,234,567".
std::string WithCommas(int64_t number);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_TEXT_H_
