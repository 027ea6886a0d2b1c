#include "core/simd/bits.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

class BitsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { ASSERT_TRUE(ChooseSimdTarget(GetParam()).ok()); }
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

TEST_P(BitsTest, NibblesOfEveryLength) {
  std::mt19937 rng(5);
  for (int64_t num_codes = 0; num_codes <= 200; ++num_codes) {
    std::vector<uint8_t> codes(static_cast<size_t>(num_codes));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(rng());  // upper bits are ignored
    for (const bool first_high : {false, true}) {
      std::vector<uint8_t> packed((codes.size() + 1) / 2 + 1, 0xEE),
          unpacked(codes.size() + 1, 0xEE);
      PackNibbles(codes.data(), num_codes, first_high, packed.data());
      ASSERT_EQ(packed.back(), 0xEE) << "beyond " << num_codes;
      for (size_t i = 0; i < codes.size(); ++i) {
        const bool high = (i % 2 == 0) == first_high;
        ASSERT_EQ(high ? packed[i / 2] >> 4 : packed[i / 2] & 15, codes[i] & 15) << i;
      }
      if (num_codes % 2 != 0) {
        const uint8_t last = packed[packed.size() - 2];
        ASSERT_EQ(first_high ? last & 15 : last >> 4, 0);
      }
      UnpackNibbles(packed.data(), num_codes, first_high, unpacked.data());
      ASSERT_EQ(unpacked.back(), 0xEE) << "beyond " << num_codes;
      for (size_t i = 0; i < codes.size(); ++i) ASSERT_EQ(unpacked[i], codes[i] & 15);
    }
  }
}

TEST_P(BitsTest, SignedNibbles) {
  for (int64_t num_codes = 0; num_codes <= 200; ++num_codes) {
    std::vector<uint8_t> packed(static_cast<size_t>(num_codes + 1) / 2);
    for (size_t i = 0; i < packed.size(); ++i) packed[i] = static_cast<uint8_t>(i * 37);
    for (const bool first_high : {false, true}) {
      std::vector<int8_t> codes(static_cast<size_t>(num_codes) + 1, 77);
      UnpackSignedNibbles(packed.data(), num_codes, first_high, codes.data());
      ASSERT_EQ(codes.back(), 77);
      for (size_t i = 0; i + 1 < codes.size(); ++i) {
        const int nibble = (i % 2 == 0) == first_high ? packed[i / 2] >> 4 : packed[i / 2] & 15;
        ASSERT_EQ(codes[i], nibble < 8 ? nibble : nibble - 16);
      }
    }
  }
}

TEST_P(BitsTest, StreamsOfEveryWidthAndLength) {
  std::mt19937 rng(9);
  for (int width = 1; width <= 8; ++width) {
    for (size_t num_codes = 0; num_codes <= 130; ++num_codes) {
      std::vector<uint8_t> codes(num_codes);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(rng());  // upper bits are ignored
      const size_t size_bytes = (num_codes * static_cast<size_t>(width) + 7) / 8;
      std::vector<uint8_t> expected(size_bytes + 1);
      for (size_t i = 0, at = 0; i < num_codes; ++i) {
        for (int bit = 0; bit < width; ++bit, ++at) {
          expected[at / 8] |= static_cast<uint8_t>((codes[i] >> bit & 1) << at % 8);
        }
      }
      expected.back() = 0xEE;
      std::vector<uint8_t> packed(size_bytes + 1, 0xEE);
      PackBits(codes.data(), static_cast<int64_t>(num_codes), width, packed.data());
      ASSERT_EQ(packed, expected) << num_codes << " codes of " << width;
      // Exactly as large as it must be, so that a sanitizer sees what is read beyond.
      const std::vector<uint8_t> exact(packed.begin(), packed.end() - 1);
      std::vector<uint8_t> unpacked(num_codes + 1, 0xEE);
      UnpackBits(exact.data(), static_cast<int64_t>(num_codes), width, unpacked.data());
      ASSERT_EQ(unpacked.back(), 0xEE);
      for (size_t i = 0; i < num_codes; ++i) {
        ASSERT_EQ(unpacked[i], codes[i] & ((1 << width) - 1)) << i << " of " << num_codes;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, BitsTest, ::testing::ValuesIn(SupportedSimdTargets()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd
