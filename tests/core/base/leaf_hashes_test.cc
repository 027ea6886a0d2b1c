#include "core/base/leaf_hashes.h"

#include <xxhash.h>

#include <array>
#include <random>
#include <string>
#include <vector>

#include "core/simd/targets.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

class LeafHashesTest : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(ChooseSimdTarget("").ok()); }
};

TEST_F(LeafHashesTest, EqualTheLibraryOnAllTargetsAtAnyAlignmentAndNumber) {
  constexpr size_t kMostLeaves = 19, kOffsets = 65;
  constexpr uint32_t kSeed = 20261126;
  std::mt19937 rng(kSeed);
  std::vector<std::byte> bytes(kMostLeaves * kLeafBytes + kOffsets);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
  for (const std::string& target : SupportedSimdTargets()) {
    ASSERT_TRUE(ChooseSimdTarget(target).ok());
    for (const size_t offset : {size_t{0}, size_t{1}, size_t{16}, size_t{33}, size_t{64}}) {
      const std::byte* const leaves = bytes.data() + offset;
      for (size_t num_leaves = 0; num_leaves <= kMostLeaves; ++num_leaves) {
        std::vector<LeafHash> hashes(num_leaves + 1);
        HashLeaves(leaves, num_leaves, hashes.data());
        EXPECT_EQ(hashes.back(), LeafHash{}) << "written past the last one";
        for (size_t i = 0; i < num_leaves; ++i) {
          XXH128_canonical_t expected;
          XXH128_canonicalFromHash(&expected, XXH3_128bits(leaves + i * kLeafBytes, kLeafBytes));
          ASSERT_EQ(hashes[i], std::to_array(expected.digest))
              << target << ", leaf " << i << " of " << num_leaves << " at " << offset;
        }
      }
    }
  }
}

TEST_F(LeafHashesTest, EqualTheLibraryForLeavesOfEqualBytes) {
  for (const std::string& target : SupportedSimdTargets()) {
    ASSERT_TRUE(ChooseSimdTarget(target).ok());
    for (const int value : {0, 1, 127, 128, 255}) {
      const std::vector<std::byte> leaves(4 * kLeafBytes, static_cast<std::byte>(value));
      std::vector<LeafHash> hashes(4);
      HashLeaves(leaves.data(), 4, hashes.data());
      XXH128_canonical_t expected;
      XXH128_canonicalFromHash(&expected, XXH3_128bits(leaves.data(), kLeafBytes));
      for (const LeafHash& hash : hashes) EXPECT_EQ(hash, std::to_array(expected.digest)) << target;
    }
  }
}

}  // namespace
}  // namespace quantd
