#ifndef QUANTD_CORE_SCHEME_K_QUANT_REF_H_
#define QUANTD_CORE_SCHEME_K_QUANT_REF_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definitions of the K-quants with minima.
void EncodeQ2KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeQ2KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);
void EncodeQ4KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeQ4KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);
void EncodeQ5KRef(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeQ5KRef(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_K_QUANT_REF_H_
