#ifndef QUANTD_CORE_SESSION_STRIPE_DECODER_H_
#define QUANTD_CORE_SESSION_STRIPE_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/base/digest.h"
#include "core/session/outliers.h"
#include "core/session/planner.h"
#include "core/session/stripes.h"
#include "core/session/tiles.h"

namespace quantd {

// What decoding one stripe adds to digests and frames. May be used again.
struct DecodedStripe {
  DigestPart codes;   // as they came in
  DigestPart values;  // as they go out
  uint32_t crc32c = 0;  // of the values, if wanted
  std::vector<StoredOutlier> outliers;
  absl::Status status;    // of the outliers; an error: values are not all written
  int64_t saturated = 0;  // values that `dtype` does not hold, and that are its largest instead
};

// Replaces `values` that are not finite where those in f64, `wide`, are. Returns how many of these
// f32 does not hold.
int64_t SaturateFloats(const double* wide, int64_t num_elems, float* values);

// Decodes the stripe's `codes` with stored parameters `params`, outliers among them, into `values`
// of `dtype` (f64, f32, f16, bf16): tile by tile, in place where a piece has all of a tile's codes.
void DecodeStripe(const Plan& plan, const Stripe& stripe, const ByteRange& codes,
                  const ParamView& params, DType dtype, bool crc, std::span<std::byte> values,
                  DecodedStripe& result);

}  // namespace quantd

#endif  // QUANTD_CORE_SESSION_STRIPE_DECODER_H_
