// CRC32C of bytes, by ISA-L, and of pieces put together without their bytes.
//
// A CRC is linear: that of two pieces is that of the first, moved by as many zero bytes as the
// second has, plus (xor) that of the second. Moving by a zero bit multiplies by x modulo the
// polynomial, so moving by n bytes multiplies by x^(8n): the product of at most one x^(8 * 2^k) for
// each bit of n.
//
//   n = 5 bytes = 101b:   CRC * x^(8 * 4) * x^(8 * 1)
//
// That is one multiplication of 32 steps for each bit of n that is set, whatever the length, where
// the CRC itself goes over all bytes. Source: RFC 3720, appendix B.4; ISA-L, crc32_iscsi.
//
// Entries: Crc32c and CombineCrc32c. Tested by tests/core/base/crc32c_test.cc.
#include "core/base/crc32c.h"

#include <isa-l.h>

#include <algorithm>
#include <array>

namespace quantd {
namespace {

// The polynomial without x^32, as CRCs have their bits: x^0 in the highest.
constexpr uint32_t kPolynomial = 0x82F63B78;

// Returns a * b modulo the polynomial.
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kPolynomial : 0);  // * x
  }
  return product;
}

// x^(8 * 2^k).
constexpr std::array<uint32_t, 63> kPowers = [] {
  std::array<uint32_t, 63> powers{};
  uint32_t power = 0x00800000;  // x^8
  for (uint32_t& entry : powers) {
    entry = power;
    power = Multiply(power, power);
  }
  return powers;
}();

}  // namespace

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed) {
  constexpr size_t kMaxStepBytes = size_t{1} << 30;  // crc32_iscsi counts bytes in an int
  uint32_t crc = ~seed;
  while (!bytes.empty()) {
    const size_t step_bytes = std::min(bytes.size(), kMaxStepBytes);
    // ISA-L takes a non-const pointer but only reads.
    auto* data = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(bytes.data()));
    crc = crc32_iscsi(data, static_cast<int>(step_bytes), crc);
    bytes = bytes.subspan(step_bytes);
  }
  return ~crc;
}

uint32_t CombineCrc32c(uint32_t first, uint32_t second, int64_t second_bytes) {
  auto left = static_cast<uint64_t>(second_bytes);
  for (size_t k = 0; left != 0; ++k, left >>= 1) {
    if (left & 1) first = Multiply(first, kPowers[k]);
  }
  return first ^ second;
}

}  // namespace quantd
