#include "core/base/philox.h"

#include <array>
#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;

// Random123's kat_vectors, rows "philox4x32 10".
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_THAT(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(FillNoiseTest, ElementsHaveTheirOwnWords) {
  constexpr uint64_t kSeed = 0x299f31d0a4093822, kStream = 0x0370734413198a2e;
  // An element whose block number fills both words of the counter.
  constexpr int64_t kFirst = int64_t{0x05a308d3243f6a88} * 4;
  std::vector<uint32_t> noise(4);
  FillNoise(kSeed, kStream, kFirst, noise);
  const auto words =
      Philox4x32({0x243f6a88, 0x05a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0});
  EXPECT_THAT(noise, ::testing::ElementsAreArray(words));
}

TEST(FillNoiseTest, DoesNotDependOnTheCuts) {
  std::vector<uint32_t> whole(1000);
  FillNoise(42, 7, 5, whole);
  for (size_t size = 1; size <= 9; ++size) {
    std::vector<uint32_t> pieces(whole.size());
    for (size_t at = 0; at < whole.size(); at += size) {
      const size_t count = std::min(size, whole.size() - at);
      FillNoise(42, 7, 5 + static_cast<int64_t>(at), std::span(pieces).subspan(at, count));
    }
    EXPECT_EQ(pieces, whole) << "pieces of " << size;
  }
}

TEST(FillNoiseTest, SeedAndStreamChangeIt) {
  std::vector<uint32_t> base(64), seed(64), stream(64);
  FillNoise(1, 1, 0, base);
  FillNoise(uint64_t{1} + (uint64_t{1} << 32), 1, 0, seed);
  FillNoise(1, uint64_t{1} + (uint64_t{1} << 32), 0, stream);
  EXPECT_NE(base, seed);
  EXPECT_NE(base, stream);
  EXPECT_NE(seed, stream);
}

}  // namespace
}  // namespace quantd
