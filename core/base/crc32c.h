#ifndef QUANTD_CORE_BASE_CRC32C_H_
#define QUANTD_CORE_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace quantd {

// Returns the CRC32C (Castagnoli, RFC 3720 appendix B.4) of `bytes`, continuing from `seed`, the
// CRC32C of what came before (0 at the start).
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

// Returns the CRC32C of bytes of CRC32C `first` and then `second_bytes` bytes of CRC32C `second`.
uint32_t CombineCrc32c(uint32_t first, uint32_t second, int64_t second_bytes);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_CRC32C_H_
