#include "core/base/digest.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr uint32_t kSeed = 20240614;
constexpr size_t kLeaf = 4096;

std::vector<std::byte> RandomBytes(size_t size) {
  std::mt19937_64 rng(kSeed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
  return bytes;
}

std::string HexOf(XXH128_hash_t hash) {
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(hash.high64),
                static_cast<unsigned long long>(hash.low64));
  return text;
}

// The definition by plain one-shot calls: canonical form is high half first, big-endian.
std::string DefinitionOf(std::span<const std::byte> plane) {
  std::vector<uint8_t> leaves;
  for (size_t i = 0; i < plane.size(); i += kLeaf) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical,
                             XXH3_128bits(plane.data() + i, std::min(kLeaf, plane.size() - i)));
    leaves.insert(leaves.end(), canonical.digest, canonical.digest + sizeof(canonical.digest));
  }
  return "xxh3_4k:" + HexOf(XXH3_128bits(leaves.data(), leaves.size()));
}

TEST(DigestTest, EqualsTheDefinitionAroundLeafBoundaries) {
  const std::vector<std::byte> bytes = RandomBytes(3 * kLeaf + 5);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{240}, size_t{241}, kLeaf - 1, kLeaf,
                            kLeaf + 1, 2 * kLeaf, 3 * kLeaf + 5}) {
    const auto plane = std::span(bytes).first(size);
    EXPECT_EQ(DigestOf(plane), DefinitionOf(plane)) << size << " bytes, seed " << kSeed;
  }
}

// Hashes `plane` in parts of `part_bytes`, each fed in pieces of `piece_bytes`.
std::string TextOfParts(std::span<const std::byte> plane, size_t part_bytes, size_t piece_bytes) {
  PlaneDigest digest;
  DigestPart part;  // used again and again, as jobs do
  for (size_t begin = 0; begin < plane.size(); begin += part_bytes) {
    auto left = plane.subspan(begin, std::min(part_bytes, plane.size() - begin));
    part.Begin(static_cast<int64_t>(begin));
    while (!left.empty()) {
      const auto piece = left.first(std::min(piece_bytes, left.size()));
      part.Update(piece);
      left = left.subspan(piece.size());
    }
    digest.Append(part);
  }
  return digest.Text();
}

TEST(DigestTest, AppendsPartsThatWereHashedElsewhere) {
  const std::vector<std::byte> bytes = RandomBytes(5 * kLeaf + 5);
  for (const size_t size : {size_t{1}, kLeaf - 1, kLeaf, kLeaf + 1, 5 * kLeaf, 5 * kLeaf + 5}) {
    const auto plane = std::span(bytes).first(size);
    const std::string whole = DefinitionOf(plane);
    for (const size_t part_bytes : {size_t{7}, size_t{1000}, kLeaf - 1, kLeaf, kLeaf + 1,
                                    2 * kLeaf, 2 * kLeaf + 3, 6 * kLeaf}) {
      for (const size_t piece_bytes : {size_t{1}, size_t{61}, kLeaf, 6 * kLeaf}) {
        EXPECT_EQ(TextOfParts(plane, part_bytes, piece_bytes), whole)
            << size << " bytes, parts of " << part_bytes << ", pieces of " << piece_bytes
            << ", seed " << kSeed;
      }
    }
  }
}

// All places of one cut around leaves, and bytes fed between parts.
TEST(DigestTest, PartsBeginAndEndAnywhere) {
  const std::vector<std::byte> bytes = RandomBytes(3 * kLeaf);
  const auto plane = std::span(bytes);
  const std::string whole = DefinitionOf(plane);
  std::mt19937 rng(kSeed);
  for (int round = 0; round < 500; ++round) {
    PlaneDigest digest;
    for (size_t begin = 0; begin < plane.size();) {
      const size_t size = std::min<size_t>(rng() % (1u << (rng() % 14)), plane.size() - begin);
      const auto fed = plane.subspan(begin, size);
      begin += size;
      if (rng() % 3 == 0) {
        digest.Update(fed);
        continue;
      }
      DigestPart part;
      part.Begin(static_cast<int64_t>(begin - size));
      part.Update(fed.first(size / 2));
      part.Update(fed.subspan(size / 2));
      digest.Append(part);
    }
    ASSERT_EQ(digest.Text(), whole) << "round " << round << ", seed " << kSeed;
  }
}

TEST(DigestTest, PartsOfNothingAddNothing) {
  PlaneDigest digest;
  DigestPart part;
  for (const int64_t offset : {int64_t{0}, int64_t{5}, int64_t{4096}}) {
    part.Begin(offset);
    digest.Append(part);
    part.Update({});
    digest.Append(part);
  }
  EXPECT_EQ(digest.Text(), DigestOf({}));
}

TEST(DigestTest, HasTheSameTextForever) {
  // Files carry it. XXH3-128 of nothing, of xxHash's own test suite; then Python's xxhash:
  // xxh3_128(xxh3_128(b"quantd").digest()).hexdigest()
  EXPECT_EQ(DigestOf({}), "xxh3_4k:99aa06d3014798d86001c324468d497f");
  const std::string text = "quantd";
  EXPECT_EQ(DigestOf(std::as_bytes(std::span(text))), "xxh3_4k:b456aeb5a9a523ac2f0c8a1f109fab00");
}

TEST(DigestTest, DoesNotDependOnCuts) {
  const std::vector<std::byte> bytes = RandomBytes(3 * kLeaf + 5);
  const std::string whole = DefinitionOf(bytes);
  for (const size_t cut_bytes :
       {size_t{1}, size_t{1000}, kLeaf - 1, kLeaf, kLeaf + 1, 2 * kLeaf + 3}) {
    PlaneDigest digest;
    for (size_t i = 0; i < bytes.size(); i += cut_bytes) {
      digest.Update(std::span(bytes).subspan(i, std::min(cut_bytes, bytes.size() - i)));
    }
    EXPECT_EQ(digest.Text(), whole) << "cut " << cut_bytes << ", seed " << kSeed;
  }
}

TEST(DigestTest, TextMayBeAskedInBetween) {
  const std::vector<std::byte> bytes = RandomBytes(2 * kLeaf + 7);
  PlaneDigest digest;
  size_t fed = 0;
  for (const size_t end : {size_t{0}, size_t{5}, kLeaf, kLeaf + 9, 2 * kLeaf + 7}) {
    digest.Update(std::span(bytes).subspan(fed, end - fed));
    fed = end;
    EXPECT_EQ(digest.Text(), DefinitionOf(std::span(bytes).first(end))) << end;
  }
  PlaneDigest moved = std::move(digest);
  EXPECT_EQ(moved.Text(), DefinitionOf(bytes));
}

TEST(DigestTest, Sha256EqualsTheVectorsOfFips180) {
  EXPECT_EQ(Sha256Hex({}), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::string text = "abc";
  EXPECT_EQ(Sha256Hex(std::as_bytes(std::span(text))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(DigestTest, HashNameIsXxh3OfTheText) {
  for (const std::string& name : {std::string(), std::string("a"), std::string(300, 'x')}) {
    EXPECT_EQ(HashName(name), XXH3_64bits(name.data(), name.size()));
  }
  EXPECT_EQ(HashName(""), 0x2D06800538D394C2u);  // XXH3-64 of nothing, seed 0
}

}  // namespace
}  // namespace quantd
