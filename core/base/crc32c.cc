#include "core/base/crc32c.h"

#include <isa-l.h>

#include <algorithm>

namespace quantd {

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

}  // namespace quantd
