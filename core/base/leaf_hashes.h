#ifndef QUANTD_CORE_BASE_LEAF_HASHES_H_
#define QUANTD_CORE_BASE_LEAF_HASHES_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace quantd {

inline constexpr size_t kLeafBytes = 4096;
using LeafHash = std::array<uint8_t, 16>;  // XXH3-128 in canonical form: big-endian, high half first

// Writes the hashes of `num_leaves` leaves that lie next to each other at `leaves`.
void HashLeaves(const std::byte* leaves, size_t num_leaves, LeafHash* hashes);

}  // namespace quantd

#endif  // QUANTD_CORE_BASE_LEAF_HASHES_H_
