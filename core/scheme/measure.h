#ifndef QUANTD_CORE_SCHEME_MEASURE_H_
#define QUANTD_CORE_SCHEME_MEASURE_H_

#include <cstddef>
#include <span>

#include "core/scheme/scheme.h"

namespace quantd {

// Adds the values of `segment` and what `decode` gives of its `codes` to `meter`: what `encode` does
// of kernels that do not measure while they encode.
void MeasureDecoded(const Resolved& resolved, decltype(Scheme::decode) decode,
                    const Segment& segment, std::span<const std::byte> codes, Meter& meter);

}  // namespace quantd

#endif  // QUANTD_CORE_SCHEME_MEASURE_H_
