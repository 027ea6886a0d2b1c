#ifndef QUANTD_CORE_BASE_PHILOX_H_
#define QUANTD_CORE_BASE_PHILOX_H_

#include <array>
#include <cstdint>
#include <span>

namespace quantd {

// Returns Philox4x32-10 of `counter` under `key`. Source: Salmon et al., "Parallel Random Numbers:
// As Easy as 1, 2, 3", SC 2011, section 4.3.
inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Fills `out` with the 32 random bits of elements first_elem, first_elem + 1, ...: word (i mod 4)
// of Philox with the key `seed`, and the counter i / 4 (two words) and `stream` (two words).
inline void FillNoise(uint64_t seed, uint64_t stream, int64_t first_elem, std::span<uint32_t> out) {
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed),
                                       static_cast<uint32_t>(seed >> 32)};
  std::array<uint32_t, 4> words = {};
  uint64_t block = ~uint64_t{0};
  for (size_t i = 0; i < out.size(); ++i) {
    const uint64_t elem = static_cast<uint64_t>(first_elem) + i;
    if (elem / 4 != block) {
      block = elem / 4;
      words = Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32),
                          static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                         key);
    }
    out[i] = words[elem % 4];
  }
}

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_PHILOX_H_
