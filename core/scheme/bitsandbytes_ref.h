#ifndef QUANTD_CORE_SCHEME_BITSANDBYTES_REF_H_
#define QUANTD_CORE_SCHEME_BITSANDBYTES_REF_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definition of bitsandbytes' 4-bit rows; levels are those of the codebook plane.
void EncodeBitsandbytesRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                           Counts* counts);
void DecodeBitsandbytesRef(const Resolved&, std::span<const std::byte> packed,
                           const ParamView& params, int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_BITSANDBYTES_REF_H_
