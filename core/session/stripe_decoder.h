#ifndef QUANTD_CORE_SESSION_STRIPE_DECODER_H_
#define QUANTD_CORE_SESSION_STRIPE_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/base/digest.h"
#include "core/session/planner.h"
#include "core/session/stripes.h"
#include "core/session/tiles.h"

namespace quantd {

// What decoding one stripe adds to digests and frames. May be used again.
struct DecodedStripe {
  DigestPart codes;   // as they came in
  DigestPart values;  // as they go out
  uint32_t crc32c = 0;  // of the values, if wanted
  int64_t saturated = 0;  // values that `dtype` does not hold, and that are its largest instead
};

// Decodes the stripe's `codes` with stored parameters `params` into `values` of `dtype` (f64, f32,
// f16, bf16): tile by tile, in place where a piece has all of a tile's codes.
void DecodeStripe(const Plan& plan, const Stripe& stripe, const ByteRange& codes,
                  const ParamView& params, DType dtype, bool crc, std::span<std::byte> values,
                  DecodedStripe& result);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_STRIPE_DECODER_H_
