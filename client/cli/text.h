#ifndef QUANTD_CLIENT_CLI_TEXT_H_
#define QUANTD_CLIENT_CLI_TEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/tensor/shape.h"

namespace quantd::cli {

// Returns `text` with control characters written as \xNN: names come from files, and a terminal
// obeys what it is sent.
std::string Printable(absl::string_view text);

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

// Rows of text under titles, columns aligned. Not thread-safe.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Adds a row; missing cells are empty.
  void AddRow(std::vector<std::string> cells);
  // Adds a line across.
  void AddRule() { rows_.emplace_back(); }

  // Returns the table for a terminal; columns that are empty in all rows are left out.
  std::string Text() const;
  // Returns the table as Markdown.
  std::string Markdown() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_TEXT_H_
