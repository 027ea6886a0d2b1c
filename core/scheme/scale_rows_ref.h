#ifndef QUANTD_CORE_SCHEME_SCALE_ROWS_REF_H_
#define QUANTD_CORE_SCHEME_SCALE_ROWS_REF_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definitions of the K-quants without minima.
void EncodeQ3KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeQ3KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);
void EncodeQ6KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeQ6KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_SCALE_ROWS_REF_H_
