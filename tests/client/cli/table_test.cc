#include "client/cli/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cli/progress.h"
#include "client/cli/text.h"

namespace quantd::cli {
namespace {

using enum Table::Align;
using enum Table::Fit;

size_t WidestLine(const std::string& text) {
  size_t widest = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    widest = std::max(widest, ColumnsOf(line));
  }
  return widest;
}

Table Report(const std::string& name, const std::string& note) {
  Table table({{"tensor", kLeft, kShrink},
               {"shape", kLeft, kDrop},
               {"size", kRight},
               {"cosine", kRight, kDrop},
               {"note", kLeft, kWrap}});
  table.AddRow({name, "4096x4096", "64.0 MiB", "0.999987", note});
  table.AddRule();
  table.AddRow({"2 tensors", "", "64.0 MiB"});
  return table;
}

TEST(TableTest, IsAlignedAndLeavesEmptyColumnsOut) {
  EXPECT_EQ(Report("w", "").Text(),
            "tensor     shape          size    cosine\n"
            "----------------------------------------\n"
            "w          4096x4096  64.0 MiB  0.999987\n"
            "----------------------------------------\n"
            "2 tensors             64.0 MiB\n");
}

// First names get shorter, then columns go, from the last on; sentences stay whole.
TEST(TableTest, FitsWhateverTheWidth) {
  const std::string name = "model.layers.0.block_sparse_moe.experts.12.gate_up_proj.weight";
  const std::string note = "1,234 NaN or infinite, first at 1, 2, 3, 4, 5, 6, 7, 8; two passes";
  for (size_t columns = 34; columns <= 200; ++columns) {
    const std::string text = Report(name, note).Text(columns);
    EXPECT_LE(WidestLine(text), columns) << text;
    std::string words;
    for (const absl::string_view word : absl::StrSplit(note, ' ')) {
      EXPECT_NE(text.find(std::string(word)), std::string::npos) << word << "\n" << text;
    }
    EXPECT_NE(text.find("64.0 MiB"), std::string::npos);
  }
  const std::string at_80 = Report(name, "").Text(80);
  EXPECT_NE(at_80.find("..."), std::string::npos) << at_80;
  EXPECT_NE(at_80.find("cosine"), std::string::npos) << at_80;
  const std::string at_60 = Report(name, note).Text(60);
  EXPECT_EQ(at_60.find("cosine"), std::string::npos) << at_60;
}

TEST(TableTest, WrapsBetweenWords) {
  Table table({{"key"}, {"what it says", kLeft, kWrap}});
  table.AddRow({"group", "runs of so many elements on the last axis"});
  EXPECT_EQ(table.Text(31),
            "key    what it says\n"
            "-------------------------------\n"
            "group  runs of so many elements\n"
            "       on the last axis\n");
}

TEST(TableTest, NoCellIsEndless) {
  const std::string text = Report(std::string(1 << 20, 'n'), std::string(1 << 12, 'x')).Text();
  EXPECT_LE(WidestLine(text), 300u);
}

TEST(TableTest, WideLettersAreCounted) {
  Table table({{"tensor", kLeft, kShrink}, {"size", kRight}});
  table.AddRow({"重み", "1 B"});
  table.AddRow({"abcd", "2 B"});
  EXPECT_EQ(table.Text(), "tensor  size\n------------\n重み     1 B\nabcd     2 B\n");
}

TEST(ProgressTest, TheLineFitsWhateverTheWidth) {
  const std::vector<std::string> parts = {" 45 %", "1:05 min left", "1,023 MiB/s",
                                          "1,023 MiB of 1,023 GiB"};
  for (size_t columns = 1; columns <= 200; ++columns) {
    for (const double part : {0.0, 0.45, 1.0}) {
      const std::string line = ProgressLine("dequantizing", part, parts, columns);
      EXPECT_LE(line.size(), columns);
      if (columns < 20) continue;
      EXPECT_NE(line.find("45 %"), std::string::npos) << line;
    }
  }
  EXPECT_EQ(ProgressLine("quantizing", 0.5, {" 50 %", "1 s left"}, 79),
            "quantizing [##############..............]  50 %  1 s left");
}

}  // namespace
}  // namespace quantd::cli
