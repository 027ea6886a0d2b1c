#include "client/cli/text.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace quantd::cli {
namespace {

// Returns the columns that UTF-8 `text` takes, one for each code point.
size_t WidthOf(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

std::string Padded(const std::string& text, size_t width, Table::Align align) {
  const std::string space(width - std::min(width, WidthOf(text)), ' ');
  return align == Table::Align::kLeft ? text + space : space + text;
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // C1 controls are U+0080 to U+009F: C2 80 to C2 9F in UTF-8.
    const bool c1 = byte == 0xC2 && i + 1 < text.size() &&
                    (static_cast<unsigned char>(text[i + 1]) & 0xE0) == 0x80;
    if (byte < 0x20 || byte == 0x7F || c1) {
      absl::StrAppendFormat(&out, "\\x%02x", byte);
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

std::string HumanBytes(int64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  static constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat(value < 9.995   ? "%.2f %s"
                         : value < 99.95 ? "%.1f %s"
                                         : "%.0f %s",
                         value, kUnits[unit]);
}

std::string HumanRate(int64_t bytes, absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  if (seconds <= 0) return "-";
  return absl::StrCat(HumanBytes(static_cast<int64_t>(static_cast<double>(bytes) / seconds)), "/s");
}

std::string HumanTime(absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 59.95) return absl::StrFormat("%.1f s", seconds);
  const int64_t whole = static_cast<int64_t>(seconds + 0.5);
  if (whole < 3600) return absl::StrFormat("%d:%02d min", whole / 60, whole % 60);
  return absl::StrFormat("%d:%02d h", whole / 3600, whole / 60 % 60);
}

std::string ShapeText(const Shape& shape) {
  return shape.rank() == 0 ? "scalar" : absl::StrJoin(shape.dims(), "x");
}

std::string WithCommas(int64_t number) {
  std::string digits = absl::StrCat(number);
  const size_t first = digits[0] == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) digits.insert(i -= 3, ",");
  return digits;
}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::Text() const {
  std::vector<size_t> widths(columns_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], WidthOf(row[i]));
  }
  size_t total = 0;
  for (size_t i = 0; i < widths.size(); ++i) {
    if (widths[i] == 0) continue;
    widths[i] = std::max(widths[i], WidthOf(columns_[i].title));
    total += widths[i] + (total == 0 ? 0 : 2);
  }
  const auto line = [&](const auto& cell) {
    std::vector<std::string> cells;
    for (size_t i = 0; i < widths.size(); ++i) {
      if (widths[i] != 0) cells.push_back(Padded(cell(i), widths[i], columns_[i].align));
    }
    std::string text = absl::StrJoin(cells, "  ");
    text.resize(text.find_last_not_of(' ') + 1);
    return text + "\n";
  };
  const std::string rule = std::string(total, '-') + "\n";
  std::string out = line([&](size_t i) { return columns_[i].title; }) + rule;
  for (const auto& row : rows_) {
    out += row.empty() ? rule : line([&](size_t i) { return row[i]; });
  }
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

}  // namespace quantd::cli
