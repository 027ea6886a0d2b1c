#ifndef QUANTD_CORE_SCHEME_MX_REF_H_
#define QUANTD_CORE_SCHEME_MX_REF_H_

#include <cstddef>
#include <span>

#include "core/scheme/mx.h"
#include "core/scheme/scheme.h"

namespace quantd {

// The scalar definitions of the MX rows; see Scheme::encode_ref.
void EncodeMxRef(MxElement element, const Resolved&, const Segment&, std::span<std::byte> out,
                 Counts* counts);
void DecodeMxRef(MxElement element, const Resolved&, std::span<const std::byte> packed,
                 const ParamView& params, int64_t first_elem, TileSpan out);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MX_REF_H_
