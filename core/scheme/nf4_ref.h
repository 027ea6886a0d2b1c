#ifndef QUANTD_CORE_SCHEME_NF4_REF_H_
#define QUANTD_CORE_SCHEME_NF4_REF_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definition of nf4.
void EncodeNf4Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeNf4Ref(const Resolved&, std::span<const std::byte> packed, const ParamView& params,
                  int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_NF4_REF_H_
