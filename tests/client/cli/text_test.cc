#include "client/cli/text.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace quantd::cli {
namespace {

TEST(TextTest, PrintableLeavesWhatIsSeen) {
  for (const char* text : {"", "model.layers.0.weight", "Größe/重み", "a b|c", "\xF0\x9F\x98\x80"}) {
    EXPECT_EQ(Printable(text), text);
  }
}

TEST(TextTest, PrintableEscapesWhatIsObeyedOrHidden) {
  const std::pair<std::string, std::string> cases[] = {
      {"\x1b[2Jx", "\\x1b[2Jx"},
      {"a\nb\r\tc", "a\\x0ab\\x0d\\x09c"},
      {std::string("a\0b", 3), "a\\x00b"},
      {"\x7f", "\\x7f"},
      {"\xC2\x9B" "31m", "\\xc2\\x9b31m"},           // CSI as one character
      {"\xE2\x80\xAE" "cod", "\\xe2\\x80\\xaecod"},  // right-to-left override
      {"a\xE2\x80\x8B", "a\\xe2\\x80\\x8b"},         // zero width space
      {"\xE2\x80\xA8", "\\xe2\\x80\\xa8"},           // line separator
      {"\xFFx", "\\xffx"},                           // not UTF-8
      {"\xC3", "\\xc3"},                             // cut short
      {"\xC0\x80", "\\xc0\\x80"},                    // overlong
      {"\xED\xA0\x80", "\\xed\\xa0\\x80"},           // a surrogate
      {"\xF5\x80\x80\x80", "\\xf5\\x80\\x80\\x80"},  // beyond U+10FFFF
  };
  for (const auto& [text, want] : cases) EXPECT_EQ(Printable(text), want);
}

TEST(TextTest, ColumnsAreThoseOfATerminal) {
  EXPECT_EQ(ColumnsOf("abc"), 3u);
  EXPECT_EQ(ColumnsOf("Größe"), 5u);
  EXPECT_EQ(ColumnsOf("重み"), 4u);
  EXPECT_EQ(ColumnsOf("e\xCC\x81"), 1u);  // e and a combining accent
  EXPECT_EQ(ColumnsOf("\xFF\xFF"), 2u);
}

TEST(TextTest, ShortenedLosesItsMiddle) {
  EXPECT_EQ(Shortened("weight", 6), "weight");
  EXPECT_EQ(Shortened("model.layers.17.weight", 12), "mode...eight");
  EXPECT_EQ(Shortened("重重重重重重", 7), "重...重");
  const std::string huge(1 << 18, 'x');
  EXPECT_EQ(ColumnsOf(Shortened(huge, 80)), 80u);
  EXPECT_EQ(ColumnsOf(ShownName(huge)), 200u);
  EXPECT_EQ(ColumnsOf(ShownMessage(huge)), 1000u);
}

TEST(TextTest, OutputsHaveNames) {
  EXPECT_EQ(ShownOutput("-"), "standard output");
  EXPECT_EQ(ShownOutput("a\n"), "a\\x0a");
}

}  // namespace
}  // namespace quantd::cli
