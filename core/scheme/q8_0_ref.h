#ifndef QUANTD_CORE_SCHEME_Q8_0_REF_H_
#define QUANTD_CORE_SCHEME_Q8_0_REF_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definition of q8_0.
void EncodeQ8Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                 Counts* counts);
void DecodeQ8Ref(const Resolved&, std::span<const std::byte> codes, const ParamView&,
                 int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_Q8_0_REF_H_
