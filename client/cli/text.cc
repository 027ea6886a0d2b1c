// Text for people, from files that nobody has to trust. Names may hold any bytes: what a terminal
// would obey (escape sequences, carriage returns) or what would make one name look like another
// (marks of direction, invisible spaces) is shown as bytes, "\x1b[2J".
//
// Tested by tests/client/cli/text_test.cc and tests/e2e/test_terminal.py.
#include "client/cli/text.h"

#include <algorithm>
#include <iterator>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace quantd::cli {
namespace {

constexpr size_t kNameColumns = 200, kMessageColumns = 1000;
constexpr absl::string_view kGap = "...";

struct CodePoint {
  char32_t value = 0;
  size_t size_bytes = 0;  // 0: the bytes are not UTF-8
};

// Returns the code point at the beginning of `text`, which is not empty.
CodePoint FirstOf(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const size_t size_bytes = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < size_bytes) return {};
  char32_t value = byte(0) & (0xFF >> (size_bytes + 1));
  for (size_t i = 1; i < size_bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {};
    value = (value << 6) | (byte(i) & 0x3F);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kSmallest[size_bytes] || value > 0x10FFFF || is_surrogate) return {};
  return {value, size_bytes};
}

struct Interval {
  char32_t first, last;
};

bool IsIn(std::span<const Interval> intervals, char32_t value) {
  return std::any_of(intervals.begin(), intervals.end(), [value](const Interval& interval) {
    return value >= interval.first && value <= interval.last;
  });
}

// Controls (Cc), formats and separators that are obeyed or not seen (Cf, Zl, Zp).
constexpr Interval kHidden[] = {
    {0x00, 0x1F},     {0x7F, 0x9F},     {0xAD, 0xAD},     {0x61C, 0x61C},
    {0x180E, 0x180E}, {0x200B, 0x200F}, {0x2028, 0x202E}, {0x2060, 0x206F},
    {0xFEFF, 0xFEFF}, {0xFFF9, 0xFFFB}, {0xE0000, 0xE007F}};

// Of two columns: East Asian Wide and Fullwidth (Unicode 15, EastAsianWidth.txt), in large strokes.
constexpr Interval kWide[] = {{0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0xA4CF},
                              {0xA960, 0xA97F},   {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},
                              {0xFE30, 0xFE6F},   {0xFF01, 0xFF60},   {0xFFE0, 0xFFE6},
                              {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF},
                              {0x20000, 0x3FFFD}};
// Of none: marks that combine with the letter before them.
constexpr Interval kCombining[] = {{0x300, 0x36F}, {0x1AB0, 0x1AFF}, {0x20D0, 0x20FF},
                                   {0xFE00, 0xFE0F}, {0xFE20, 0xFE2F}};

size_t ColumnsOfPoint(char32_t value) {
  if (value < 0x300) return 1;  // most of what there is
  return IsIn(kCombining, value) ? 0 : IsIn(kWide, value) ? 2 : 1;
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string out;
  while (!text.empty()) {
    const CodePoint point = FirstOf(text);
    const size_t size_bytes = std::max<size_t>(point.size_bytes, 1);
    if (point.size_bytes > 0 && !IsIn(kHidden, point.value)) {
      out.append(text.data(), size_bytes);
    } else {
      for (const char c : text.substr(0, size_bytes)) {
        absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(c));
      }
    }
    text.remove_prefix(size_bytes);
  }
  return out;
}

size_t ColumnsOf(absl::string_view text) {
  size_t columns = 0;
  while (!text.empty()) {
    const CodePoint point = FirstOf(text);
    columns += point.size_bytes > 0 ? ColumnsOfPoint(point.value) : 1;
    text.remove_prefix(std::max<size_t>(point.size_bytes, 1));
  }
  return columns;
}

size_t BytesWithin(absl::string_view text, size_t columns) {
  size_t bytes = 0;
  for (size_t used = 0; bytes < text.size();) {
    const CodePoint point = FirstOf(text.substr(bytes));
    used += point.size_bytes > 0 ? ColumnsOfPoint(point.value) : 1;
    if (used > columns) break;
    bytes += std::max<size_t>(point.size_bytes, 1);
  }
  return bytes;
}

std::string Shortened(absl::string_view text, size_t columns) {
  if (ColumnsOf(text) <= columns) return std::string(text);
  const size_t room = columns - kGap.size();
  const size_t head_columns = room / 2;  // ends say more: layers.0.mlp.down_proj.weight
  absl::string_view tail = text;
  for (size_t left = ColumnsOf(text); left > room - head_columns;) {
    const CodePoint point = FirstOf(tail);
    left -= point.size_bytes > 0 ? ColumnsOfPoint(point.value) : 1;
    tail.remove_prefix(std::max<size_t>(point.size_bytes, 1));
  }
  return absl::StrCat(text.substr(0, BytesWithin(text, head_columns)), kGap, tail);
}

std::string ShownName(absl::string_view name) { return Shortened(Printable(name), kNameColumns); }

std::string ShownMessage(absl::string_view message) {
  return Shortened(Printable(message), kMessageColumns);
}

std::string ShownOutput(absl::string_view path) {
  return path == "-" ? "standard output" : Printable(path);
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

}  // namespace quantd::cli
