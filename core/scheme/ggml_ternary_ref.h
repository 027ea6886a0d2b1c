#ifndef QUANTD_CORE_SCHEME_GGML_TERNARY_REF_H_
#define QUANTD_CORE_SCHEME_GGML_TERNARY_REF_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definitions of ggml's ternary formats.
void EncodeTQ1Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeTQ1Ref(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);
void EncodeTQ2Ref(const Resolved&, const Segment& segment, std::span<std::byte> out,
                  Counts* counts);
void DecodeTQ2Ref(const Resolved&, std::span<const std::byte> packed, const ParamView&,
                  int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_GGML_TERNARY_REF_H_
