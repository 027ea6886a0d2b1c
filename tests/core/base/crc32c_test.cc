#include "core/base/crc32c.h"

#include <algorithm>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace quantd {
namespace {

constexpr uint32_t kSeed = 20240613;

uint32_t CrcOf(std::span<const uint8_t> bytes, uint32_t seed = 0) {
  return Crc32c(std::as_bytes(bytes), seed);
}

std::vector<uint8_t> RandomBytes(size_t size) {
  std::mt19937 rng(kSeed);
  std::vector<uint8_t> bytes(size);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(rng());
  return bytes;
}

// The definition, bit by bit: reflected polynomial 0x82F63B78, all ones before and after.
uint32_t BitwiseCrc(std::span<const uint8_t> bytes) {
  uint32_t crc = ~0u;
  for (const uint8_t byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
  }
  return ~crc;
}

TEST(Crc32cTest, EqualsTheVectorsOfRfc3720) {  // appendix B.4; its CRC bytes are little-endian
  std::vector<uint8_t> bytes(32);
  EXPECT_EQ(CrcOf(bytes), 0x8A9136AAu);
  std::fill(bytes.begin(), bytes.end(), 0xFF);
  EXPECT_EQ(CrcOf(bytes), 0x62A8AB43u);
  for (size_t i = 0; i < 32; ++i) bytes[i] = static_cast<uint8_t>(i);
  EXPECT_EQ(CrcOf(bytes), 0x46DD794Eu);
  std::reverse(bytes.begin(), bytes.end());
  EXPECT_EQ(CrcOf(bytes), 0x113FDB5Cu);
  std::vector<uint8_t> read_command(48);  // an iSCSI SCSI read (10) command
  read_command[0] = 0x01, read_command[1] = 0xC0, read_command[16] = 0x14;
  read_command[22] = 0x04, read_command[27] = 0x14, read_command[31] = 0x18;
  read_command[32] = 0x28, read_command[40] = 0x02;
  EXPECT_EQ(CrcOf(read_command), 0xD9963A56u);
}

TEST(Crc32cTest, EqualsTheCheckValueAndZeroForNothing) {
  const std::string digits = "123456789";  // the check value of CRC-32/ISCSI in every catalogue
  EXPECT_EQ(Crc32c(std::as_bytes(std::span(digits))), 0xE3069283u);
  EXPECT_EQ(Crc32c({}), 0u);
  EXPECT_EQ(Crc32c({}, 0xE3069283u), 0xE3069283u);
}

TEST(Crc32cTest, EqualsTheDefinitionAtAllLengthsAndAlignments) {
  const std::vector<uint8_t> bytes = RandomBytes(700);
  for (size_t begin = 0; begin < 17; ++begin) {
    for (size_t size = 0; size < 600; size += size < 70 ? 1 : 53) {
      const auto piece = std::span(bytes).subspan(begin, size);
      ASSERT_EQ(CrcOf(piece), BitwiseCrc(piece)) << begin << " + " << size << ", seed " << kSeed;
    }
  }
}

TEST(Crc32cTest, DoesNotDependOnCuts) {
  const std::vector<uint8_t> bytes = RandomBytes(10000);
  const uint32_t whole = CrcOf(bytes);
  for (const size_t cut_bytes : {1, 3, 64, 4099, 10000}) {
    uint32_t crc = 0;
    for (size_t i = 0; i < bytes.size(); i += cut_bytes) {
      crc = CrcOf(std::span(bytes).subspan(i, std::min(cut_bytes, bytes.size() - i)), crc);
    }
    EXPECT_EQ(crc, whole) << "cut " << cut_bytes << ", seed " << kSeed;
  }
}

TEST(Crc32cTest, CombinesThatOfTwoPieces) {
  const std::vector<uint8_t> bytes = RandomBytes(5000);
  for (const size_t size : {0, 1, 2, 3, 63, 64, 65, 1000, 4095, 4096, 5000}) {
    const auto whole = std::span(bytes).first(size);
    for (size_t cut = 0; cut <= size; cut += size < 70 ? 1 : 37) {
      const uint32_t first = CrcOf(whole.first(cut)), second = CrcOf(whole.subspan(cut));
      ASSERT_EQ(CombineCrc32c(first, second, static_cast<int64_t>(size - cut)), CrcOf(whole))
          << size << " bytes, cut at " << cut << ", seed " << kSeed;
    }
  }
}

TEST(Crc32cTest, CombinesManyPieces) {
  const std::vector<uint8_t> bytes = RandomBytes(100'000);
  std::mt19937 rng(kSeed);
  for (int round = 0; round < 100; ++round) {
    uint32_t crc = 0;
    for (auto left = std::span<const uint8_t>(bytes); !left.empty();) {
      const size_t size = std::min<size_t>(rng() % (1u << (rng() % 17)), left.size());
      crc = CombineCrc32c(crc, CrcOf(left.first(size)), static_cast<int64_t>(size));
      left = left.subspan(size);
    }
    ASSERT_EQ(crc, CrcOf(bytes)) << "round " << round << ", seed " << kSeed;
  }
}

// Lengths that no test can make: moving by a + b bytes is moving by a, then by b.
TEST(Crc32cTest, CombinesPiecesOfAnyLength) {
  const uint32_t crc = 0x8A9136AA;
  for (const int64_t first : {int64_t{1}, int64_t{1} << 31, (int64_t{1} << 40) + 12345}) {
    for (const int64_t second : {int64_t{0}, int64_t{7}, (int64_t{1} << 61) - 1}) {
      EXPECT_EQ(CombineCrc32c(CombineCrc32c(crc, 0, first), 0, second),
                CombineCrc32c(crc, 0, first + second))
          << first << " and " << second;
    }
  }
}

TEST(Crc32cTest, SeesEverySingleFlippedBit) {
  std::vector<uint8_t> bytes = RandomBytes(257);
  const uint32_t whole = CrcOf(bytes);
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    ASSERT_NE(CrcOf(bytes), whole) << "bit " << bit;
    bytes[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
  }
}

}  // namespace
}  // namespace quantd
