// How a table gets into 80 columns, as long as it does not fit:
//
//   1  the widest of the columns of names and sentences gets narrower, down to kComfortable
//   2  the last column that may be left out is left out, and 1 begins anew
//   3  names and sentences get narrower, down to kLeast
//
// Entry: Table::Text. Tested by tests/client/cli/table_test.cc and tests/e2e/test_terminal.py.
#include "client/cli/table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "client/cli/text.h"

namespace quantd::cli {
namespace {

constexpr size_t kComfortable = 24, kLeast = 8;
// Cells are no wider than this whatever the line: a name may have a million letters.
constexpr size_t kWidestCell = 120;
constexpr size_t kBetween = 2;

std::string Padded(const std::string& text, size_t width, Table::Align align) {
  const std::string space(width - std::min(width, ColumnsOf(text)), ' ');
  return align == Table::Align::kLeft ? text + space : space + text;
}

// Breaks `text` into lines of at most `width`, between words, or else behind commas, where it can.
std::vector<std::string> Wrapped(absl::string_view text, size_t width) {
  std::vector<std::string> lines;
  while (ColumnsOf(text) > width) {
    size_t end = std::max<size_t>(BytesWithin(text, width), 1);
    const size_t space = text.rfind(' ', end), comma = text.rfind(',', end - 1);
    if (space != absl::string_view::npos && space > 0) {
      end = space;
    } else if (comma != absl::string_view::npos) {  // of a spec
      end = comma + 1;
    }
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  }
  lines.emplace_back(text);
  return lines;
}

size_t TotalOf(const std::vector<size_t>& widths) {
  size_t total = 0;
  for (const size_t width : widths) {
    if (width != 0) total += width + (total == 0 ? 0 : kBetween);
  }
  return total;
}

}  // namespace

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::vector<size_t> Table::Fitted(size_t columns) const {
  std::vector<size_t> natural(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      natural[i] = std::max(natural[i], std::min(ColumnsOf(row[i]), kWidestCell));
    }
  }
  for (size_t i = 0; i < natural.size(); ++i) {
    if (natural[i] != 0) natural[i] = std::max(natural[i], ColumnsOf(columns_[i].title));
  }
  const auto squeeze = [&](std::vector<size_t> widths, size_t least) {
    while (TotalOf(widths) > columns) {
      size_t* widest = nullptr;
      for (size_t i = 0; i < widths.size(); ++i) {
        const bool bends = columns_[i].fit == Fit::kShrink || columns_[i].fit == Fit::kWrap;
        const size_t floor = std::max(least, ColumnsOf(columns_[i].title));
        if (!bends || widths[i] <= floor) continue;
        if (widest == nullptr || widths[i] > *widest) widest = &widths[i];
      }
      if (widest == nullptr) break;
      --*widest;
    }
    return widths;
  };
  std::vector<size_t> widths = squeeze(natural, kComfortable);
  for (size_t i = columns_.size(); TotalOf(widths) > columns && i-- > 0;) {
    if (columns_[i].fit != Fit::kDrop || natural[i] == 0) continue;
    natural[i] = 0;
    widths = squeeze(natural, kComfortable);
  }
  return squeeze(std::move(widths), kLeast);
}

std::string Table::Line(const std::vector<std::string>& cells,
                        const std::vector<size_t>& widths) const {
  std::vector<std::vector<std::string>> lines_of(cells.size());
  size_t height = 1;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (widths[i] == 0) continue;
    if (columns_[i].fit == Fit::kWrap) {
      lines_of[i] = Wrapped(cells[i], widths[i]);
    } else if (columns_[i].fit == Fit::kShrink) {
      lines_of[i] = {Shortened(cells[i], widths[i])};
    } else {
      lines_of[i] = {cells[i]};
    }
    height = std::max(height, lines_of[i].size());
  }
  std::string text;
  for (size_t line = 0; line < height; ++line) {
    std::string one;
    bool first = true;
    for (size_t i = 0; i < cells.size(); ++i) {
      if (widths[i] == 0) continue;
      if (!first) one.append(kBetween, ' ');
      first = false;
      const std::string& cell = line < lines_of[i].size() ? lines_of[i][line] : std::string();
      one += Padded(cell, widths[i], columns_[i].align);
    }
    one.resize(one.find_last_not_of(' ') + 1);
    absl::StrAppend(&text, one, "\n");
  }
  return text;
}

std::string Table::Text(size_t columns) const {
  const std::vector<size_t> widths = Fitted(columns);
  const std::string rule = std::string(TotalOf(widths), '-') + "\n";
  std::vector<std::string> titles;
  for (const Column& column : columns_) titles.push_back(column.title);
  std::string out = Line(titles, widths) + rule;
  for (const auto& row : rows_) out += row.empty() ? rule : Line(row, widths);
  return out;
}

std::string Table::Markdown() const {
  std::string out = "|";
  for (const Column& column : columns_) absl::StrAppend(&out, " ", column.title, " |");
  out += "\n|";
  for (const Column& column : columns_) {
    out += column.align == Align::kLeft ? " --- |" : " ---: |";
  }
  out += "\n";
  for (const auto& row : rows_) {
    if (row.empty()) continue;
    out += "|";
    for (const std::string& cell : row) {
      absl::StrAppend(&out, " ", absl::StrReplaceAll(cell, {{"|", "\\|"}}), " |");
    }
    out += "\n";
  }
  return out;
}

size_t ColumnsOfOutput(int fd) {
  struct winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* const variable = std::getenv("COLUMNS");
  size_t columns = 0;
  if (variable != nullptr && absl::SimpleAtoi(variable, &columns) && columns > 0) return columns;
  return Table::kUnlimited;
}

}  // namespace quantd::cli
