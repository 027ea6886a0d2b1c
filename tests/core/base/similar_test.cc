#include "core/base/similar.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace quantd {
namespace {

const std::vector<std::string> kKnown = {"int8", "uint8", "int16", "fp16", "quantize", "half_even"};

TEST(SimilarTest, FindsWhatIsMeant) {
  const std::pair<const char*, const char*> cases[] = {
      {"INT8", "int8"},       {"Int-8", "int8"},      {"int_16", "int16"},
      {"quantise", "quantize"}, {"qauntize", "quantize"}, {"half-even", "half_even"},
      {"halfeven", "half_even"}, {"int9", "int8"},      {"fp61", "fp16"}};
  for (const auto& [word, meant] : cases) {
    EXPECT_EQ(MostSimilar(word, kKnown), meant) << word;
    EXPECT_EQ(DidYouMean(word, kKnown), std::string("; did you mean ") + meant + "?");
  }
}

TEST(SimilarTest, FindsNothingWhereNothingIsNear) {
  for (const char* word : {"", "-", "zz", "gguf", "dequant", "\x1b[31m", "q4_k"}) {
    EXPECT_EQ(MostSimilar(word, kKnown), "") << word;
    EXPECT_EQ(DidYouMean(word, kKnown), "");
  }
}

TEST(SimilarTest, TakesHugeWords) {
  const std::string huge(1 << 20, 'x');
  EXPECT_EQ(MostSimilar(huge, kKnown), "");
}

}  // namespace
}  // namespace quantd
