#ifndef QUANTD_CORE_BASE_CRC32C_H_
#define QUANTD_CORE_BASE_CRC32C_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace quantd {

// Returns the CRC32C (Castagnoli, RFC 3720 appendix B.4) of `bytes`, continuing from `seed`, the
// CRC32C of what came before (0 at the start).
uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_CRC32C_H_
